//! Where things are, and how long to wait for them: read once from the environment.
//!
//! Leaves out what to run, which comes from the VM's attributes.

use std::{fmt, path::PathBuf, time::Duration};

use reqwest::Url;
use thiserror::Error;
use tracing_subscriber::filter::Targets;

/// Kept over reboots on Container-Optimized OS too (FACTS).
const STATE_DIR: &str = "/var/lib/longrun";

/// The longest budget: a clock has no end to give one that is for ever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Everything that the environment may say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the job's attributes come from.
    pub source: Source,
    /// The Engine that runs the container.
    pub docker_host: DockerHost,
    /// An address that stands in for every `*.googleapis.com` host.
    pub google_endpoint: Option<Url>,
    /// What must outlive the agent.
    pub state_dir: PathBuf,
    /// What the agent logs.
    pub log: Targets,
    /// How long to wait.
    pub budgets: Budgets,
}

/// Where the job's attributes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The metadata server at this address (`http://host:port`).
    Metadata(Url),
    /// A JSON object in a file: for a desk, where there is no metadata server.
    File(PathBuf),
}

/// The Engine's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerHost {
    /// A unix socket.
    Unix(PathBuf),
    /// Plain HTTP.
    Tcp(Url),
}

/// How long to wait for what is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// For the metadata server. At boot it can be unreachable for a while (FACTS).
    pub metadata: Duration,
    /// For the Engine. A restart of Docker takes seconds; an upgrade of it minutes.
    pub engine: Duration,
    /// For a pull that stands still. ECS' agent gives up after one minute; a slow disk unpacks for longer.
    pub pull_stall: Duration,
    /// For the end of the log to be in Cloud Storage. The report waits for it.
    pub upload: Duration,
    /// For a callback that does not accept the report.
    pub delivery: Duration,
    /// From one look at the workflow's execution to the next.
    pub orphan_check: Duration,
}

/// A variable that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{name}=`{value}` cannot be used; expected {expected}")]
pub struct SettingsError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(url) => write!(f, "{url}"),
        }
    }
}

impl Settings {
    /// Reads the variables of this process.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads the variables that `lookup` knows. An empty variable counts as none.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let budget = |name, default| match lookup(name) {
            None => Ok(default),
            Some(value) => match humantime::parse_duration(&value) {
                Ok(budget) if !budget.is_zero() && budget <= LONGEST => Ok(budget),
                _ => Err(SettingsError {
                    name,
                    value,
                    expected: "a duration such as 30s or 5m, a year at most",
                }),
            },
        };
        Ok(Self {
            source: source(lookup("LONGRUN_JOB_FILE"), lookup("GCE_METADATA_HOST"))?,
            docker_host: docker_host(lookup("DOCKER_HOST"))?,
            google_endpoint: google_endpoint(lookup("LONGRUN_GOOGLE_ENDPOINT"))?,
            state_dir: lookup("LONGRUN_STATE_DIR").map_or_else(|| STATE_DIR.into(), PathBuf::from),
            log: log(lookup("LONGRUN_LOG"))?,
            budgets: Budgets {
                metadata: budget("LONGRUN_METADATA_WAIT", minutes(5))?,
                engine: budget("LONGRUN_ENGINE_WAIT", minutes(5))?,
                pull_stall: budget("LONGRUN_PULL_STALL", minutes(2))?,
                upload: budget("LONGRUN_UPLOAD_WAIT", minutes(2))?,
                delivery: budget("LONGRUN_DELIVERY_DEADLINE", minutes(24 * 60))?,
                orphan_check: budget("LONGRUN_ORPHAN_CHECK", minutes(5))?,
            },
        })
    }
}

fn source(job_file: Option<String>, metadata_host: Option<String>) -> Result<Source, SettingsError> {
    if let Some(path) = job_file {
        return Ok(Source::File(path.into()));
    }
    // By address, not by name: at boot DNS may be out longer than the metadata server is.
    let value = metadata_host.unwrap_or_else(|| "169.254.169.254".to_owned());
    let url = Url::parse(&format!("http://{value}")).ok().filter(|url| url.path() == "/");
    url.map(Source::Metadata).ok_or(SettingsError {
        name: "GCE_METADATA_HOST",
        value,
        expected: "host or host:port",
    })
}

