//! The job's result: a JSON file in its container that becomes `result` in the report.
//!
//! What is wrong with it is told, and never changes how the job ended.

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use crate::engine::{Container, FileError};

/// As a file, and again as the report has it: a workflow's variables share 512 KB (FACTS).
const MOST_BYTES: usize = 64 << 10;
/// Levels of lists and objects. The report is read again from the journal, around which there are some more, and
/// serde_json reads 128.
const MOST_LEVELS: usize = 64;

/// Why there is no result; said of the file, as in "its result file `is not there`".
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("was not read in {}: the Engine is too slow", humantime::format_duration(*.0))]
    Late(Duration),
    #[error("is not UTF-8, from byte {} on", .0 + 1)]
    NotUtf8(usize),
    #[error("is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("has more than {MOST_LEVELS} levels of lists and objects")]
    Deep,
    #[error("has {0} bytes when its numbers are written out, and {MOST_BYTES} is the most")]
    Long(usize),
}

impl Unusable {
    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::File(FileError::Missing))
    }
}

/// Reads the result out of a container that has ended.
pub(crate) async fn read(container: &Container, path: &str, within: Duration) -> Result<Value, Unusable> {
    let content = timeout(within, container.file(path, MOST_BYTES, within)).await;
    parse(&content.map_err(|_| Unusable::Late(within))??)
}

fn parse(content: &[u8]) -> Result<Value, Unusable> {
    let text = str::from_utf8(content).map_err(|error| Unusable::NotUtf8(error.valid_up_to()))?;
    let value: Value = serde_json::from_str(text)?;
    if levels(&value) > MOST_LEVELS {
        return Err(Unusable::Deep);
    }
    // 1e15 is written as 1000000000000000.0.
    match value.to_string().len() {
        length if length > MOST_BYTES => Err(Unusable::Long(length)),
        _ => Ok(value),
    }
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or_default(),
        Value::Object(values) => 1 + values.values().map(levels).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn any_json_is_a_result() {
        for (content, value) in [
            ("{\"rows\": 12, \"ok\": true}\n", json!({ "rows": 12, "ok": true })),
            (" [1, -2.5, 1e3, \"\\u00e9\\n\"] ", json!([1, -2.5, 1000.0, "é\n"])),
            ("null", Value::Null),
            ("\"text\"", json!("text")),
            ("18446744073709551615", json!(u64::MAX)),
        ] {
            assert_eq!(parse(content.as_bytes()).unwrap(), value, "{content}");
        }
        let longest = format!("\"{}\"", "x".repeat(MOST_BYTES - 2));
        assert_eq!(parse(longest.as_bytes()).unwrap().as_str().map(str::len), Some(MOST_BYTES - 2));
        assert!(parse(nested(MOST_LEVELS).as_bytes()).is_ok());
    }

    #[test]
    fn what_cannot_be_a_result_is_told() {
        let numbers = format!("[{}1]", "1e15,".repeat(13_000));
        for (content, why) in [
            (&b""[..], "is not JSON: EOF while parsing a value at line 1 column 0"),
            (b"{\"a\": 1", "is not JSON: EOF while parsing an object at line 1 column 7"),
            (b"{'a': 1}", "is not JSON: key must be a string at line 1 column 2"),
            (b"{}\n{}", "is not JSON: trailing characters at line 2 column 1"),
            (b"NaN", "is not JSON: expected value at line 1 column 1"),
            (b"1e999", "is not JSON: number out of range at line 1 column 5"),
            (b"\"caf\xe9\"", "is not UTF-8, from byte 5 on"),
            (nested(65).as_bytes(), "has more than 64 levels of lists and objects"),
            (nested(9000).as_bytes(), "is not JSON: recursion limit exceeded at line 1 column 128"),
            (numbers.as_bytes(), "has 247003 bytes when its numbers are written out, and 65536 is the most"),
        ] {
            assert_eq!(parse(content).unwrap_err().to_string(), why);
        }
    }

    proptest! {
        #[test]
        fn a_result_is_read_again_as_the_same(content in r#"[-+.0-9eE\[\],"\\a-c{}: ]{0,24}"#) {
            if let Ok(value) = parse(content.as_bytes()) {
                prop_assert_eq!(&parse(value.to_string().as_bytes()).unwrap(), &value);
            }
        }

        #[test]
        fn a_number_is_read_again_as_the_same(number in any::<f64>().prop_filter("JSON has no other", |n| n.is_finite())) {
            let value = json!(number);
            prop_assert_eq!(&parse(value.to_string().as_bytes()).unwrap(), &value);
        }
    }

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }
}
