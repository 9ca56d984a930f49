//! The agent's own log: for people on a terminal, else one JSON object a line as Cloud Logging reads it.
//!
//! Leaves out the job's output. The JSON goes to stdout: what a program writes to stderr, Google's logging
//! agents take for errors.
//!
//! Source of the fields: cloud.google.com/logging/docs/structured-logging.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{PoisonError, RwLock},
    time::SystemTime,
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt as people,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::logs::Redaction;

/// What no line may show. One for the process, as its log is.
static HIDDEN: RwLock<Option<Redaction>> = RwLock::new(None);

/// Hides this from now on, and nothing else any more.
pub(crate) fn hide(redaction: Redaction) {
    *HIDDEN.write().unwrap_or_else(PoisonError::into_inner) = Some(redaction);
}

fn redacted(text: &str) -> String {
    match &*HIDDEN.read().unwrap_or_else(PoisonError::into_inner) {
        Some(redaction) => redaction.text(text).into_owned(),
        None => text.to_owned(),
    }
}

/// Starts logging what `filter` lets through.
pub fn start(filter: Targets) {
    let terminal = io::stderr().is_terminal();
    let for_people =
        terminal.then(|| people::layer().with_writer(|| Redacted(io::stderr())).with_target(false));
    let for_google = (!terminal).then(|| CloudLogging::new(io::stdout));
    tracing_subscriber::registry().with(filter).with(for_people).with(for_google).init();
}

/// Writes lines for people, a whole one at a time.
struct Redacted<W>(W);

impl<W: Write> Write for Redacted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(redacted(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes events in Cloud Logging's form.
struct CloudLogging<W>(W);

impl<W: Fn() -> O, O: Write> CloudLogging<W> {
    fn new(output: W) -> Self {
        Self(output)
    }
}

impl<S, W, O> Layer<S> for CloudLogging<W>
where
    S: Subscriber,
    W: Fn() -> O + 'static,
    O: Write,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // A log that cannot be written must not end the agent.
        let _ = self.0().write_all(line(event, SystemTime::now()).as_bytes());
    }
}

fn line(event: &Event<'_>, now: SystemTime) -> String {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let Fields(mut fields) = fields;
    fields.insert("severity".to_owned(), severity(*event.metadata().level()).into());
    fields.insert("time".to_owned(), humantime::format_rfc3339_micros(now).to_string().into());
    fields.insert("target".to_owned(), event.metadata().target().into());
    // One write a line, so that lines of several writers do not mix.
    format!("{}\n", Value::Object(fields))
}

fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// An event's fields, with their types; its text is the field `message`.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), redacted(value).into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), redacted(&format!("{value:?}")).into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_that_cloud_logging_understands() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::registry().with(CloudLogging::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(image = "a\nb", tries = 3, fast = true, "the pull failed, {}", "again");
            tracing::error!("gone");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("time").unwrap();
            humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
        }
        let target = "longrun_agent::logging::tests";
        assert_eq!(
            lines,
            [
                json!({ "severity": "WARNING", "message": "the pull failed, again", "image": "a\nb", "tries": 3, "fast": true, "target": target }),
                json!({ "severity": "ERROR", "message": "gone", "target": target }),
            ]
        );
    }

    #[test]
    fn no_line_shows_what_is_hidden() {
        let secret = "a \"quoted\" secret of logging's test";
        hide(Redaction::of([("KEY", secret)]));
        let (json, people) = (Log::default(), Log::default());
        let (for_json, for_people) = (json.clone(), people.clone());
        let subscriber = tracing_subscriber::registry()
            .with(CloudLogging::new(move || for_json.clone()))
            .with(people::layer().with_writer(move || Redacted(for_people.clone())));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(error = secret, quoted = ?secret, "the Engine said: {secret}");
        });
        for (log, times) in [(json, 3), (people, 3)] {
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches("[REDACTED:KEY]").count(), times, "{text}");
            assert!(!text.contains("secret of logging"), "{text}");
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
