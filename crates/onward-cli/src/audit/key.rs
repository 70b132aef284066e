//! `key`: keys of the audit trail. They are files of the user, never rows of a database.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use onward::audit::{read_keyring, save_keyring};
use onward::model::{CheckpointKey, MacKeys};
use onward::random;
use onward_api::chains::{Chain, Chains, Sealed};
use onward_api::client::{Client, Request, segment};
use serde_json::json;

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::{Otherwise, Target};

/// Verbs on keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Draw a key: for audit.key, or another one for audit.signing_key
    #[command(
        before_help = "Examples:\n  (umask 077; onward audit key new > signing.key)\n  (umask 077; onward audit key new > audit.key)      another one, for the MACs\n  onward audit key new | vault kv put secret/onward signing_key=-\n"
    )]
    New,
    /// Add a new key to a keyring, the file of audit.key: it seals what is appended once every server has started with the file
    #[command(
        before_help = "Examples:\n  onward audit key rotate audit.keys      also writes down where each chain is now: the new key seals nothing before\n  onward --url sqlite:./app.db audit key rotate audit.keys --kid 2027\n  onward audit key rotate audit.keys -o json      name and fingerprint, never the key\n", after_help = EXIT_CODES)]
    Rotate {
        /// The keyring; made if it is not there
        keyring: PathBuf,
        /// The name of the new key [default: k1, k2 ..]
        #[arg(long, value_name = "NAME")]
        kid: Option<String>,
        /// Look at no chain: whoever steals the new key can then rewrite what older keys sealed
        #[arg(long)]
        unpinned: bool,
    },
    /// Pin the last entry that an older key may have sealed in each chain; whatever it seals later is a finding
    #[command(
        before_help = "Examples:\n  onward audit key retire audit.keys k1      in every chain that the server shows\n  onward audit key retire audit.keys k1 orders users\n  onward --url sqlite:./app.db audit key retire audit.keys k1\n", after_help = EXIT_CODES)]
    Retire {
        /// The keyring
        keyring: PathBuf,
        /// The older key
        kid: String,
        /// The chains [default: all]
        chains: Vec<String>,
    },
    /// List the keys of a keyring, and where they are retired; never the keys themselves
    #[command(
        before_help = "Examples:\n  onward audit key ls audit.keys\n  onward audit key ls audit.keys -o jsonl\n  onward audit key ls audit.keys -o json\n"
    )]
    Ls {
        /// The keyring
        keyring: PathBuf,
    },
    /// Show the key that checks a chain's checkpoints; give it to whoever verifies
    #[command(
        before_help = "Examples:\n  onward audit key show signing.key --origin onward.local/4b1c/orders\n  onward audit key show signing.key --origin onward.local/4b1c/orders > orders.vkey\n  onward audit key show signing.key --origin onward.local/4b1c/orders -o json\n"
    )]
    Show {
        /// The file of the signing key
        key: PathBuf,
        /// The origin of the chain, as `GET /v1/chains/CHAIN` shows it
        #[arg(long)]
        origin: String,
    },
}

impl Key {
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        match self {
            Self::Rotate { keyring, kid, unpinned } => rotate(target, &keyring, kid, unpinned, out).await,
            Self::Retire { keyring, kid, chains } => {
                let keys = read(&keyring)?;
                let client = target.client(Otherwise::Refuse).await?;
                retire(&client, &keyring, keys, &kid, chains, out).await
            }
            Self::Ls { keyring } => {
                let keys = read(&keyring)?;
                keys.names().try_for_each(|kid| show(&keys, kid, out))
            }
            Self::New => out.line(&random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            Self::Show { key, origin } => {
                let text = std::fs::read_to_string(&key);
                let text = text.map_err(|e| Failure::usage(format_args!("cannot read the key file {}: {e}", key.display())))?;
                out.line(&CheckpointKey::parse(&text)?.vkey(&origin).to_string())
            }
        }
    }
}

