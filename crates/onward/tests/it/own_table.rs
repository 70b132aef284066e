//! Compare-and-swap on a table of the application's own, and a lock inside its transaction.

use std::time::Duration;

use onward::Kind;
use onward::engine::postgres::{OwnTable, Swap, advisory_xact};
use onward::model::{LockKey, Version};
use onward::testing::servers::Postgres;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

async fn projects(client: &mut Client) -> OwnTable {
    let rows = "CREATE TABLE projects (id bigint PRIMARY KEY, name text NOT NULL, hits bigint NOT NULL DEFAULT 0);
                INSERT INTO projects SELECT n, 'p' || n FROM generate_series(1, 3) n";
    client.batch_execute(rows).await.unwrap();
    let table = OwnTable::new("projects", &["id"]).unwrap();
    table.adopt(client).await.unwrap();
    table
}

async fn version(table: &OwnTable, client: &Client, id: i64) -> Version {
    table.read(client, &[&id]).await.unwrap().unwrap().version
}

#[tokio::test]
async fn rows_that_were_there_have_version_1_and_a_write_names_it() {
    let (_server, mut client) = connect().await;
    let table = projects(&mut client).await;
    assert_eq!(version(&table, &client, 1).await.get(), 1);

    let Swap::Done(written) = table.update(&client, &[&1_i64], Version::new(1).unwrap(), &[("name", &"new")]).await.unwrap() else {
        panic!("nobody else wrote")
    };
    let read = table.read(&client, &[&1_i64]).await.unwrap().unwrap();
    assert_eq!((read.version, read.row.get::<_, &str>("name")), (written, "new"));
    assert!(written.get() > 1);
    assert_eq!(version(&table, &client, 2).await.get(), 1, "only that row changed");
}

