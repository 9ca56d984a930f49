//! How the Engine keeps a container's log, and whether all of it must still be there.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A line or a piece of a long one, beside its text: stream, time, and the id of a long line in `local`'s
/// files; keys and quotes in those of `json-file`.
const ENTRY: u64 = 128;
/// The most that one byte becomes: `json-file` writes a control character as `\u0000`.
const ESCAPED: u64 = 6;
/// The Engine cuts longer lines into pieces.
const PIECE: u64 = 16 << 10;
/// `local` rotates at 20 MB unless told otherwise.
const LOCAL_FILE: u64 = 20_000_000;

/// A container's log driver and its options.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogConfig {
    /// `json-file`, `local`, `none`, …
    #[serde(rename = "Type")]
    pub driver: String,
    #[serde(rename = "Config", default)]
    options: Option<BTreeMap<String, String>>,
}

impl LogConfig {
    /// Whether a log of so many bytes and lines is surely kept from its first byte on. What is rotated may be
    /// gone, and a log that is followed while it is rotated has holes (FACTS).
    pub fn keeps(&self, bytes: u64, lines: u64) -> bool {
        // Each stream may end without a newline.
        let entries = lines + bytes / PIECE + 2;
        let written = bytes.saturating_mul(ESCAPED).saturating_add(entries.saturating_mul(ENTRY));
        self.first_file().is_none_or(|room| written <= room)
    }

    /// The size that the log reaches before anything of it can be dropped; `None` if nothing ever is.
    fn first_file(&self) -> Option<u64> {
        let none = BTreeMap::new();
        let options = self.options.as_ref().unwrap_or(&none);
        let harmless = |(name, value): (&String, &String)| match name.as_str() {
            "max-size" | "max-file" | "compress" => true,
            "mode" => value == "blocking",
            // Some write more beside each line than is known here.
            _ => false,
        };
        let size = options.get("max-size").map(|size| bytes_of(size));
        match self.driver.as_str() {
            _ if !options.iter().all(harmless) => Some(0),
            "json-file" => size,
            // The shim's own, which has an option once it dropped anything.
            "longrun" => None,
            "local" => Some(size.unwrap_or(LOCAL_FILE)),
            // What can be read of others is a cache, or another program's.
            _ => Some(0),
        }
    }
}

/// A size as go-units' `FromHumanSize` reads it, in powers of 1000; 0 for what it has beyond whole numbers.
fn bytes_of(size: &str) -> u64 {
    let (number, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        _ => 0,
    };
    number.parse::<u64>().unwrap_or(0).saturating_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_never_rotated_is_kept_whatever_its_size() {
        for config in [r#"{"Type":"json-file","Config":null}"#, r#"{"Type":"json-file","Config":{}}"#] {
            assert!(serde_json::from_str::<LogConfig>(config).unwrap().keeps(u64::MAX, u64::MAX / 256));
        }
    }

    #[test]
    fn a_rotated_log_is_surely_kept_only_while_it_fits_into_one_file() {
        for (driver, options, bytes, keeps) in [
            ("json-file", &[("max-size", "10m")][..], 1_000_000, true),
            ("json-file", &[("max-size", "10m"), ("max-file", "3"), ("compress", "true")], 1_000_000, true),
            ("json-file", &[("max-size", "10m"), ("mode", "blocking")], 1_000_000, true),
            ("json-file", &[("max-size", "10m")], 2_000_000, false),
            ("json-file", &[("max-size", "7 MB")], 1_000_000, true),
            ("json-file", &[("max-size", "6000k")], 1_000_000, false),
            ("json-file", &[("max-size", "1.5g")], 1_000_000, false),
            ("local", &[], 3_000_000, true),
            ("local", &[], 4_000_000, false),
            ("local", &[("max-size", "1g")], 4_000_000, true),
        ] {
            assert_eq!(config(driver, options).keeps(bytes, 1000), keeps, "{driver} {options:?} {bytes}");
        }
    }

    #[test]
    fn a_log_that_may_lack_lines_from_the_beginning_is_never_sure() {
        for (driver, options) in [
            ("json-file", &[("mode", "non-blocking")][..]),
            ("json-file", &[("labels", "a,b")]),
            ("gcplogs", &[]),
            ("journald", &[]),
            ("none", &[]),
        ] {
            assert!(!config(driver, options).keeps(1, 1), "{driver} {options:?}");
        }
    }

    fn config(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LogConfig { driver: driver.to_owned(), options: Some(options) }
    }
}
