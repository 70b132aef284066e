//! Lists of objects as they were at a revision, and those whose time to live is over.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::commit::{one, prepare};
use super::error::before_commit;
use super::log::{ROWS, before};
use super::rows::{self, col, damaged, signed, unsigned};
use crate::Result;
use crate::commit::engine::{SCAN, Scan};
use crate::model::limits::PAGE_BYTES;
use crate::model::{Key, Object, Revision, Version};
use crate::time::Timestamp;

/// Objects that did not change since, and of those that did, what they were before their first change. Both halves come by name, so that
/// SQLite merges them and stops at the limit. `substr` compares bytes as blobs: every character of a prefix is data.
///
/// The first half goes through all objects of the kind, or through those that the index has for a label.
fn sql(label: Option<(&str, &str)>) -> String {
    let (from, name) = if label.is_some() {
        let join = "onward_labels AS l CROSS JOIN onward_objects AS o ON o.namespace = l.namespace AND o.kind = l.kind AND o.name = l.name
          WHERE l.namespace = ?1 AND l.kind = ?2 AND l.key = ?8 AND l.value = ?9";
        (join, "l.name")
    } else {
        // Both parameters of the label are NULL.
        ("onward_objects AS o WHERE o.namespace = ?1 AND o.kind = ?2 AND ?8 IS ?9", "o.name")
    };
    format!(
        "SELECT o.namespace, o.kind, {name}, o.uid, o.version, o.revision, o.create_revision, o.content_type, o.payload, o.created_at,
           o.updated_at, o.labels, o.expires_at, NULL
         FROM {from} AND {name} > ?3 AND {name} >= ?4 AND o.revision <= ?6
           AND substr(CAST({name} AS BLOB), 1, length(CAST(?4 AS BLOB))) = CAST(?4 AS BLOB)
         UNION ALL
         SELECT namespace, kind, name, NULL, NULL, NULL, NULL, NULL, before_payload, NULL, NULL, NULL, NULL, before_meta
         FROM onward_changes AS later NOT INDEXED
         WHERE id >= ?7 AND namespace = ?1 AND kind = ?2 AND name > ?3 AND name >= ?4 AND before_meta IS NOT NULL
          AND substr(CAST(name AS BLOB), 1, length(CAST(?4 AS BLOB))) = CAST(?4 AS BLOB)
          AND id = (SELECT min(id) FROM onward_changes WHERE namespace = ?1 AND kind = ?2 AND name = later.name AND name IS NOT NULL AND id >= ?7)
         ORDER BY 3 LIMIT ?5"
    )
}

/// Reads a page of objects, and after which name the next one begins.
pub(super) fn list(connection: &Connection, scan: &Scan, at: Revision) -> Result<(Vec<Arc<Object>>, Option<String>)> {
    let Scan { namespace, kind, prefix, selector, after, limit, .. } = scan;
    let label = selector.first_equal();
    let (key, value) = label.unzip();
    // Without a selector every row is an item, or was none at that time.
    let rows = if selector.is_empty() { *limit } else { SCAN };
    let later = at.get().saturating_add(1).saturating_mul(ROWS);
    let mut find = prepare(connection, &sql(label))?;
    let most = signed(rows as u64 + 1)?;
    let mut found =
        find.query(params![namespace, kind, after, prefix, most, signed(at.get())?, signed(later)?, key, value]).map_err(before_commit)?;
    let mut items: Vec<Arc<Object>> = Vec::new();
    let (mut bytes, mut seen, mut last) = (0, 0, None);
    while let Some(row) = found.next().map_err(before_commit)? {
        // A page's bytes bound what is read as well (C7); its first object always fits.
        if items.len() == *limit || bytes >= PAGE_BYTES || seen == rows {
            return Ok((items, last));
        }
        let name: String = col(row, 2)?;
        let object = match col::<Option<String>>(row, 13)? {
            None if selector.selects(&rows::labels(row, 11)?) => Some(Arc::new(rows::object(row)?)),
            None => None,
            past => {
                let past = before(&Key::in_namespace(namespace, kind, &name).map_err(damaged)?, past, col(row, 8)?)?;
                past.filter(|object| selector.selects(&object.meta.labels))
            }
        };
        if let Some(object) = object {
            bytes += object.value.bytes().len();
            items.push(object);
        }
        seen += 1;
        last = Some(name);
    }
    Ok((items, None))
}

/// Reads which objects' time to live is over, the earliest first.
pub(super) fn due(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<(Key, Version)>> {
    let mut find = prepare(
        connection,
        "SELECT namespace, kind, name, version FROM onward_objects WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
    )?;
    let mut found = find.query(params![now.as_micros(), signed(limit as u64)?]).map_err(before_commit)?;
    let mut due = Vec::new();
    while let Some(row) = found.next().map_err(before_commit)? {
        let (namespace, kind, name): (String, String, String) = (col(row, 0)?, col(row, 1)?, col(row, 2)?);
        let key = Key::in_namespace(&namespace, &kind, &name).map_err(damaged)?;
        due.push((key, Version::new(unsigned(col(row, 3)?)?).map_err(damaged)?));
    }
    Ok(due)
}

/// Finds the first namespace and kind after the given ones; a step in two indexes, however many objects there are.
pub(super) fn next_kind(connection: &Connection, namespace: &str, kind: &str) -> Result<Option<(String, String)>> {
    let mut find = prepare(
        connection,
        "SELECT * FROM (SELECT namespace, kind FROM onward_objects WHERE (namespace, kind) > (?1, ?2) ORDER BY namespace, kind LIMIT 1)
         UNION
         SELECT * FROM (SELECT namespace, kind FROM onward_changes INDEXED BY onward_changes_of_key
                        WHERE name IS NOT NULL AND (namespace, kind) > (?1, ?2) ORDER BY namespace, kind LIMIT 1)
         ORDER BY 1, 2 LIMIT 1",
    )?;
    one(&mut find, params![namespace, kind], |row| Ok((col(row, 0)?, col(row, 1)?)))
}