fn docker_host(value: Option<String>) -> Result<DockerHost, SettingsError> {
    let Some(value) = value else {
        return Ok(DockerHost::Unix("/var/run/docker.sock".into()));
    };
    let tcp = |rest| Url::parse(&format!("http://{rest}")).ok().map(DockerHost::Tcp);
    let host = match value.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Some(DockerHost::Unix(path.into())),
        Some(("tcp" | "http", rest)) => tcp(rest),
        _ => None,
    };
    host.ok_or(SettingsError { name: "DOCKER_HOST", value, expected: "unix:///path or tcp://host:port" })
}

fn google_endpoint(value: Option<String>) -> Result<Option<Url>, SettingsError> {
    let Some(value) = value else { return Ok(None) };
    match Url::parse(&value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.path() == "/" => Ok(Some(url)),
        _ => Err(SettingsError { name: "LONGRUN_GOOGLE_ENDPOINT", value, expected: "http://host:port" }),
    }
}

fn log(value: Option<String>) -> Result<Targets, SettingsError> {
    let value = value.unwrap_or_else(|| "info".to_owned());
    value.parse().map_err(|_| SettingsError {
        name: "LONGRUN_LOG",
        value,
        expected: "error, warn, info, debug or trace, or module=level,…",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_every_variable() {
        let asked = std::cell::RefCell::new(Vec::new());
        Settings::from_lookup(|name| {
            asked.borrow_mut().push(format!("| `{name}` | "));
            None
        })
        .unwrap();
        for row in asked.take() {
            assert!(include_str!("../README.md").contains(&row), "the README has no row {row}");
        }
    }

    #[test]
    fn on_a_vm_nothing_needs_to_be_set() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.source, Source::Metadata("http://169.254.169.254/".parse().unwrap()));
        assert_eq!(settings.docker_host, DockerHost::Unix("/var/run/docker.sock".into()));
        assert_eq!(settings.google_endpoint, None);
        assert_eq!(settings.state_dir, PathBuf::from("/var/lib/longrun"));
        assert_eq!(settings.budgets.delivery, Duration::from_secs(24 * 3600));
    }

    #[test]
    fn every_variable_is_read() {
        let settings = read(&[
            ("GCE_METADATA_HOST", "127.0.0.1:8080"),
            ("DOCKER_HOST", "unix:///run/docker.sock"),
            ("LONGRUN_GOOGLE_ENDPOINT", "http://127.0.0.1:8080"),
            ("LONGRUN_STATE_DIR", "/state"),
            ("LONGRUN_LOG", "longrun_agent=debug,warn"),
            ("LONGRUN_METADATA_WAIT", "1s"),
            ("LONGRUN_ENGINE_WAIT", "2s"),
            ("LONGRUN_PULL_STALL", "3s"),
            ("LONGRUN_DELIVERY_DEADLINE", "4s"),
            ("LONGRUN_ORPHAN_CHECK", "5s"),
            ("LONGRUN_UPLOAD_WAIT", "6s"),
        ])
        .unwrap();
        assert_eq!(settings.source, Source::Metadata("http://127.0.0.1:8080/".parse().unwrap()));
        assert_eq!(settings.docker_host, DockerHost::Unix("/run/docker.sock".into()));
        assert_eq!(settings.google_endpoint, Some("http://127.0.0.1:8080".parse().unwrap()));
        assert_eq!(settings.state_dir, PathBuf::from("/state"));
        let seconds = Duration::from_secs;
        let budgets = Budgets {
            metadata: seconds(1),
            engine: seconds(2),
            pull_stall: seconds(3),
            delivery: seconds(4),
            orphan_check: seconds(5),
            upload: seconds(6),
        };
        assert_eq!(settings.budgets, budgets);
    }

    #[test]
    fn a_job_file_stands_in_for_the_metadata_server() {
        let both = [("LONGRUN_JOB_FILE", "job.json"), ("GCE_METADATA_HOST", "h")];
        assert_eq!(read(&both).unwrap().source, Source::File("job.json".into()));
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named() {
        refuse("GCE_METADATA_HOST", "a b");
        refuse("GCE_METADATA_HOST", "host/path");
        refuse("DOCKER_HOST", "ssh://host");
        refuse("DOCKER_HOST", "/var/run/docker.sock");
        refuse("LONGRUN_GOOGLE_ENDPOINT", "127.0.0.1:80");
        refuse("LONGRUN_LOG", "loud=very");
        refuse("LONGRUN_ENGINE_WAIT", "5");
        refuse("LONGRUN_ENGINE_WAIT", "18446744073709551615s");
        refuse("LONGRUN_ORPHAN_CHECK", "0s");
    }

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_lookup(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn refuse(name: &str, value: &str) {
        let error = read(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}=`{value}` cannot be used; expected ")), "{error}");
    }
}
