//! The engine: good input from the corpus, spoilt a little, over and over.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use onward::time::Clock;

/// How many inputs a target gets in the run of every day.
const INPUTS: u64 = 5_000;
/// The longest that this may take.
const SHORT: Duration = Duration::from_secs(2);
/// Asks for a long run: so many seconds a target, from another seed each time.
const SECONDS: &str = "ONWARD_FUZZ_SECONDS";
/// The seed of a run; printed by each.
const SEED: &str = "ONWARD_FUZZ_SEED";
/// Longest input.
const LONGEST: usize = 1 << 16;

/// Pieces that parsers care for.
const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "01",
    "9007199254740991",
    "9007199254740992",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "1E-2",
    "0.1",
    "-0",
    "NaN",
    "true",
    "false",
    "null",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\udc00\\ud800",
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "/",
    "//",
    "~0",
    "~1",
    "~2",
    "%",
    "%00",
    "%2F",
    "%ff",
    "%F0%9F%98%80",
    "+",
    "&",
    "=",
    "?",
    "#",
    "..",
    ".",
    "\0",
    "\r\n",
    "\n\n",
    "\n",
    "\u{7f}",
    "\u{feff}",
    "\u{202e}",
    "é",
    "e\u{301}",
    "😀",
    " ",
    "\t",
    "_",
    "-",
    "onward.",
    "default",
    "lock:",
    "*",
    "W/",
    "data:",
    "event:",
    "id:",
    "retry:",
    "ms",
    "s",
    "d",
    "[[tokens]]",
    "'''",
    "\"\"\"",
];

/// A generator of numbers that a seed replays.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The committed inputs of a target.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Spoils an input in a few places.
pub(crate) fn spoil(input: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let end = (at + dice.below(12)).min(input.len());
        match dice.below(9) {
            0 | 1 => {
                let word = WORDS[dice.below(WORDS.len())].as_bytes();
                input.splice(at..at, word.iter().copied());
            }
            2 => {
                let word = WORDS[dice.below(WORDS.len())].as_bytes();
                input.splice(at..end, word.iter().copied());
            }
            3 if at < input.len() => input[at] ^= 1 << dice.below(8),
            4 if at < input.len() => input[at] = dice.next().to_le_bytes()[0],
            5 => drop(input.drain(at..end)),
            6 => {
                let piece = input[at..end].to_vec();
                let times = 1 + dice.below(40);
                input.splice(at..at, piece.repeat(times));
            }
            7 => {
                let other = &others[dice.below(others.len())];
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LONGEST);
}

/// Gives a target all of its corpus, then spoilt input; a panic shows the input, and in a long run is kept as one of the corpus.
pub(crate) fn fuzz(target: &str, run: impl FnMut(&[u8])) {
    fuzz_and(true, target, run);
}

fn fuzz_and(keep: bool, target: &str, mut run: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let clock = Clock::system();
    let long = number(SECONDS);
    let seed = number(SEED).unwrap_or_else(|| if long.is_some() { clock.now().as_nanos() } else { 1 });
    let corpus = corpus(target);
    let mut feed = |input: &[u8]| {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| run(input))) {
            if long.is_some() && keep {
                std::fs::write(folder(target).join(format!("found-{seed}")), input).unwrap();
            }
            println!("{target}, seed {seed}, input: {:?}", String::from_utf8_lossy(input));
            std::panic::resume_unwind(panic);
        }
    };
    for input in &corpus {
        feed(input);
    }
    let mut dice = Dice::new(seed);
    let end = clock.now() + long.map_or(SHORT, Duration::from_secs);
    let mut count = 0;
    while clock.now() < end && (long.is_some() || count < INPUTS) {
        let mut input = corpus[dice.below(corpus.len())].clone();
        spoil(&mut input, &corpus, &mut dice);
        feed(&input);
        count += 1;
    }
    println!("{target}: {count} inputs, seed {seed}");
    assert!(count > 50, "{target}: only {count} inputs in the time there is");
}

#[test]
#[should_panic(expected = "the parser is broken")]
fn a_parser_that_panics_is_found() {
    fuzz_and(false, "numbers", |input| assert!(!input.windows(2).any(|pair| pair == b"%2"), "the parser is broken"));
}
