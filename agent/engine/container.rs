//! One container's life: create, attach, start, stop, inspect, logs, remove. Its end is in `exit`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Engine, EngineError, LogConfig, QUICK, SLOW, body, call, json, output::OutputReader};

/// A container that the Engine knows.
#[derive(Clone, Debug)]
pub struct Container {
    pub(super) engine: Engine,
    /// Its id.
    pub id: String,
}

/// What an inspect says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether its process lives (paused counts).
    pub running: bool,
    /// Its exit code, once it ended.
    pub exit_code: i64,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
    /// When it started, if it did.
    pub started_at: Option<SystemTime>,
    /// When it ended, if it did.
    pub finished_at: Option<SystemTime>,
    /// Processes that went on after a command's end, and were ended. `None` of a container, whose go with it.
    pub left_behind: Option<Vec<String>>,
    /// How many of those that a command started could not be ended.
    pub survivors: u64,
    /// Whether it ended and nobody saw how: a command whose shim was killed.
    pub unseen: bool,
}

/// A container that was found by its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The container.
    pub container: Container,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it is.
    pub state: ContainerState,
}

/// Events of a container that the Engine remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// It started.
    pub start: bool,
    /// A signal was sent to it.
    pub kill: bool,
    /// It ended.
    pub die: bool,
}

/// What an inspect says of the state, in the Engine's words.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    exit_code: i64,
    #[serde(rename = "OOMKilled", default)]
    oom_killed: bool,
    started_at: String,
    finished_at: String,
    #[serde(default)]
    left_behind: Option<Vec<String>>,
    #[serde(default)]
    survivors: u64,
    #[serde(default)]
    unseen: bool,
}

impl From<State> for ContainerState {
    fn from(state: State) -> Self {
        let started_at = engine_time(&state.started_at);
        Self {
            running: state.running,
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
            started_at,
            // The Engine's FinishedAt was before its StartedAt in half of short runs (FACTS).
            finished_at: engine_time(&state.finished_at)
                .map(|at| started_at.map_or(at, |start| at.max(start))),
            left_behind: state.left_behind,
            survivors: state.survivors,
            unseen: state.unseen,
        }
    }
}

impl Engine {
    /// Creates a container.
    pub async fn create(
        &self,
        name: &str,
        platform: Option<&str>,
        body: &Map<String, Value>,
    ) -> Result<Container, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
            #[serde(default)]
            warnings: Option<Vec<String>>,
        }
        let doing = "creating the container";
        let mut query = vec![("name", name)];
        query.extend(platform.map(|platform| ("platform", platform)));
        let request = self.request(Method::POST, "/containers/create", &query).json(body);
        let created: Created = json(doing, call(doing, SLOW, request).await?).await?;
        for warning in created.warnings.unwrap_or_default() {
            tracing::warn!(warning, "the Engine warns of the command");
        }
        Ok(Container { engine: self.clone(), id: created.id })
    }

    /// The container of that id, which may be gone by now.
    pub fn container(&self, id: &str) -> Container {
        Container { engine: self.clone(), id: id.to_owned() }
    }

    /// The container of that name; `Err` with 404 if there is none.
    pub async fn find(&self, name: &str) -> Result<Named, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            id: String,
            config: Config,
            state: State,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            #[serde(default)]
            labels: Option<BTreeMap<String, String>>,
        }
        let doing = "inspecting the container";
        let request = self.request(Method::GET, &format!("/containers/{name}/json"), &[]);
        let found: Inspected = json(doing, call(doing, QUICK, request).await?).await?;
        Ok(Named {
            container: self.container(&found.id),
            labels: found.config.labels.unwrap_or_default(),
            state: found.state.into(),
        })
    }
}

impl Container {
    /// Connects to the container's output. Before the start, so that nothing is missed; never with `logs=1`,
    /// which wedges a container whose log driver is `none` (FACTS).
    pub async fn attach(&self, tty: bool) -> Result<OutputReader, EngineError> {
        let doing = "attaching to the container";
        let query = [("stream", "1"), ("stdout", "1"), ("stderr", "1")];
        let request = self
            .request(Method::POST, "/attach", &query)
            .header("Connection", "Upgrade")
            .header("Upgrade", "tcp");
        let response = call(doing, QUICK, request).await?;
        let upgraded =
            response.upgrade().await.map_err(|source| EngineError::Unreachable { doing, source })?;
        Ok(OutputReader::attached(upgraded, tty))
    }

