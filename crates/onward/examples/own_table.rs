//! Compare-and-swap on a table that is there already. `cargo run -p onward --example own_table`; `DATABASE_URL` names an empty database of
//! yours, else a private server is started and thrown away.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "an example shows what happens")]

use onward::engine::postgres::{OwnTable, Swap};
use onward::model::Version;
use onward::testing::servers::Postgres;
use tokio_postgres::{Client, NoTls};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let private = std::env::var_os("DATABASE_URL").is_none().then(Postgres::start);
    let url = private.as_ref().map_or_else(|| std::env::var("DATABASE_URL").unwrap_or_default(), Postgres::url);
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE invoices (id bigint PRIMARY KEY, state text NOT NULL); INSERT INTO invoices VALUES (7, 'open')")
        .await?;

    // Once, in a migration; harmless to repeat.
    let invoices = OwnTable::new("invoices", &["id"])?;
    invoices.adopt(&mut client).await?;
    let read = invoices.read(&client, &[&7_i64]).await?.ok_or("no such invoice")?;
    assert_eq!(read.version, Version::new(1)?, "rows that were there have version 1");

    // While this program thinks, another one writes, and has never heard of versions.
    client.execute("UPDATE invoices SET state = 'paid' WHERE id = 7", &[]).await?;

    // So this write is refused, and shows what it would have erased: the next try needs no read.
    let Swap::Stale(now) = invoices.update(&client, &[&7_i64], read.version, &[("state", &"cancelled")]).await? else {
        panic!("a write on stale knowledge landed")
    };
    println!("refused: the invoice is {} by now, version {}", now.row.get::<_, &str>("state"), now.version);
    assert_eq!(now.row.get::<_, &str>("state"), "paid");

    // With more rows in one transaction of the application's own: all or nothing.
    let tx = client.transaction().await?;
    let refund = invoices.update(&tx, &[&7_i64], now.version, &[("state", &"refunded")]).await?;
    tx.execute("INSERT INTO invoices VALUES (8, 'credit note')", &[]).await?;
    tx.commit().await?;
    assert!(matches!(refund, Swap::Done(version) if version > now.version));
    show(&client).await
}

async fn show(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    for row in client.query("SELECT id, state, version FROM invoices ORDER BY id", &[]).await? {
        println!("invoice {}: {}, version {}", row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, i64>(2));
    }
    Ok(())
}
