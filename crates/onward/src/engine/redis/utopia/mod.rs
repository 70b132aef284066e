//! The keys of the namespace `default` shared with utopia-php/cache on one Redis: a purge by either side ends what both have stored under
//! the key, and their fills in flight.
//!
//! PHP keeps one hash a key, with a generation in the field `__utopia_gen__` that each of its purges moves. Shared are purges and
//! generations, not values: ours lie beside the hash as ever, under an epoch that is mixed with the generation
//! ([0027](../../../../../../docs/design/0027-purges-are-shared-with-php-values-are-not.md)). Refuses a cluster, and to keep a value as stale on demand.

use redis::Value;

use super::cache_steps::Act;
use super::script::{Script, script};

static RESERVE: Script = script!(
    "../../scripts/cache.lua",
    "shared.lua",
    "begin.lua",
    "../../scripts/cache_reserve_free.lua",
    "../../scripts/cache_entry.lua",
    "../../scripts/cache_reserve.lua"
);
static COMMIT: Script = script!(
    "../../scripts/cache.lua",
    "shared.lua",
    "../../scripts/cache_commit_plain.lua",
    "../../scripts/cache_entry.lua",
    "../../scripts/cache_commit.lua"
);
static ABANDON: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_abandon.lua");
static PURGE: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_entry.lua", "../../scripts/cache_purge.lua");
static EXPIRE: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_entry.lua", "../../scripts/cache_expire.lua");
static TOUCH: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_entry.lua", "../../scripts/cache_touch.lua");
static LIST: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_entry.lua", "../../scripts/cache_list.lua");
static GUARDED: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_guarded.lua");
static COUNT: Script = script!("../../scripts/cache.lua", "shared.lua", "../../scripts/cache_entry.lua", "../../scripts/cache_count.lua");

/// The field of PHP's generation.
pub(super) const GENERATION: &str = "__utopia_gen__";
/// Seeds are the server's clock in microseconds and a random number below this: exact in a double for two hundred years.
pub(super) const SEED_BELOW: u64 = 1_000_000_000_000_000;

/// The namespace whose keys PHP knows; others are ours alone.
const NAMESPACE: &str = "default";

/// Tells whether the keys of a namespace are shared.
pub(super) fn is_shared(namespace: &str) -> bool {
    namespace == NAMESPACE
}

/// Returns the script of a step on a shared key.
pub(super) fn script_of(act: Act) -> &'static Script {
    match act {
        Act::Reserve => &RESERVE,
        Act::Commit => &COMMIT,
        Act::Abandon => &ABANDON,
        Act::Purge => &PURGE,
        Act::Expire => &EXPIRE,
        Act::Touch => &TOUCH,
        Act::List => &LIST,
        Act::Guarded => &GUARDED,
        Act::Count => &COUNT,
    }
}

/// Mixes an epoch with the generation that PHP's hash has, as the scripts do; without a sound generation nothing is live.
pub(super) fn mixed(epoch: &[u8], generation: &Value) -> Option<[u8; 8]> {
    let Value::BulkString(digits) = generation else { return None };
    let digits: &[u8; 16] = digits.as_slice().try_into().ok()?;
    if !(b'1'..=b'8').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut mixed: [u8; 8] = epoch.try_into().ok()?;
    for (byte, pair) in mixed.iter_mut().zip(digits.chunks_exact(2)) {
        let number = pair.iter().fold(0_u8, |number, digit| number * 10 + (digit - b'0'));
        *byte = byte.wrapping_add(number);
    }
    Some(mixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Layout;

    fn generation(digits: &str) -> Value {
        Value::BulkString(digits.into())
    }

    #[test]
    fn each_sound_generation_gives_an_epoch_of_its_own() {
        let one = mixed(b"\xffEPOCHEP", &generation("1760000000000001")).unwrap();
        assert_eq!(one, *b"\x10\x81POCHEQ");
        assert_ne!(mixed(b"\xffEPOCHEP", &generation("1760000000000002")), Some(one));
        assert_ne!(mixed(b"\xfeEPOCHEP", &generation("1760000000000001")), Some(one));
    }

    #[test]
    fn nothing_is_live_under_a_generation_that_may_come_again() {
        for digits in ["", "0", "1", "999999999999999", "9000000000000000", "17600000000000000", "176000000000000x", "-760000000000001"] {
            assert_eq!(mixed(b"EPOCHEPO", &generation(digits)), None, "{digits}");
        }
        assert_eq!(mixed(b"EPOCHEPO", &Value::Nil), None);
        assert_eq!(mixed(b"short", &generation("1760000000000001")), None);
    }

    #[test]
    fn only_ascii_letters_are_folded_if_any_are() {
        let name = |layout: Layout| layout.name_in_php("Projekt:ÄB".as_bytes()).map(std::borrow::Cow::into_owned);
        assert_eq!(name(Layout::Utopia), Some("projekt:Äb".into()));
        assert_eq!(name(Layout::UtopiaCaseSensitive), Some("Projekt:ÄB".into()));
        assert_eq!(name(Layout::Onward), None);
    }
}
