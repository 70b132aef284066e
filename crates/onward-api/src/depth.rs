//! How deep JSON nests.

/// Returns how deep brackets nest; the text need not be well formed.
///
/// A raw or ignored value is skipped by serde_json without a look at its depth, so whoever bounds it counts for himself.
pub fn json_depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::json_depth;

    #[test]
    fn brackets_in_strings_do_not_nest() {
        for (text, depth) in [("1", 0), ("[]", 1), ("[[],[[]]]", 3), (r#"{"[[[":"]\"[["}"#, 1), (r#"["\\",[]]"#, 2), ("]][", 1)] {
            assert_eq!(json_depth(text.as_bytes()), depth, "{text}");
        }
    }
}
