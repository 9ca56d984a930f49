//! A line that is a JSON object, as Google's own agents treat it: some fields are the entry's own, the rest is its
//! `jsonPayload`.
//!
//! What is wrong in the shape of one field makes Cloud Logging refuse the whole request and all entries in it, so
//! a field is only taken for the entry's own if it has the right shape, and stays in the payload otherwise.
//!
//! Source: cloud.google.com/logging/docs/structured-logging, "Special fields in the message"; the translations of
//! severities are those of GoogleCloudPlatform/fluent-plugin-google-cloud, `parse_severity`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

/// Objects within objects: each is three messages in Google's own format, whose readers go a hundred deep.
const DEEPEST: u32 = 24;

/// A line's own time is believed so far from when it was read. Beyond, it is of something else, or a clock's that is
/// wrong, and Cloud Logging would not take all of them (FACTS).
pub(crate) const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// What a line says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Structured {
    /// The line's own time.
    pub(crate) time: Option<SystemTime>,
    /// The line's own id.
    pub(crate) insert_id: Option<String>,
    /// Labels beside those that every line has.
    pub(crate) labels: Map<String, Value>,
    /// Other fields of the entry, by their names, with its payload.
    pub(crate) fields: Map<String, Value>,
}

/// The shape of a field.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Bool,
    /// A number of 64 bits, or one in a string.
    Integer,
    /// `1.5s`.
    Seconds,
    /// An object with any of these.
    Object(&'static [(&'static str, Self)]),
}

/// A field of the line, the entry's field that it becomes, and its shape.
const SPECIAL: &[(&str, &str, Shape)] = &[
    ("logging.googleapis.com/trace", "trace", Shape::Text),
    ("logging.googleapis.com/spanId", "spanId", Shape::Text),
    ("logging.googleapis.com/trace_sampled", "traceSampled", Shape::Bool),
    (
        "logging.googleapis.com/operation",
        "operation",
        Shape::Object(&[
            ("id", Shape::Text),
            ("producer", Shape::Text),
            ("first", Shape::Bool),
            ("last", Shape::Bool),
        ]),
    ),
    (
        "logging.googleapis.com/sourceLocation",
        "sourceLocation",
        Shape::Object(&[("file", Shape::Text), ("line", Shape::Integer), ("function", Shape::Text)]),
    ),
    (
        "httpRequest",
        "httpRequest",
        Shape::Object(&[
            ("requestMethod", Shape::Text),
            ("requestUrl", Shape::Text),
            ("requestSize", Shape::Integer),
            ("status", Shape::Integer),
            ("responseSize", Shape::Integer),
            ("userAgent", Shape::Text),
            ("remoteIp", Shape::Text),
            ("serverIp", Shape::Text),
            ("referer", Shape::Text),
            ("latency", Shape::Seconds),
            ("cacheLookup", Shape::Bool),
            ("cacheHit", Shape::Bool),
            ("cacheValidatedWithOriginServer", Shape::Bool),
            ("cacheFillBytes", Shape::Integer),
            ("protocol", Shape::Text),
        ]),
    ),
];

impl Structured {
    /// The line, if it is a JSON object that Cloud Logging can take; it was read at `now`.
    pub(crate) fn read(line: &str, now: SystemTime) -> Option<Self> {
        if !line.trim_start().starts_with('{') {
            return None;
        }
        let mut object: Map<String, Value> = serde_json::from_str(line).ok()?;
        if !object.values().all(|value| is_flatter_than(value, DEEPEST)) {
            return None;
        }
        let mut fields = Map::new();
        for (name, field, shape) in SPECIAL {
            if let Some(value) = take(&mut object, name, |value| shape.fits(value).then(|| value.clone())) {
                fields.insert((*field).to_owned(), value);
            }
        }
        if let Some(severity) = take(&mut object, "severity", severity) {
            fields.insert("severity".to_owned(), severity.into());
        }
        let insert_id = take(&mut object, "logging.googleapis.com/insertId", text);
        let labels = take(&mut object, "logging.googleapis.com/labels", labels).unwrap_or_default();
        let time = take_time(&mut object, now);
        let (payload, value) = payload(object);
        fields.insert(payload.to_owned(), value);
        Some(Self { time, insert_id, labels, fields })
    }
}

/// A message that is all there is becomes the text.
fn payload(mut object: Map<String, Value>) -> (&'static str, Value) {
    match object.remove("message") {
        Some(Value::String(message)) if object.is_empty() => ("textPayload", message.into()),
        Some(message) => {
            object.insert("message".to_owned(), message);
            ("jsonPayload", object.into())
        }
        None => ("jsonPayload", object.into()),
    }
}

