//! The worked example of the format, as rows that nobody but SQL wrote: every engine reads it, byte for byte.

use onward::audit::verify::{Check, Verdict};
use onward::model::{Hash, MacKeys};
use onward::testing::servers::Postgres;
use onward::{Config, Onward};

const ORIGIN: &str = "onward.example/audit/orders";
const GENESIS: &str = "f1b68579544b877437921c745fbbb63d9394322bea4b60560e9b974b71cf12df";
const FIRST: &str = "053fc9deca9580cb177b40142af537b6c674f4f47f53fa77448029247cb6abec";
const SECOND: &str = "9a2bda567bf52732bee0ebc63a7b4d6ddf8a8b61ed6a3eb2c698487cecc7d815";
const MACS: [&str; 2] = [
    "c7c4d5d80f2641dcbf787c29522880448660864d7c5a315097acd31d514bca95",
    "9d66f49c07833dc1d34c8a53dad0b53e3f55e7bd72b4c47d12da4d46cb082618",
];
const ROOT: &str = "37f1b03a7d0079808491291b3b879a4f696f0e594dd39b86523191f70b8ff002";

/// The statements, with `{hex}` for bytes.
fn rows(bytes: impl Fn(&str) -> String) -> String {
    let text = |text: &str| bytes(&text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    let created = text(r#"{"alg":"sha256","nonce":"000102030405060708090a0b0c0d0e0f","origin":"onward.example/audit/orders","v":1}"#);
    let refund = text(r#"{"amount":9.5,"note":"remboursé","order":42}"#);
    let [genesis, first, second, root] = [GENESIS, FIRST, SECOND, ROOT].map(&bytes);
    let [mac1, mac2] = MACS.map(&bytes);
    format!(
        "INSERT INTO onward_chains (name, origin, created_at) VALUES ('orders', '{ORIGIN}', 0);
         INSERT INTO onward_heads (chain, seq, hash, frontier, at) SELECT id, 2, {second}, {root}, 1760000000123456 FROM onward_chains;
         INSERT INTO onward_entries (chain, seq, prev, hash, mac, kid, at, event_id, kind, data, flags)
           SELECT id, 1, {genesis}, {first}, {mac1}, 'k1', 1760000000000000, 'created', 'chain.created', {created}, 1 FROM onward_chains;
         INSERT INTO onward_entries (chain, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags)
           SELECT id, 2, {first}, {second}, {mac2}, 'k1', 1760000000123456, '01JA0000-refund-42', 'order.refund', 'user:7', 'order:42',
             {refund}, 6 FROM onward_chains"
    )
}

fn config(url: &str) -> Config {
    let key: Vec<u8> = (0..32).collect();
    Config::new(url).with_keys(MacKeys::one("k1", key.try_into().unwrap()).unwrap())
}

async fn is_golden(onward: &Onward) {
    let chain = onward.audit().chain("orders").unwrap();
    let report = chain.verify(Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.authenticated, report.rows_hashed, report.exit()), (Verdict::Ok, true, 2, 0), "{report}");
    assert_eq!(report.root.unwrap().to_string(), ROOT);
    let head = chain.head().await.unwrap().unwrap();
    assert_eq!((head.origin.as_ref(), head.hash.to_string(), head.frontier.root()), (ORIGIN, SECOND.to_owned(), report.root.unwrap()));
    let second = chain.get(head.seq).await.unwrap();
    assert_eq!((second.hash, second.compute_hash(ORIGIN)), (head.hash, head.hash));
    assert_ne!(second.hash, Hash::from_bytes([0; 32]));
}

#[tokio::test]
async fn the_golden_vector_holds_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden.db");
    let url = format!("sqlite:{}", path.display());
    drop(Onward::connect(config(&url)).await.unwrap());
    rusqlite::Connection::open(&path).unwrap().execute_batch(&rows(|hex| format!("x'{hex}'"))).unwrap();
    is_golden(&Onward::connect(config(&url)).await.unwrap()).await;
}

#[tokio::test]
async fn the_golden_vector_holds_on_postgres() {
    let url = Postgres::shared().schema().await;
    let onward = Onward::connect(config(&url)).await.unwrap();
    Postgres::run_at(&url, &rows(|hex| format!("'\\x{hex}'::bytea"))).await;
    is_golden(&onward).await;
}
