//! Lists of objects as they were at a revision.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::commit::{one, prepare};
use super::error::before_commit;
use super::log::before;
use super::rows::{self, col, damaged, signed};
use crate::Result;
use crate::model::limits::PAGE_BYTES;
use crate::model::{Key, Object, Revision};

/// Objects that did not change since, and of those that did, what they were before their first change. Both halves come by name, so that
/// SQLite merges them and stops at the limit. `substr` compares bytes as blobs: every character of a prefix is data.
const AT: &str =
    "SELECT namespace, kind, name, uid, version, revision, create_revision, content_type, payload, created_at, updated_at, NULL
 FROM onward_objects WHERE namespace = ?1 AND kind = ?2 AND name > ?3 AND name >= ?4 AND revision <= ?6
  AND substr(CAST(name AS BLOB), 1, length(CAST(?4 AS BLOB))) = CAST(?4 AS BLOB)
 UNION ALL
 SELECT namespace, kind, name, NULL, NULL, NULL, NULL, NULL, before_payload, NULL, NULL, before_meta
 FROM onward_changes AS later NOT INDEXED
 WHERE id >= ?7 AND namespace = ?1 AND kind = ?2 AND name > ?3 AND name >= ?4 AND before_meta IS NOT NULL
  AND substr(CAST(name AS BLOB), 1, length(CAST(?4 AS BLOB))) = CAST(?4 AS BLOB)
  AND id = (SELECT min(id) FROM onward_changes WHERE namespace = ?1 AND kind = ?2 AND name = later.name AND name IS NOT NULL AND id >= ?7)
 ORDER BY 3 LIMIT ?5";

/// Reads a page of the objects that `[namespace, kind, prefix, after]` name, and whether more follow.
pub(super) fn list(connection: &Connection, which: [&str; 4], limit: usize, at: Revision) -> Result<(Vec<Arc<Object>>, bool)> {
    let [namespace, kind, prefix, after] = which;
    let later = at.get().saturating_add(1).saturating_mul(super::log::ROWS);
    let most = signed(limit as u64 + 1)?;
    let mut find = prepare(connection, AT)?;
    let mut found = find.query(params![namespace, kind, after, prefix, most, signed(at.get())?, signed(later)?]).map_err(before_commit)?;
    let mut items: Vec<Arc<Object>> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = found.next().map_err(before_commit)? {
        // A page's bytes bound what is read as well (C7); its first object always fits.
        if items.len() == limit || bytes >= PAGE_BYTES {
            return Ok((items, true));
        }
        let past: Option<String> = col(row, 11)?;
        let object = match past {
            None => Some(Arc::new(rows::object(row)?)),
            past => {
                let name: String = col(row, 2)?;
                before(&Key::in_namespace(namespace, kind, &name).map_err(damaged)?, past, col(row, 8)?)?
            }
        };
        if let Some(object) = object {
            bytes += object.value.bytes().len();
            items.push(object);
        }
    }
    Ok((items, false))
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
