//! The Engine as the benchmark sees it: by the docker command line, by its events, and as a process.

use std::{io, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    process::Command,
    time::{Instant, timeout},
};

use super::{process::Process, within};

/// Any single thing that the Engine does; a wedged one must not hold the benchmark up for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// This machine's Engine. What the benchmark starts there has a label, by which all of it is removed at the end.
#[derive(Debug)]
pub(crate) struct Engine {
    /// The demo job's image.
    pub(crate) image: String,
    /// dockerd.
    pub(crate) process: Process,
    pub(crate) label: String,
}

impl Engine {
    /// Makes sure that the image is there.
    pub(crate) async fn new() -> io::Result<Self> {
        let image = tokio::task::spawn_blocking(sandbox::job::image).await??;
        let label = format!("longrun-bench={}", std::process::id());
        Ok(Self { image, process: Process::named("dockerd")?, label })
    }

    /// The words of a `docker run` with these flags, for a job of these words.
    pub(crate) fn run(&self, flags: &str, words: &str) -> String {
        format!("docker run --label {} {flags} {} {words}", self.label, self.image)
    }

    /// Waits for a docker command, and answers what it printed.
    pub(crate) async fn docker(&self, words: &str) -> io::Result<String> {
        let mut command = command(words);
        let output = within(words, PATIENCE, command.stdin(Stdio::null()).output()).await??;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => {
                Err(io::Error::other(format!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim())))
            }
        }
    }

    /// Removes whatever was left.
    pub(crate) async fn remove_all(&self) -> io::Result<()> {
        let left = self.docker(&format!("docker ps --all --quiet --filter label={}", self.label)).await?;
        if !left.is_empty() {
            self.docker(&format!("docker rm --force --volumes {}", left.replace('\n', " "))).await?;
        }
        Ok(())
    }

    /// What happens from now on.
    pub(crate) async fn events(&self) -> io::Result<Events> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let socket = match host.strip_prefix("unix://") {
            Some(path) => path,
            None if host.is_empty() => "/var/run/docker.sock",
            None => {
                return Err(io::Error::other(format!(
                    "DOCKER_HOST is {host}; the benchmark needs a unix:// one"
                )));
            }
        };
        let mut stream = UnixStream::connect(socket).await?;
        let filters = serde_json::json!({ "event": ["start", "die"], "label": [self.label] }).to_string();
        let filters: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
        // HTTP/1.0 has no chunks: an event is a line.
        stream.write_all(format!("GET /events?filters={filters} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await?.unwrap_or_default();
        if !status.contains(" 200 ") {
            return Err(io::Error::other(format!("the Engine answered {status:?} to /events")));
        }
        while lines.next_line().await?.is_some_and(|header| !header.is_empty()) {}
        Ok(Events(lines))
    }
}

/// A docker command that is killed with the benchmark.
pub(crate) fn command(words: &str) -> Command {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).kill_on_drop(true);
    command
}

/// The starts and ends of the benchmark's containers, as they come.
#[derive(Debug)]
pub(crate) struct Events(Lines<BufReader<UnixStream>>);

/// A container started, or ended.
#[derive(Debug)]
pub(crate) struct Event {
    /// Which one.
    pub(crate) container: String,
    /// When it was told.
    pub(crate) told: Instant,
    /// When the Engine says that it was, in seconds of its clock.
    pub(crate) at: f64,
}

impl Events {
    /// The next `start` or `die`; those of the other kind before it are passed over.
    pub(crate) async fn next(&mut self, action: &str, patience: Duration) -> io::Result<Event> {
        loop {
            let line = within(action, patience, self.0.next_line()).await??;
            let line = line.ok_or_else(|| io::Error::other("the Engine's events ended"))?;
            let told = Instant::now();
            let event: Value = serde_json::from_str(&line)?;
            if event["Action"] == action {
                let container = event["Actor"]["ID"].as_str().unwrap_or_default().to_owned();
                let at = event["timeNano"].as_f64().unwrap_or_default() / 1e9;
                return Ok(Event { container, told, at });
            }
        }
    }

    /// Passes over what was told already.
    pub(crate) async fn catch_up(&mut self) -> io::Result<()> {
        while let Ok(line) = timeout(Duration::from_millis(20), self.0.next_line()).await {
            if line?.is_none() {
                return Err(io::Error::other("the Engine's events ended"));
            }
        }
        Ok(())
    }
}