#[tokio::test]
async fn a_late_write_changes_nothing_and_is_shown_the_row() {
    let (_server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let read = version(&table, &client, 1).await;
    let Swap::Done(first) = table.update(&client, &[&1_i64], read, &[("name", &"first")]).await.unwrap() else { panic!() };

    let Swap::Stale(now) = table.update(&client, &[&1_i64], read, &[("name", &"late")]).await.unwrap() else { panic!("it is late") };
    assert_eq!((now.version, now.row.get::<_, &str>("name")), (first, "first"));
    let Swap::Stale(_) = table.delete(&client, &[&1_i64], read).await.unwrap() else { panic!("it is late") };
    let Swap::Done(_) = table.delete(&client, &[&1_i64], first).await.unwrap() else { panic!("it is the newest") };
    assert!(matches!(table.update(&client, &[&1_i64], first, &[("name", &"gone")]).await.unwrap(), Swap::Missing));
    assert!(matches!(table.delete(&client, &[&9_i64], first).await.unwrap(), Swap::Missing));
}

#[tokio::test]
async fn code_that_knows_no_versions_cannot_change_a_row_unseen() {
    let (_server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let read = version(&table, &client, 1).await;
    client.execute("UPDATE projects SET name = 'foreign' WHERE id = 1", &[]).await.unwrap();
    let Swap::Stale(now) = table.update(&client, &[&1_i64], read, &[("name", &"mine")]).await.unwrap() else { panic!("a foreign write") };
    assert_eq!(now.row.get::<_, &str>("name"), "foreign");

    // Not even one that says which version it wants.
    client.execute("UPDATE projects SET name = 'foreign', version = 1 WHERE id = 1", &[]).await.unwrap();
    assert!(version(&table, &client, 1).await > now.version);
}

#[tokio::test]
async fn a_version_never_comes_back_after_a_delete() {
    let (_server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let before = version(&table, &client, 2).await;
    client.batch_execute("DELETE FROM projects WHERE id = 2; INSERT INTO projects (id, name) VALUES (2, 'again')").await.unwrap();
    assert!(version(&table, &client, 2).await > before);
    assert!(matches!(table.update(&client, &[&2_i64], before, &[("name", &"late")]).await.unwrap(), Swap::Stale(_)));
}

#[tokio::test]
async fn of_many_writers_none_loses_a_count() {
    let (server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (table, server) = (table.clone(), server.clone());
            tokio::spawn(async move {
                let client = another(&server).await;
                for _ in 0..25 {
                    let mut read = table.read(&client, &[&1_i64]).await.unwrap().unwrap();
                    loop {
                        let hits = read.row.get::<_, i64>("hits") + 1;
                        match table.update(&client, &[&1_i64], read.version, &[("hits", &hits)]).await.unwrap() {
                            Swap::Done(_) => break,
                            // The row in the answer is what the next try needs.
                            Swap::Stale(now) => read = *now,
                            Swap::Missing => panic!("nobody deletes"),
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let read = table.read(&client, &[&1_i64]).await.unwrap().unwrap();
    assert_eq!(read.row.get::<_, i64>("hits"), 200);
}

#[tokio::test]
async fn adopting_twice_or_at_once_is_adopting_once() {
    let (server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let Swap::Done(written) = table.update(&client, &[&1_i64], Version::new(1).unwrap(), &[("hits", &5_i64)]).await.unwrap() else {
        panic!()
    };
    let mut second = another(&server).await;
    let (one, two) = tokio::join!(table.adopt(&mut client), table.adopt(&mut second));
    one.unwrap();
    two.unwrap();
    assert_eq!(version(&table, &client, 1).await, written);
    assert!(matches!(table.update(&client, &[&1_i64], written, &[("hits", &6_i64)]).await.unwrap(), Swap::Done(next) if next > written));
}

#[tokio::test]
async fn versions_that_a_table_has_already_go_on() {
    let mut client = another(&Postgres::shared().database().await).await;
    client
        .batch_execute("CREATE TABLE \"Odd \"\"Name\" (a text, b int, v bigint NOT NULL, PRIMARY KEY (a, b)); INSERT INTO \"Odd \"\"Name\" VALUES ('x', 1, 40)")
        .await
        .unwrap();
    let table = OwnTable::new("public.Odd \"Name", &["b", "a"]).unwrap().with_column("v").unwrap();
    table.adopt(&mut client).await.unwrap();
    let read = table.read(&client, &[&1_i32, &"x"]).await.unwrap().unwrap();
    assert_eq!(read.version.get(), 40);
    let Swap::Done(next) = table.delete(&client, &[&1_i32, &"x"], read.version).await.unwrap() else { panic!() };
    assert_eq!(next.get(), 40, "the version that was deleted");
    client.batch_execute("INSERT INTO \"Odd \"\"Name\" VALUES ('x', 1, 1)").await.unwrap();
    assert!(table.read(&client, &[&1_i32, &"x"]).await.unwrap().unwrap().version.get() > 40);
}

#[tokio::test]
async fn a_write_of_the_callers_transaction_lands_with_it() {
    let (_server, mut client) = connect().await;
    let table = projects(&mut client).await;
    let read = version(&table, &client, 1).await;
    let tx = client.transaction().await.unwrap();
    assert!(matches!(table.update(&tx, &[&1_i64], read, &[("name", &"undone")]).await.unwrap(), Swap::Done(_)));
    tx.rollback().await.unwrap();
    assert_eq!(version(&table, &client, 1).await, read);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let (server, mut client) = connect().await;
    let kind = |result: onward::Result<()>| result.unwrap_err().kind();
    assert_eq!(OwnTable::new("t", &[]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(OwnTable::new("a.b.c", &["id"]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(OwnTable::new(&"x".repeat(64), &["id"]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(kind(OwnTable::new("nowhere", &["id"]).unwrap().adopt(&mut client).await), Kind::NotFound);

    let table = projects(&mut client).await;
    assert_eq!(kind(OwnTable::new("projects", &["name"]).unwrap().adopt(&mut client).await), Kind::Invalid, "no unique key");
    assert_eq!(kind(OwnTable::new("projects", &["id"]).unwrap().with_column("name").unwrap().adopt(&mut client).await), Kind::Invalid);
    let one = Version::new(1).unwrap();
    let key: i64 = 1;
    let bad: [&[(&str, &(dyn ToSql + Sync))]; 3] = [&[], &[("version", &7_i64)], &[("hits", &1_i64), ("hits", &2_i64)]];
    for columns in bad {
        assert_eq!(table.update(&client, &[&key], one, columns).await.unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(table.update(&client, &[&key, &key], one, &[("hits", &1_i64)]).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(version(&table, &client, 1).await, one, "nothing was written");

    // While somebody uses the table for long, its change gives up instead of making everybody wait.
    let mut other = another(&server).await;
    let user = other.transaction().await.unwrap();
    user.query("SELECT FROM projects", &[]).await.unwrap();
    assert_eq!(kind(table.adopt(&mut client).await), Kind::Overloaded);
}

#[tokio::test]
async fn a_transactions_lock_excludes_and_ends_with_it() {
    let (server, mut client) = connect().await;
    let (key, other_key) = (LockKey::raw("job").unwrap(), LockKey::raw("other").unwrap());
    let mut second = another(&server).await;
    let mut holder = client.transaction().await.unwrap();
    advisory_xact(&mut holder, &key, Duration::ZERO).await.unwrap();
    advisory_xact(&mut holder, &key, Duration::from_millis(5)).await.unwrap();

    let mut waiter = second.transaction().await.unwrap();
    waiter.batch_execute("SET LOCAL lock_timeout = 7777; CREATE TEMP TABLE mine (n int)").await.unwrap();
    for wait in [Duration::ZERO, Duration::from_millis(20)] {
        assert_eq!(advisory_xact(&mut waiter, &key, wait).await.unwrap_err().kind(), Kind::Contended);
    }
    advisory_xact(&mut waiter, &other_key, Duration::from_millis(20)).await.unwrap();
    let timeout: String = waiter.query_one("SHOW lock_timeout", &[]).await.unwrap().get(0);
    assert_eq!(timeout, "7777ms", "the caller's own setting and work are as they were");
    waiter.execute("INSERT INTO mine VALUES (1)", &[]).await.unwrap();

    holder.rollback().await.unwrap();
    advisory_xact(&mut waiter, &key, Duration::from_secs(5)).await.unwrap();
    assert_eq!(advisory_xact(&mut waiter, &key, Duration::from_secs(86_401)).await.unwrap_err().kind(), Kind::Invalid);
    waiter.commit().await.unwrap();
}

/// A place of the test's own, and a connection to it.
async fn connect() -> (String, Client) {
    let url = Postgres::shared().schema().await;
    let client = another(&url).await;
    (url, client)
}

async fn another(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
