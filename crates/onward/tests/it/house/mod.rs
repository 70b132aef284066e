//! The house rules that a machine can keep: rooms, failures, sizes, sources of time and chance, words, and a true map.
//!
//! Each rule is a pure function over sources, so that a planted fault shows that it can fail.

mod rules;
mod source;

use rules::{dead_links, engines, escapes, gone, long, places, rooms, strays, unlisted};
use source::{Source, project};

/// Fails with every breach, one a line.
#[track_caller]
fn none(rule: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn each_room_uses_only_rooms_below_it() {
    none("a room uses one above it, or a neighbour (ARCHITECTURE.md, the rooms)", rooms(&project()));
}

#[test]
fn the_server_and_the_command_line_name_no_engine() {
    none("ask the library through its parts", engines(&project()));
}

#[test]
fn production_code_has_no_way_to_panic() {
    none("return an error instead", escapes(&project()));
}

#[test]
fn no_source_file_is_above_700_lines() {
    none("split the file by what it owns", long(&project()));
}

#[test]
fn time_sleep_and_chance_come_from_one_module_each() {
    none("go through time.rs, retry.rs or random.rs", strays(&project()));
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    none("a path of one machine", places(&project()));
}

#[test]
fn the_map_names_only_what_exists() {
    none("ARCHITECTURE.md or docs/ name something that is gone", gone(&project()));
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    none("a link to nothing", dead_links(&project()));
}

#[test]
fn every_conformance_case_is_listed_for_the_engines() {
    none("add the case to the list of its macro, or it never runs", unlisted(&project()));
}

fn planted(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn a_room_that_looks_up_is_found_however_it_is_written() {
    let library = "crates/onward/src";
    for (file, text) in [
        ("commit/queue.rs", "use crate::store::Store;"),
        ("commit/queue.rs", "use crate::{\n    Error,\n    store::{List, Store},\n};"),
        ("commit/queue.rs", "fn f() -> crate::engine::memory::MemoryStore { todo() }"),
        ("commit/queue.rs", "use super::super::lock::Grant;"),
        ("model/key.rs", "use crate::time::Clock;"),
        ("model/key.rs", "use crate::random;"),
        ("lock/grant.rs", "use crate::store::Store;"),
        ("store/handle.rs", "use crate::Onward;"),
        ("audit/chain.rs", "use crate::engine::sqlite::SqliteStore;"),
        ("engine/sqlite/commit.rs", "use crate::engine::memory::MemoryStore;"),
        ("engine/sqlite/commit.rs", "use super::super::memory::MemoryStore;"),
        ("attic.rs", "use crate::model::Key;"),
    ] {
        assert_eq!(rooms(&planted(&format!("{library}/{file}"), text)).len(), 1, "{file}: {text}");
    }
    for (file, text) in [
        ("commit/queue.rs", "// use crate::store::Store;\nuse super::outcome::Receipt; use crate::{Error, Result, model::Key};"),
        ("commit/queue.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}"),
        ("commit/tests.rs", "use crate::store::Store;"),
        ("engine/sqlite/commit.rs", "use super::error::at_commit; use super::{log, migrate}; use crate::lock::LockEngine;"),
        ("testing/store.rs", "use crate::Onward;"),
    ] {
        none(text, rooms(&planted(&format!("{library}/{file}"), text)));
    }
}

#[test]
fn an_engine_in_the_server_is_found() {
    let text = "use onward::engine::memory::MemoryStore;";
    assert_eq!(engines(&planted("crates/onward-server/src/routes.rs", text)).len(), 1);
    none("the library may", engines(&planted("crates/onward/src/open/engines.rs", text)));
    none("a handle may", engines(&planted("crates/onward-server/src/routes.rs", "store.queue().engine().meta()")));
}

#[test]
fn a_panic_in_production_code_is_found() {
    let file = "crates/onward-server/src/route.rs";
    for text in ["x.unwrap();", "x\n    .expect(\"it is there\")", "panic!(\"no\")", "todo!()", "unreachable!()", "unimplemented!()"] {
        assert_eq!(escapes(&planted(file, text)).len(), 1, "{text}");
    }
    for text in ["// x.unwrap()", "x.unwrap_or(1)", "let s = \"panic!\";", "#[cfg(test)]\nmod tests {\n x.unwrap();\n}", "r#\"todo!()\"#"] {
        none(text, escapes(&planted(file, text)));
    }
    none("tests may", escapes(&planted("crates/onward/tests/it/store.rs", "x.unwrap();")));
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(long(&planted("crates/onward/src/a.rs", &"\n".repeat(701))).len(), 1);
    none("700 lines", long(&planted("crates/onward/src/a.rs", &"\n".repeat(700))));
}

#[test]
fn a_stray_clock_sleep_or_generator_is_found() {
    for text in
        ["std::time::SystemTime::now()", "Instant::now()", "use tokio::time::sleep;", "std::thread::sleep(x)", "getrandom::fill(&mut x)"]
    {
        assert_eq!(strays(&planted("crates/onward/src/lock/grant.rs", text)).len(), 1, "{text}");
    }
    none("its home", strays(&planted("crates/onward/src/time.rs", "SystemTime::now()")));
    assert_eq!(strays(&planted("crates/onward/src/time.rs", "getrandom::fill(&mut x)")).len(), 1);
    none("the module's own", strays(&planted("crates/onward/src/lock/grant.rs", "retry::sleep(clock, d); clock.now()")));
}

#[test]
fn a_place_on_one_machine_is_found() {
    for place in [concat!("see /ho", "me/ann/x"), concat!("(/ro", "ot/.cargo)"), concat!("`/wo", "rk/main`")] {
        assert_eq!(places(&planted("README.md", place)).len(), 1, "{place}");
    }
    none("a relative path", places(&planted("README.md", concat!("docs/ho", "me/x"))));
}

#[test]
fn a_map_to_what_is_gone_is_found() {
    let mut sources = planted("ARCHITECTURE.md", "`crates/onward/src/a.rs` keeps it; `crates/onward/src/a.rs::it_holds`; `b::gone`");
    assert_eq!(gone(&sources).len(), 2);
    sources.extend(planted("crates/onward/src/a.rs", "fn it_holds_well() {}"));
    assert_eq!(gone(&sources).len(), 1);
    sources.extend(planted("crates/onward/src/a.rs", "fn it_holds() {}"));
    none("all there", gone(&sources));
}

#[test]
fn a_case_that_no_macro_lists_is_found() {
    let case = "\npub async fn it_holds(harness: &Harness) {}";
    let file = "crates/onward/src/testing/store.rs";
    assert_eq!(unlisted(&planted(file, case)).len(), 1);
    assert_eq!(unlisted(&planted(file, &format!("// it_holds{case} fn it_holds_not() {{}}"))).len(), 1);
    none("listed", unlisted(&planted(file, &format!("{case} list! {{ a it_holds b }}"))));
    none("no case", unlisted(&planted(file, "\npub async fn open(clock: Clock) -> Harness {}")));
}

#[test]
fn a_link_to_nothing_is_found() {
    let mut sources = planted("docs/a.md", "[b](b.md#x), [c](design/), [d](https://example.org/d), [e](#e)");
    assert_eq!(dead_links(&sources).len(), 2);
    sources.extend(planted("docs/b.md", ""));
    sources.extend(planted("docs/design/c.md", ""));
    none("all there", dead_links(&sources));
}
