//! A run as a person watches it: phases and pulls on stderr, the job's output where the job wrote it.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex},
};

use indicatif::{ProgressBar, ProgressStyle};
use longrun_agent::progress::{Phase, Progress, Pull, Stream, Watcher};
use sandbox::workflow::News;

/// A watcher for [`longrun_agent::agent::run`].
pub(crate) fn watcher() -> Watcher {
    let bar: Mutex<Option<ProgressBar>> = Mutex::new(None);
    Arc::new(move |progress| {
        let mut bar = bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match progress {
            Progress::Pull(pull) => show_pull(&mut bar, pull),
            Progress::Output(stream, bytes) => show_output(stream, bytes),
            Progress::Phase(phase) => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                say(&sentence(phase));
            }
        }
    })
}

/// What a workflow does.
pub(crate) fn news(news: News<'_>) {
    match news {
        News::Step(step) => say(&format!("step {step}")),
        News::Log(log) => say(&format!("log {log}")),
    }
}

/// One line about the run, apart from the job's own by its mark.
pub(crate) fn say(text: &str) {
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A reader that went away is no reason to end the job: a panic here would leave its container behind.
    let _ = match coloured {
        true => writeln!(io::stderr(), "\x1b[36m▸ {text}\x1b[0m"),
        false => writeln!(io::stderr(), "▸ {text}"),
    };
}

/// What was asked for, on stdout.
pub(crate) fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn sentence(phase: Phase<'_>) -> String {
    match phase {
        Phase::Ordered { run_id } => format!("run {run_id}"),
        Phase::Pulling { image } => format!("pulling {image}"),
        Phase::Running { container } => {
            format!("the job runs in container {}", &container[..container.len().min(12)])
        }
        Phase::Stopping { why } => format!("stopping the job: {why}"),
        Phase::Ended { message } => format!("the end: {message}"),
        Phase::Reported => "the callback accepted the report".to_owned(),
    }
}

fn show_pull(bar: &mut Option<ProgressBar>, pull: Pull) {
    let bar = bar.get_or_insert_with(|| {
        // indicatif draws on stderr, and nothing where that is no terminal.
        let style = ProgressStyle::with_template("  {bar:40.cyan} {bytes}/{total_bytes} {bytes_per_sec}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    bar.set_length(pull.total);
    bar.set_position(pull.done);
}

fn show_output(stream: Stream, bytes: &[u8]) {
    // A reader that went away is no reason to end the job.
    let _ = match stream {
        Stream::Out => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Err => io::stderr().write_all(bytes),
    };
}
