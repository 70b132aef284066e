//! The nearest known name, for whoever mistyped one.

/// Returns the name that is nearest to `word`, if it is near at all.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let near = names.into_iter().map(|name| (distance(word, name), name)).min()?;
    (near.0 <= 1 + word.len() / 4).then_some(near.1)
}

/// How many characters must be put in, taken out or changed.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, a) in from.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(&to) {
            let change = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = change.min(left + 1).min(diagonal + 1);
            left = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_nonsense_finds_none() {
        let names = ["limit", "cursor", "namespace"];
        assert_eq!(nearest("limt", names), Some("limit"));
        assert_eq!(nearest("namespcae", names), Some("namespace"));
        assert_eq!(nearest("zzz", names), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