/// Takes a field out of the object, if `read` can use it.
fn take<T>(object: &mut Map<String, Value>, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
    let taken = read(object.get(name)?)?;
    object.remove(name);
    Some(taken)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn labels(value: &Value) -> Option<Map<String, Value>> {
    value.as_object().filter(|labels| labels.values().all(Value::is_string)).cloned()
}

/// The first of the forms in which a line may tell its time, if it can be believed.
fn take_time(object: &mut Map<String, Value>, now: SystemTime) -> Option<SystemTime> {
    let is_near =
        |time: &SystemTime| time.duration_since(now).unwrap_or_else(|before| before.duration()) < BELIEVED;
    let both = |object: &Map<String, Value>| {
        since_epoch(object.get("timestampSeconds")?, object.get("timestampNanos")?).filter(is_near)
    };
    if let Some(time) = both(object) {
        object.remove("timestampSeconds");
        object.remove("timestampNanos");
        return Some(time);
    }
    let parts = |value: &Value| since_epoch(value.get("seconds")?, value.get("nanos")?);
    let rfc3339 = |value: &Value| rfc3339(value.as_str()?);
    take(object, "timestamp", |value| parts(value).or_else(|| rfc3339(value)).filter(is_near))
        .or_else(|| take(object, "time", |value| rfc3339(value).filter(is_near)))
}

fn since_epoch(seconds: &Value, nanos: &Value) -> Option<SystemTime> {
    let nanos = u32::try_from(integer(nanos)?).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(integer(seconds)?).ok()?, nanos))
}

/// With an offset too, which humantime does not read.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (utc, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let seconds = |offset: &str| {
        let (hours, minutes) = offset.split_once(':')?;
        Some(Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60))
    };
    let parse = |utc: &str| humantime::parse_rfc3339(utc).ok();
    match offset.split_at_checked(1) {
        Some(("+", ahead)) => parse(&format!("{utc}Z"))?.checked_sub(seconds(ahead)?),
        Some(("-", behind)) => parse(&format!("{utc}Z"))?.checked_add(seconds(behind)?),
        _ => parse(text),
    }
}

/// One of Google's severities.
fn severity(value: &Value) -> Option<&'static str> {
    if let Some(number) = integer(value) {
        return Some(match number {
            ..100 => "DEFAULT",
            100..200 => "DEBUG",
            200..300 => "INFO",
            300..400 => "NOTICE",
            400..500 => "WARNING",
            500..600 => "ERROR",
            600..700 => "CRITICAL",
            700..800 => "ALERT",
            800.. => "EMERGENCY",
        });
    }
    Some(match value.as_str()?.trim().to_ascii_uppercase().as_str() {
        "DEFAULT" => "DEFAULT",
        "DEBUG" | "D" | "TRACE" | "TRACE_INT" | "FINE" | "FINER" | "FINEST" | "CONFIG" => "DEBUG",
        "INFO" | "I" => "INFO",
        "NOTICE" | "N" => "NOTICE",
        "WARNING" | "W" | "WARN" => "WARNING",
        "ERROR" | "E" | "ERR" | "SEVERE" => "ERROR",
        "CRITICAL" | "C" | "CRIT" | "F" | "FATAL" => "CRITICAL",
        "ALERT" | "A" => "ALERT",
        "EMERGENCY" | "EMERG" => "EMERGENCY",
        _ => return None,
    })
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

impl Shape {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Bool => value.is_boolean(),
            // The narrowest of them, `status`, has 32 bits.
            Self::Integer => integer(value).is_some_and(|number| i32::try_from(number).is_ok()),
            Self::Seconds => value.as_str().is_some_and(is_seconds),
            Self::Object(known) => value.as_object().is_some_and(|object| {
                let shape = |name: &str| known.iter().find(|(known, _)| *known == name).map(|known| known.1);
                object.iter().all(|(name, value)| shape(name).is_some_and(|shape| shape.fits(value)))
            }),
        }
    }
}

/// Seconds with at most nine digits behind the point, as Google's JSON has durations.
fn is_seconds(text: &str) -> bool {
    let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_suffix('s').is_some_and(|number| match number.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(number),
    })
}