    /// Reads the log that the Engine keeps of the container, from its beginning or from a moment on, and
    /// follows it to the container's end. Refused with 501 if the log driver cannot be read.
    ///
    /// It costs the Engine several times what [`Self::attach`] does (FACTS), so it is for what was missed.
    pub async fn logs(&self, tty: bool, since: Option<SystemTime>) -> Result<OutputReader, EngineError> {
        let since = since.and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.map(|since| format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
        let mut query = vec![("follow", "1"), ("stdout", "1"), ("stderr", "1")];
        query.extend(since.as_deref().map(|since| ("since", since)));
        let request = self.request(Method::GET, "/logs", &query);
        let answer = call("reading the container's log", QUICK, request).await?;
        Ok(OutputReader::kept(answer, tty))
    }

    /// The container's variables, `NAME=value` each.
    pub async fn env(&self) -> Result<Vec<String>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            #[serde(default)]
            env: Option<Vec<String>>,
        }
        let inspected: Inspected = self.inspect().await?;
        Ok(inspected.config.env.unwrap_or_default())
    }

    /// How the Engine keeps the container's log: the command's options with the Engine's defaults.
    pub async fn log_config(&self) -> Result<LogConfig, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            host_config: HostConfig,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct HostConfig {
            log_config: LogConfig,
        }
        let inspected: Inspected = self.inspect().await?;
        Ok(inspected.host_config.log_config)
    }

    /// Starts the container.
    pub async fn start(&self) -> Result<(), EngineError> {
        call("starting the container", SLOW, self.request(Method::POST, "/start", &[])).await.map(drop)
    }

    /// Sends a signal; `None` is the container's own stop signal.
    ///
    /// The Engine's own stop call would wait for the end and kill by itself, in the agent's place.
    pub async fn signal(&self, signal: &str) -> Result<(), EngineError> {
        let request = self.request(Method::POST, "/kill", &[("signal", signal)]);
        call("sending a signal to the container", QUICK, request).await.map(drop)
    }

    /// The signal that asks the container to end: the command's, else its image's, else SIGTERM.
    pub async fn stop_signal(&self) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            #[serde(default)]
            stop_signal: Option<String>,
        }
        let inspected: Inspected = self.inspect().await?;
        let signal = inspected.config.stop_signal.filter(|signal| !signal.is_empty());
        Ok(signal.unwrap_or_else(|| "SIGTERM".to_owned()))
    }

    /// How the container is.
    pub async fn state(&self) -> Result<ContainerState, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            state: State,
        }
        Ok(self.inspect::<Inspected>().await?.state.into())
    }

    /// Whether containers go on running while this Engine is away.
    pub async fn survives_the_engine(&self) -> Result<bool, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            #[serde(default)]
            live_restore_enabled: bool,
        }
        let doing = "asking about live-restore";
        let request = self.engine.request(Method::GET, "/info", &[]);
        let info: Info = json(doing, call(doing, QUICK, request).await?).await?;
        Ok(info.live_restore_enabled)
    }

    /// Whether an Engine answers a new connection: one that is going does not (seen on 20.10), but where its socket is
    /// held by systemd the next one does, later.
    pub(crate) async fn engine_answers(&self) -> bool {
        call("connecting", QUICK, self.engine.request(Method::GET, "/_ping", &[])).await.is_ok()
    }

    /// What the Engine remembers of the container: since it started, and of its last 256 events.
    pub async fn remembered(&self) -> Result<Remembered, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Happened {
            action: String,
        }
        let doing = "reading the container's events";
        let filters = serde_json::json!({ "container": [self.id], "event": ["start", "kill", "die"] });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The second that has begun counts; the Engine answers when it is over.
        let (until, filters) = ((now.as_secs() + 1).to_string(), filters.to_string());
        let query = [("since", "0"), ("until", &*until), ("filters", &*filters)];
        let request = self.engine.request(Method::GET, "/events", &query);
        let body = body(doing, call(doing, QUICK, request).await?).await?;
        let happened = serde_json::Deserializer::from_slice(&body).into_iter::<Happened>();
        let happened: Vec<_> = happened.map_while(Result::ok).map(|happened| happened.action).collect();
        let has = |action: &str| happened.iter().any(|happened| happened == action);
        Ok(Remembered { start: has("start"), kill: has("kill"), die: has("die") })
    }

    async fn inspect<T: for<'a> Deserialize<'a>>(&self) -> Result<T, EngineError> {
        let doing = "inspecting the container";
        json(doing, call(doing, QUICK, self.request(Method::GET, "/json", &[])).await?).await
    }

    /// Removes the container, running or not.
    pub async fn remove(&self, with_volumes: bool) -> Result<(), EngineError> {
        let volumes = if with_volumes { "1" } else { "0" };
        let request = self.request(Method::DELETE, "", &[("force", "1"), ("v", volumes)]);
        call("removing the container", SLOW, request).await.map(drop)
    }

    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        self.engine.request(method, &format!("/containers/{}{path}", self.id), query)
    }
}

/// The Engine's `0001-01-01T00:00:00Z` means never.
fn engine_time(text: &str) -> Option<SystemTime> {
    let time = humantime::parse_rfc3339(text).ok()?;
    (time > SystemTime::UNIX_EPOCH + Duration::from_secs(1)).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_zero_time_means_never() {
        assert_eq!(engine_time("0001-01-01T00:00:00Z"), None);
        let time = engine_time("2026-11-23T10:00:00.123456789Z").unwrap();
        assert_eq!(humantime::format_rfc3339_millis(time).to_string(), "2026-11-23T10:00:00.123Z");
    }
}
