//! Lists of objects as they were at a revision.
//!
//! A page is read in two steps of one snapshot: names, labels and lengths of all that might be in it, then the objects that are. So a
//! page's bytes bound what is read (C7), and what a selector leaves out costs no payload.

use tokio_postgres::Row;

use super::log;
use super::rows::{self, col, number};
use crate::Result;
use crate::commit::engine::{SCAN, Scan};
use crate::model::limits::PAGE_BYTES;

/// Objects that did not change since, and of those that did, what they were before their first change. Both halves come by name, so that
/// they are merged and end at the limit. The first half goes through all objects of the kind, or through those that the index has for a
/// label. $1 namespace, $2 kind, $3 after, $4 prefix, $5 its end, $6 limit, $7 revision, $8 the first later row, $9 and $10 a label.
pub(super) fn names_sql(has_label: bool) -> String {
    let (name, from) = if has_label {
        let label = "onward_labels AS l JOIN onward_objects AS o ON o.namespace = l.namespace AND o.kind = l.kind AND o.name = l.name
           WHERE l.namespace = $1 AND l.kind = $2 AND l.key = $9 AND l.value = $10";
        ("l.name", label)
    } else {
        // Both parameters of the label are NULL.
        ("o.name", "onward_objects AS o WHERE o.namespace = $1 AND o.kind = $2 AND $9::text IS NOT DISTINCT FROM $10::text")
    };
    let within = |name| format!("{name} > $3 AND {name} >= $4 AND ($5::text IS NULL OR {name} < $5) AND starts_with({name}, $4)");
    format!(
        "(SELECT {name}, 0::bigint, o.labels, octet_length(o.payload)::bigint FROM {from} AND o.revision <= $7 AND {} ORDER BY 1 LIMIT $6)
         UNION ALL
         (SELECT c.name, c.id, c.labels, octet_length(c.payload)::bigint FROM onward_changes AS c
          WHERE c.namespace = $1 AND c.kind = $2 AND c.name IS NOT NULL AND {} AND c.id >= $8 AND c.uid IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM onward_changes AS e WHERE e.namespace = $1 AND e.kind = $2 AND e.name = c.name
              AND e.name IS NOT NULL AND e.id >= $8 AND e.id < c.id)
          ORDER BY 1 LIMIT $6)
         ORDER BY 1 LIMIT $6",
        within(name),
        within("c.name"),
    )
}

/// Reads the objects of a page, named $3 of namespace $1 and kind $2, and those in the log at the rows $4.
pub(super) fn objects_sql() -> String {
    format!(
        "SELECT o.namespace, o.kind, o.name, {} FROM unnest($3::text[]) AS w(name)
           JOIN onward_objects AS o ON o.namespace = $1 AND o.kind = $2 AND o.name = w.name
         UNION ALL SELECT c.namespace, c.kind, c.name, {} FROM unnest($4::bigint[]) AS w(id) JOIN onward_changes AS c USING (id)
         ORDER BY 3",
        log::state("o"),
        log::before("c"),
    )
}

/// The end of all names with a prefix: the first that is greater; `None`: there is none.
pub(super) fn end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // Between the two halves of Unicode's scalar values there is a gap.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// What of the names is in the page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Objects as they are.
    pub(super) names: Vec<String>,
    /// Rows of the log with objects as they were.
    pub(super) rows: Vec<i64>,
    /// After which name the next page begins.
    pub(super) next: Option<String>,
}

/// How many names a page looks at.
pub(super) fn scanned(scan: &Scan) -> usize {
    // Without a selector every row is an item, or was none at that time.
    if scan.selector.is_empty() { scan.limit } else { SCAN }
}

/// Chooses from the rows of [`names_sql`].
pub(super) fn choose(found: &[Row], scan: &Scan) -> Result<Page> {
    let mut page = Page::default();
    let (mut bytes, mut last) = (0, None);
    for (seen, row) in found.iter().enumerate() {
        // Its first object always fits.
        if page.names.len() + page.rows.len() == scan.limit || bytes >= PAGE_BYTES as u64 || seen == scanned(scan) {
            page.next = last;
            return Ok(page);
        }
        let name: String = col(row, 0)?;
        if scan.selector.selects(&rows::labels(row, 2)?) {
            bytes += number(row, 3)?;
            match col(row, 1)? {
                0 => page.names.push(name.clone()),
                id => page.rows.push(id),
            }
        }
        last = Some(name);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::end;

    #[test]
    fn names_with_a_prefix_end_before_the_next_one() {
        assert_eq!(end("a"), Some("b".to_owned()));
        assert_eq!(end("ä\u{10ffff}"), Some("å".to_owned()));
        assert_eq!(end("\u{d7ff}"), Some("\u{e000}".to_owned()));
        assert_eq!((end(""), end("\u{10ffff}")), (None, None));
    }
}