fn is_flatter_than(value: &Value, left: u32) -> bool {
    match (value, left.checked_sub(1)) {
        (Value::Object(object), Some(left)) => object.values().all(|value| is_flatter_than(value, left)),
        (Value::Array(array), Some(left)) => array.iter().all(|value| is_flatter_than(value, left)),
        (Value::Object(_) | Value::Array(_), None) => false,
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_the_payload() {
        check(&json!({ "epoch": 3, "loss": 0.5 }), &json!({ "jsonPayload": { "epoch": 3, "loss": 0.5 } }));
        check(&json!({}), &json!({ "jsonPayload": {} }));
    }

    #[test]
    fn what_is_no_object_is_text() {
        for line in ["", "hello", "[1]", "7", "\"{}\"", "{oops}", "{} {}", "{\"a\":1e999}", "{\"a\":1"] {
            assert_eq!(read(line), None, "{line}");
        }
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&deep(24)).is_some());
        assert_eq!(read(&deep(25)), None);
        assert_eq!(read(&"{\"a\":".repeat(100_000)), None);
    }

    #[test]
    fn a_message_that_is_all_there_is_becomes_the_text() {
        check(
            &json!({ "severity": "error", "message": "oops" }),
            &json!({ "severity": "ERROR", "textPayload": "oops" }),
        );
        check(
            &json!({ "message": "oops", "a": 1 }),
            &json!({ "jsonPayload": { "message": "oops", "a": 1 } }),
        );
        check(&json!({ "message": 1 }), &json!({ "jsonPayload": { "message": 1 } }));
    }

    #[test]
    fn severities_are_translated_and_unknown_ones_are_left_where_they_are() {
        for (given, expected) in [
            (json!("INFO"), "INFO"),
            (json!("warn"), "WARNING"),
            (json!(" Fatal "), "CRITICAL"),
            (json!(500), "ERROR"),
            (json!("450"), "WARNING"),
            (json!(-1), "DEFAULT"),
            (json!(9000), "EMERGENCY"),
        ] {
            check(&json!({ "severity": given }), &json!({ "severity": expected, "jsonPayload": {} }));
        }
        for given in [json!("loud"), json!(null), json!({}), json!(true)] {
            check(&json!({ "severity": given }), &json!({ "jsonPayload": { "severity": given } }));
        }
    }

    #[test]
    fn special_fields_are_the_entrys_own_where_they_have_the_right_shape() {
        for (name, field, right, wrong) in [
            ("logging.googleapis.com/trace", "trace", json!("projects/p/traces/1"), json!(1)),
            ("logging.googleapis.com/spanId", "spanId", json!("000000000000004a"), json!({})),
            ("logging.googleapis.com/trace_sampled", "traceSampled", json!(true), json!("yes")),
            (
                "logging.googleapis.com/operation",
                "operation",
                json!({ "id": "a", "first": true }),
                json!({ "id": 1 }),
            ),
            (
                "logging.googleapis.com/sourceLocation",
                "sourceLocation",
                json!({ "file": "a.py", "line": "142", "function": "main" }),
                json!({ "file": "a.py", "column": 1 }),
            ),
            (
                "httpRequest",
                "httpRequest",
                json!({ "status": 200, "latency": "0.5s" }),
                json!({ "status": "ok" }),
            ),
            ("httpRequest", "httpRequest", json!({}), json!({ "latency": "1.s" })),
            ("httpRequest", "httpRequest", json!({ "latency": "12s" }), json!({ "status": 1u64 << 40 })),
        ] {
            check(&json!({ name: right }), &json!({ field: right, "jsonPayload": {} }));
            check(&json!({ name: wrong }), &json!({ "jsonPayload": { name: wrong } }));
        }
    }

    #[test]
    fn labels_and_an_id_are_taken() {
        let line = json!({ "logging.googleapis.com/labels": { "user": "1" }, "logging.googleapis.com/insertId": "x" });
        let read = read(&line.to_string()).unwrap();
        assert_eq!((read.insert_id.as_deref(), &read.labels["user"]), (Some("x"), &json!("1")));
        let wrong = json!({ "logging.googleapis.com/labels": { "user": 1 } });
        check(&wrong, &json!({ "jsonPayload": wrong }));
    }

    #[test]
    fn a_line_may_tell_its_time_in_several_forms() {
        let moment = Some(UNIX_EPOCH + Duration::new(1_795_428_000, 500_000_000));
        for line in [
            json!({ "time": "2026-11-23T10:00:00.5Z" }),
            json!({ "timestamp": "2026-11-23T12:30:00.5+02:30" }),
            json!({ "time": "2026-11-23T05:00:00.500-05:00" }),
            json!({ "timestamp": { "seconds": 1_795_428_000, "nanos": 500_000_000 } }),
            json!({ "timestampSeconds": 1_795_428_000, "timestampNanos": "500000000" }),
        ] {
            let read = read(&line.to_string()).unwrap();
            assert_eq!((read.time, &read.fields["jsonPayload"]), (moment, &json!({})), "{line}");
        }
        for value in
            [json!("yesterday"), json!(17), json!(""), json!("2026-11-23T10:00:00"), json!("é+02:00")]
        {
            let read = read(&json!({ "time": value }).to_string()).unwrap();
            assert_eq!((read.time, &read.fields["jsonPayload"]["time"]), (None, &value));
        }
    }

    #[test]
    fn a_time_of_another_day_stays_where_it_is() {
        for time in ["2026-11-22T10:00:00Z", "2026-11-24T10:00:01Z", "1999-12-31T23:59:59Z"] {
            check(&json!({ "time": time }), &json!({ "jsonPayload": { "time": time } }));
        }
    }

    fn read(line: &str) -> Option<Structured> {
        Structured::read(line, UNIX_EPOCH + Duration::from_secs(1_795_428_000))
    }

    #[track_caller]
    fn check(line: &Value, fields: &Value) {
        let read = read(&line.to_string()).unwrap();
        assert_eq!(&Value::from(read.fields), fields, "{line}");
    }
}
