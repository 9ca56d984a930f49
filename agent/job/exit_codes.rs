//! `longrun-retry-exit-codes`: the exit codes after which a job is tried again. Pure.

use std::ops::RangeInclusive;

/// Exit codes from 1 to 255; by default all of them. 0 is success, which nobody tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitCodes(Vec<RangeInclusive<u8>>);

impl Default for ExitCodes {
    fn default() -> Self {
        Self(vec![1..=u8::MAX])
    }
}

impl ExitCodes {
    /// Reads a list of codes and ranges, `1,75,100-110`. The error says what was expected, and what is not so.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let ranges: Result<_, _> = list.split(',').map(|entry| range(entry.trim())).collect();
        ranges.map(Self).map_err(|wrong| format!("exit codes and ranges such as 1,75,100-110, but {wrong}"))
    }

    /// Whether `code` is one of them; the Engine tells codes as 64 bits.
    pub fn contains(&self, code: i64) -> bool {
        u8::try_from(code).is_ok_and(|code| self.0.iter().any(|range| range.contains(&code)))
    }
}

fn range(entry: &str) -> Result<RangeInclusive<u8>, String> {
    match entry.split_once('-') {
        _ if entry.is_empty() => Err("an entry is empty".to_owned()),
        None => code(entry, entry).map(|code| code..=code),
        Some((first, last)) => match (code(entry, first)?, code(entry, last)?) {
            (first, last) if first > last => Err(format!("`{entry}` runs backwards")),
            (first, last) => Ok(first..=last),
        },
    }
}

fn code(entry: &str, digits: &str) -> Result<u8, String> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{entry}` is neither"));
    }
    match digits.parse() {
        Ok(0) => Err("0 is success, which is not tried again".to_owned()),
        Ok(code) => Ok(code),
        Err(_) => Err(format!("{digits} is more than 255")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_default_every_failure_is_one_of_them() {
        let codes = ExitCodes::default();
        assert!((1..=255).all(|code| codes.contains(code)));
        assert!(![i64::MIN, -1, 0, 256, 257, i64::MAX].into_iter().any(|code| codes.contains(code)));
    }

    #[test]
    fn what_is_no_list_of_codes_is_refused_with_the_reason() {
        for (list, wrong) in [
            ("", "an entry is empty"),
            ("1,", "an entry is empty"),
            ("1,,2", "an entry is empty"),
            (" , ", "an entry is empty"),
            ("0", "0 is success, which is not tried again"),
            ("0-5", "0 is success, which is not tried again"),
            ("1,000", "0 is success, which is not tried again"),
            ("256", "256 is more than 255"),
            ("1-256", "256 is more than 255"),
            ("99999999999999999999", "99999999999999999999 is more than 255"),
            ("110-100", "`110-100` runs backwards"),
            ("all", "`all` is neither"),
            ("1 75", "`1 75` is neither"),
            ("1;75", "`1;75` is neither"),
            ("1..5", "`1..5` is neither"),
            ("+1", "`+1` is neither"),
            ("-1", "`-1` is neither"),
            ("1-", "`1-` is neither"),
            ("-", "`-` is neither"),
            ("1-2-3", "`1-2-3` is neither"),
            ("1 - 5", "`1 - 5` is neither"),
            ("0x1", "`0x1` is neither"),
            ("\u{661}", "`\u{661}` is neither"),
        ] {
            let expected = format!("exit codes and ranges such as 1,75,100-110, but {wrong}");
            assert_eq!(ExitCodes::parse(list), Err(expected), "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_list_holds_what_stands_in_it_and_no_more(
            ranges in prop::collection::vec((1_i64..=255, 1_i64..=255, "[ \t]{0,2}", "[ \t]{0,2}"), 1..6),
        ) {
            let ranges = ranges.into_iter().map(|(a, b, before, after)| (a.min(b)..=a.max(b), before, after));
            let ranges: Vec<_> = ranges.collect();
            let entries = ranges.iter().map(|(range, before, after)| match (range.start(), range.end()) {
                (first, last) if first == last => format!("{before}{first}{after}"),
                (first, last) => format!("{before}{first}-{last}{after}"),
            });
            let codes = ExitCodes::parse(&entries.collect::<Vec<_>>().join(",")).unwrap();
            for code in -1..=256 {
                let expected = ranges.iter().any(|(range, ..)| range.contains(&code));
                prop_assert_eq!(codes.contains(code), expected, "{}", code);
            }
        }

        #[test]
        fn whatever_is_written_nothing_panics(list in "[-, 0-9a]{0,12}|\\PC*") {
            let _ = ExitCodes::parse(&list);
        }
    }
}