fn read(path: &Path) -> Result<MacKeys> {
    read_keyring(path).map_err(|e| Failure::usage(format_args!("cannot use the keyring {}: {e}", path.display())))
}

fn show(keys: &MacKeys, kid: &str, out: &Out) -> Result<()> {
    let retired: Vec<_> = keys.windows(kid).map(|(origin, through)| json!({"origin": origin, "through_seq": through})).collect();
    let begins: Vec<_> = keys.beginnings(kid).map(|(origin, after)| json!({"origin": origin, "after_seq": after})).collect();
    let fingerprint = keys.fingerprint(kid);
    let shown = json!({"kid": kid, "fingerprint": fingerprint, "active": kid == keys.active(), "begins": begins, "retired": retired});
    out.record(shown.to_string().as_bytes())
}

async fn rotate(target: &Target, path: &Path, kid: Option<String>, unpinned: bool, out: &Out) -> Result<()> {
    let keys = if path.exists() { read(path)? } else { MacKeys::none() };
    let fresh = || (1..).map(|number| format!("k{number}")).find(|name| !keys.knows(name)).unwrap_or_default();
    let kid = kid.unwrap_or_else(fresh);
    // Before the first key there was none, and nothing that it could rewrite.
    let sealed = if unpinned || keys.is_empty() { Vec::new() } else { sealed(target, &keys, out).await? };
    let mut keys = keys.rotated(&kid, random::bytes::<32>())?;
    for (origin, head) in sealed {
        keys = keys.begun(&kid, &origin, head)?;
    }
    save_keyring(path, &keys)?;
    out.say(format_args!("start every server with the new file; then retire the older key"));
    show(&keys, &kid, out)
}

/// Lists where chains are now whose newest entry one of these keys sealed.
async fn sealed(target: &Target, keys: &MacKeys, out: &Out) -> Result<Vec<(String, u64)>> {
    let found = async {
        let client = target.client(Otherwise::Refuse).await?;
        let mut sealed = Vec::new();
        for name in all(&client).await? {
            let (chain, newest) = look(&client, &name).await?;
            if keys.knows(&newest.kid) {
                sealed.push((chain.origin, chain.head.seq));
            } else {
                out.warn(format_args!(
                    "none of the keys sealed the newest entry of {name}: where the new key begins there is not written down"
                ));
            }
        }
        Ok(sealed)
    };
    found.await.inspect_err(|_: &Failure| {
        out.warn(format_args!("no key was added: where the chains are now must be written down behind it; --unpinned adds one without"));
    })
}

/// Lists the chains.
async fn all(client: &Client) -> Result<Vec<String>> {
    let (mut chains, mut cursor) = (Vec::new(), None);
    loop {
        let page: Chains = client.call(Request::get("chains").maybe_query("cursor", cursor)).await?.json()?;
        chains.extend(page.items.into_iter().map(|chain| chain.chain));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(chains);
        }
    }
}

/// Reads a chain, and its newest entry.
async fn look(client: &Client, name: &str) -> Result<(Chain, Sealed)> {
    let place = format!("chains/{}", segment(name));
    let chain: Chain = client.call(Request::get(place.clone())).await?.json()?;
    let newest = client.call(Request::get(format!("{place}/entries/{}", chain.head.seq))).await?.json()?;
    Ok((chain, newest))
}

async fn retire(client: &Client, path: &Path, mut keys: MacKeys, kid: &str, mut chains: Vec<String>, out: &Out) -> Result<()> {
    if chains.is_empty() {
        chains = all(client).await?;
    }
    for name in chains {
        let (chain, newest) = look(client, &name).await?;
        if keys.windows(kid).any(|(origin, _)| origin == chain.origin) {
            continue;
        }
        if newest.kid == kid {
            let why = format_args!("the key still seals {name}: start every server with the new file, append something, and come back");
            return Err(Failure::usage(why));
        }
        keys = keys.retired(kid, &chain.origin, chain.head.seq)?;
    }
    save_keyring(path, &keys)?;
    show(&keys, kid, out)
}
