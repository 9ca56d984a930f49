//! The VM's attributes, read into an [`Order`]: whom to call back, and what to run.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use reqwest::{Method, Url};
use thiserror::Error;

use super::{
    Command, ContainerCommand, ExitCodes, HostCommand, ReadFile, SecretEnv, SecretVersion, Sinks, host,
    nearest, secrets,
};

/// Attributes by name, as the metadata server gives them.
pub type Attributes = BTreeMap<String, String>;

/// One attribute that the agent reads. The README's table is these rows.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name; `NAME` at the end stands for any name.
    pub name: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn row(name: &'static str, default: &'static str, meaning: &'static str) -> Attribute {
    Attribute { name, default, meaning }
}

/// Every attribute there is.
pub const TABLE: &[Attribute] = &[
    row(
        "docker-command",
        "one of the two",
        "a `docker run …` command line; POSIX shell quoting, nothing is expanded",
    ),
    row(
        "host-command",
        "one of the two",
        "a command for the VM's own `/bin/sh`; or, in several lines that begin with `#!`, a script for that interpreter",
    ),
    row("callback-url", "required", "where the report goes"),
    row(
        "longrun-callback-method",
        "`POST`",
        "`GET` `HEAD` `POST` `PUT` `DELETE` `OPTIONS` `PATCH`; `GET` and `HEAD` carry the outcome in `Longrun-*` headers alone",
    ),
    row(
        "longrun-callback-auth",
        "`auto`",
        "`access-token`, `identity-token`, `none`; `auto`: an access token for `*.googleapis.com`, an identity token for `*.run.app` and `*.cloudfunctions.net`, none elsewhere",
    ),
    row("longrun-timeout", "none", "longest run of one attempt (`90m`, `36h`, `14d`); then it is stopped"),
    row("longrun-stop-grace", "`--stop-timeout`, else `10s`", "time between the stop signal and SIGKILL"),
    row(
        "longrun-max-attempts",
        "`1`",
        "how often the job is started, 100 times at most: again if it exits with one of `longrun-retry-exit-codes` (out of memory too), or if a restart of Docker ended it, after a pause that grows from a second to a minute; never after `DeadlineExceeded`, `Stopped`, `Preempted`, `InvalidJob`, `ImagePullFailed`, `ContainerCannotRun` or `CommandCannotRun`",
    ),
    row(
        "longrun-retry-exit-codes",
        "every non-zero",
        "codes and ranges from 1 to 255, `1,75,100-110`; only with `longrun-max-attempts`",
    ),
    row(
        "longrun-on-reboot",
        "`fail`",
        "if the VM reboots while the job runs: `fail` reports `Rebooted`, `rerun` starts a new attempt",
    ),
    row("longrun-log-tail", "`32KiB`", "last bytes of the log in the report; at most `128KiB`"),
    row(
        "longrun-logs",
        "none",
        "where the whole output goes: `cloud-logging`, a line an entry; `gs://bucket/prefix`, as an object of Cloud Storage; or both, with a comma between them",
    ),
    row(
        "longrun-result-file",
        "none",
        "an absolute path in the container: a JSON file of 64 KiB at most that becomes `result` in the report",
    ),
    row("longrun-user", "the agent's: `root`", "who a `host-command` runs as, by name or number"),
    row("longrun-env-NAME", "", "the job's variable NAME, with this value as it is"),
    row(
        "longrun-secret-env-NAME",
        "",
        "a secret of Secret Manager that becomes the job's variable NAME: `SECRET`, `SECRET:VERSION` or `projects/PROJECT/secrets/SECRET/versions/VERSION`; redacted wherever the log leaves the VM",
    ),
    row(
        "longrun-when-orphaned",
        "`stop-job`",
        "when the workflow that waits is over or cancelled: `keep` lets the job run on, `stop-job` stops it, `delete-vm` then deletes the VM too, also if no callback took the report until the deadline",
    ),
    row(
        "longrun-preflight",
        "`warn`",
        "whether the report will reach the workflow is looked at while the image is pulled: `warn` logs what to grant, `require` runs nothing then (`InvalidJob`), `off` does not look",
    ),
];

/// More than anybody waits for; it bounds `attempts[]` in the report.
const MOST_ATTEMPTS: u32 = 100;
/// The report's tail without `longrun-log-tail`.
const LOG_TAIL: usize = 32 << 10;
/// A workflow's variables share 512 KB (FACTS), and the report's whole body must stay under 256 KiB.
const LOG_TAIL_MOST: usize = 128 << 10;
/// Servers take addresses of some 8000 characters; HTTP's library refuses them from 64 KiB on.
const MOST_URL: usize = 8 << 10;
/// It stands in the report's message.
const MOST_PATH: usize = 1 << 10;
/// tokio's timers end some two years ahead, and a VM lives 120 days at most with maxRunDuration.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// What the names of our attributes begin with, but for the three of the article.
const PREFIX: &str = "longrun-";
/// `longrun-env-NAME` without the variable's name.
const ENV: &str = "longrun-env-";
/// The docker CLI's own default for `docker stop`.
const GRACE: Duration = Duration::from_secs(10);

/// What the VM was ordered to do. Whom to tell is known even when the job makes no sense.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whom to tell.
    pub callback: Callback,
    /// What to do when nobody waits to be told.
    pub when_orphaned: WhenOrphaned,
    /// What to do when it may not be possible to tell.
    pub preflight: Preflight,
    /// What to run, or everything that is wrong with it, one sentence each.
    pub job: Result<Job, Vec<String>>,
}

/// Where the report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The address.
    pub url: Url,
    /// The verb.
    pub method: Method,
    /// The credential that goes along.
    pub auth: Auth,
}

/// `longrun-callback-auth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// By the callback's host.
    #[default]
    Auto,
    /// The service account's OAuth access token.
    AccessToken,
    /// An OpenID Connect token for the callback's address.
    IdentityToken,
    /// No credential.
    None,
}

/// `longrun-on-reboot`: what becomes of a job that ran when the VM went down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReboot {
    /// The run ends, with the reason Rebooted.
    #[default]
    Fail,
    /// The next boot starts a new attempt.
    Rerun,
}

/// `longrun-when-orphaned`: what becomes of the job, and of the VM, when the workflow that waits is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenOrphaned {
    /// The job runs on.
    Keep,
    /// The job is stopped.
    #[default]
    StopJob,
    /// The job is stopped, and then the VM is deleted.
    DeleteVm,
}

/// `longrun-preflight`: whether it is looked at beforehand that the report will reach the workflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// What is missing is logged.
    #[default]
    Warn,
    /// Nothing runs where something is missing.
    Require,
    /// Nobody looks.
    Off,
}

/// What to run, and the bounds that it runs in.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The container, or the command on the VM.
    pub command: Command,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Between the stop signal and SIGKILL.
    pub grace: Duration,
    /// How often the job is started at most, 1 to 100.
    pub max_attempts: u32,
    /// The exit codes after which it is started again.
    pub retry_exit_codes: ExitCodes,
    /// What the next boot does with it.
    pub on_reboot: OnReboot,
    /// Last bytes of the log in the report.
    pub log_tail: usize,
    /// Variables beside those of the command, with their values.
    pub env: Vec<(String, String)>,
    /// Variables beside those, whose values are secrets.
    pub secrets: Vec<SecretEnv>,
    /// Where else the log goes.
    pub sinks: Sinks,
    /// The result's absolute path in the container.
    pub result_file: Option<String>,
}

/// Without a callback there is nobody to tell, and nothing is run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoCallback {
    /// No attribute `callback-url`.
    #[error(
        "the attribute callback-url is missing; set it to the url that events.create_callback_endpoint gave"
    )]
    Missing,
    /// Not an address.
    #[error(
        "the attribute callback-url is not an http or https address ({0}); set it to the url that events.create_callback_endpoint gave"
    )]
    Malformed(String),
}

impl Order {
    /// Reads all attributes. Those that are not ours are ignored. `read` reads the files that a command names.
    pub fn read(attributes: &Attributes, read: ReadFile) -> Result<Self, NoCallback> {
        let url = callback_url(attributes)?;
        let mut reader = Reader { attributes, problems: Vec::new() };
        reader.check_names();

        let method = reader.read("longrun-callback-method", method).unwrap_or(Method::POST);
        let auth = reader.read("longrun-callback-auth", auth).unwrap_or_default();
        let when_orphaned = reader.read("longrun-when-orphaned", when_orphaned).unwrap_or_default();
        let preflight = reader.read("longrun-preflight", preflight).unwrap_or_default();
        let timeout = reader.read("longrun-timeout", duration);
        let grace = reader.read("longrun-stop-grace", duration);
        let max_attempts = reader.read("longrun-max-attempts", max_attempts).unwrap_or(1);
        let retry_exit_codes = reader.retry_exit_codes();
        let on_reboot = reader.read("longrun-on-reboot", on_reboot).unwrap_or_default();
        let log_tail = reader.read("longrun-log-tail", log_tail).unwrap_or(LOG_TAIL);
        let sinks = reader.read("longrun-logs", Sinks::parse).unwrap_or_default();
        let result_file = reader.read("longrun-result-file", result_file);
        let user = reader.read("longrun-user", host::user);
        let command = reader.command(read, user);
        let env = reader.env(command.as_ref());
        let secrets = reader.secrets(command.as_ref());

        let job = match command {
            Some(command) if reader.problems.is_empty() => {
                let grace = grace.unwrap_or_else(|| command_grace(&command));
                Ok(Job {
                    command,
                    timeout,
                    grace,
                    max_attempts,
                    retry_exit_codes,
                    on_reboot,
                    log_tail,
                    env,
                    secrets,
                    sinks,
                    result_file,
                })
            }
            _ => Err(reader.problems),
        };
        Ok(Self { callback: Callback { url, method, auth }, when_orphaned, preflight, job })
    }
}

fn callback_url(attributes: &Attributes) -> Result<Url, NoCallback> {
    let text = attributes.get("callback-url").map(|text| text.trim()).filter(|text| !text.is_empty());
    let url = Url::parse(text.ok_or(NoCallback::Missing)?)
        .map_err(|error| NoCallback::Malformed(error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.as_str().len() > MOST_URL => {
            Err(NoCallback::Malformed(format!("it has more than {MOST_URL} characters")))
        }
        "http" | "https" => Ok(url),
        scheme => Err(NoCallback::Malformed(format!("its scheme is {scheme}"))),
    }
}

/// Reads attribute by attribute and collects what is wrong, so that one boot of the VM shows all of it.
struct Reader<'a> {
    attributes: &'a Attributes,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn read<T>(&mut self, name: &str, read: fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.attributes.get(name)?.trim();
        match read(value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problem(format_args!("{name}: `{value}` cannot be used; expected {expected}"));
                None
            }
        }
    }

    /// Whoever names codes expects a second attempt, and without a number there is none. A 1 that is written
    /// down is no mistake: that is how a template turns retries off.
    fn retry_exit_codes(&mut self) -> ExitCodes {
        let codes = self.read("longrun-retry-exit-codes", ExitCodes::parse);
        if codes.is_some() && !self.attributes.contains_key("longrun-max-attempts") {
            self.problem("longrun-retry-exit-codes: nothing is tried again without longrun-max-attempts; set it to 2 or more");
        }
        codes.unwrap_or_default()
    }

    fn command(&mut self, read: ReadFile, user: Option<String>) -> Option<Command> {
        match (self.attributes.get("docker-command"), self.attributes.get("host-command")) {
            (Some(text), None) => {
                if user.is_some() {
                    self.problem(
                        "longrun-user: it is for host-command; a container's user is `docker run --user`",
                    );
                }
                let command = ContainerCommand::parse(text, read).map_err(|error| self.problem(error));
                command.ok().map(Command::Container)
            }
            (None, Some(text)) => {
                let command = HostCommand::parse(text, user);
                command.map_err(|error| self.problem(error)).ok().map(Command::Host)
            }
            (Some(_), Some(_)) => {
                self.problem("docker-command and host-command are both set; keep one of them");
                None
            }
            (None, None) => {
                self.problem("neither docker-command nor host-command is set; set docker-command to a `docker run …` line");
                None
            }
        }
    }

    /// The variables that attributes with this prefix give, by name and value.
    fn variables(&self, prefix: &str) -> Vec<(String, String)> {
        let attributes = self.attributes.range(prefix.to_owned()..);
        let named = attributes.map_while(|(attribute, value)| Some((attribute.strip_prefix(prefix)?, value)));
        let named = named.filter(|(name, _)| !name.is_empty());
        named.map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }

    /// A value is taken as it is, blanks and line ends too.
    fn env(&mut self, command: Option<&Command>) -> Vec<(String, String)> {
        let env = self.variables(ENV);
        for (name, value) in &env {
            self.check_variable(ENV, name, command);
            if value.contains('\0') {
                self.problem(format_args!("{ENV}{name}: its value has a zero byte, which no variable can"));
            }
        }
        env
    }

    fn secrets(&mut self, command: Option<&Command>) -> Vec<SecretEnv> {
        let secrets = self.variables(secrets::ATTRIBUTE);
        secrets.into_iter().filter_map(|(name, version)| self.secret(name, &version, command)).collect()
    }

    /// The secret that becomes this variable, which is the only one to do so.
    fn secret(&mut self, name: String, version: &str, command: Option<&Command>) -> Option<SecretEnv> {
        self.check_variable(secrets::ATTRIBUTE, &name, command);
        let attribute = format!("{}{name}", secrets::ATTRIBUTE);
        if self.attributes.contains_key(&format!("{ENV}{name}")) {
            self.problem(format_args!("{attribute}: {ENV}{name} is set too; keep one of them"));
        }
        match SecretVersion::parse(version.trim()) {
            Ok(version) => Some(SecretEnv { name, version }),
            Err(expected) => {
                self.problem(format_args!("{attribute}: its value cannot be used; expected {expected}"));
                None
            }
        }
    }

    /// A name that a variable can have, and that the command itself does not give to one.
    fn check_variable(&mut self, prefix: &str, name: &str, command: Option<&Command>) {
        if !secrets::is_variable(name) {
            self.problem(format_args!(
                "{prefix}{name}: `{name}` cannot be a variable's name; use letters, digits and _, and no digit first"
            ));
        } else if command.and_then(Command::container).is_some_and(|command| command.has_env(name)) {
            self.problem(format_args!(
                "{prefix}{name}: docker-command has the variable {name} too, by --env or --env-file; keep one of them"
            ));
        }
    }

    /// Complains of `longrun-*` attributes that do not exist.
    fn check_names(&mut self) {
        for name in self.attributes.keys() {
            // The prefix that all have makes none of them near.
            let Some(own) = name.strip_prefix(PREFIX).filter(|_| !TABLE.iter().any(|row| row.is(name)))
            else {
                continue;
            };
            let near = nearest(own, TABLE.iter().filter_map(|row| row.name.strip_prefix(PREFIX)));
            let near = near.map(|near| format!("; the nearest known one is {PREFIX}{near}"));
            self.problem(format_args!("{name}: unknown attribute{}", near.unwrap_or_default()));
        }
    }

    fn problem(&mut self, problem: impl Display) {
        self.problems.push(problem.to_string());
    }
}

impl Attribute {
    fn is(&self, name: &str) -> bool {
        match self.name.strip_suffix("NAME") {
            Some(prefix) => name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
            None => name == self.name,
        }
    }
}

/// `--stop-timeout`, else ten seconds. A negative one is docker's "for ever"; a supervisor with deadlines
/// has no for ever, so that is a day.
fn command_grace(command: &Command) -> Duration {
    match command.container().and_then(|command| command.stop_timeout) {
        None => GRACE,
        Some(seconds) => {
            let seconds = u64::try_from(seconds).map_or(Duration::from_secs(24 * 3600), Duration::from_secs);
            seconds.min(LONGEST)
        }
    }
}

fn method(value: &str) -> Result<Method, String> {
    match value.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "DELETE" => Ok(Method::DELETE),
        "OPTIONS" => Ok(Method::OPTIONS),
        "PATCH" => Ok(Method::PATCH),
        _ => Err("GET, HEAD, POST, PUT, DELETE, OPTIONS or PATCH".to_owned()),
    }
}

fn auth(value: &str) -> Result<Auth, String> {
    match value {
        "auto" => Ok(Auth::Auto),
        "access-token" => Ok(Auth::AccessToken),
        "identity-token" => Ok(Auth::IdentityToken),
        "none" => Ok(Auth::None),
        _ => Err("auto, access-token, identity-token or none".to_owned()),
    }
}

fn duration(value: &str) -> Result<Duration, String> {
    match humantime::parse_duration(value) {
        Ok(duration) if duration > LONGEST => Err("a year at most".to_owned()),
        Ok(duration) if duration.is_zero() => Err("more than nothing, such as 90m, 36h or 14d".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("a duration such as 90s, 90m, 36h or 14d".to_owned()),
    }
}

fn max_attempts(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(attempts @ 1..=MOST_ATTEMPTS) => Ok(attempts),
        _ => Err(format!("a number from 1 to {MOST_ATTEMPTS}")),
    }
}

fn on_reboot(value: &str) -> Result<OnReboot, String> {
    match value {
        "fail" => Ok(OnReboot::Fail),
        "rerun" => Ok(OnReboot::Rerun),
        _ => Err("fail or rerun".to_owned()),
    }
}

fn when_orphaned(value: &str) -> Result<WhenOrphaned, String> {
    match value {
        "keep" => Ok(WhenOrphaned::Keep),
        "stop-job" => Ok(WhenOrphaned::StopJob),
        "delete-vm" => Ok(WhenOrphaned::DeleteVm),
        _ => Err("keep, stop-job or delete-vm".to_owned()),
    }
}

fn preflight(value: &str) -> Result<Preflight, String> {
    match value {
        "warn" => Ok(Preflight::Warn),
        "require" => Ok(Preflight::Require),
        "off" => Ok(Preflight::Off),
        _ => Err("warn, require or off".to_owned()),
    }
}

fn log_tail(value: &str) -> Result<usize, String> {
    let size = super::values::bytes(value).ok().and_then(|size| usize::try_from(size.as_u64()?).ok());
    match size {
        Some(size) if size <= LOG_TAIL_MOST => Ok(size),
        Some(_) => Err("128KiB at most".to_owned()),
        None => Err("a size such as 32KiB, 128KiB at most".to_owned()),
    }
}

fn result_file(value: &str) -> Result<String, String> {
    let is_path = value.starts_with('/') && !value.ends_with('/') && !value.contains('\0');
    match is_path && value.len() <= MOST_PATH {
        true => Ok(value.to_owned()),
        false => Err(format!(
            "an absolute path in the container, such as /out/result.json, of {MOST_PATH} bytes at most"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://workflowexecutions.googleapis.com/v1/projects/p/locations/l/workflows/w/executions/e/callbacks/c";

    #[test]
    fn the_readmes_table_is_this_one() {
        let mut expected = String::from("| attribute | default | meaning |\n| --- | --- | --- |\n");
        for row in TABLE {
            expected += &format!("| `{}` | {} | {} |\n", row.name, row.default, row.meaning);
        }
        assert!(include_str!("../../README.md").contains(&expected), "the README should have:\n{expected}");
    }

    #[test]
    fn the_readmes_examples_have_every_attribute_and_can_be_used() {
        let readme = include_str!("../../README.md");
        let mut shown = Vec::new();
        for before in ["Each with an example:\n\n```json\n", "Or, on the VM itself:\n\n```json\n"] {
            let (_, example) = readme.split_once(before).unwrap();
            let (example, _) = example.split_once("```").unwrap();
            let attributes: Attributes = serde_json::from_str(example).unwrap();
            assert_eq!(Order::read(&attributes, no_file).unwrap().job.err(), None);
            shown.extend(attributes.into_keys());
        }
        for row in TABLE {
            assert!(shown.iter().any(|name| row.is(name)), "{}", row.name);
        }
    }

    #[test]
    fn defaults_hold_where_nothing_is_said() {
        let order = order(&[]).unwrap();
        assert_eq!(
            order.callback,
            Callback { url: URL.parse().unwrap(), method: Method::POST, auth: Auth::Auto }
        );
        let job = order.job.unwrap();
        assert_eq!((job.timeout, job.grace, job.log_tail), (None, Duration::from_secs(10), 32 << 10));
        assert_eq!((job.max_attempts, job.on_reboot, job.result_file), (1, OnReboot::Fail, None));
        assert_eq!((order.when_orphaned, order.preflight), (WhenOrphaned::StopJob, Preflight::Warn));
        assert_eq!(job.retry_exit_codes, ExitCodes::default());
    }

    #[test]
    fn every_attribute_is_read() {
        let order = order(&[
            ("longrun-callback-method", "put"),
            ("longrun-callback-auth", "none"),
            ("longrun-timeout", "14d"),
            ("longrun-stop-grace", "90s"),
            ("longrun-max-attempts", "100"),
            ("longrun-retry-exit-codes", "1, 75, 100-110"),
            ("longrun-on-reboot", "rerun"),
            ("longrun-log-tail", "128KiB"),
            ("longrun-secret-env-B_2", " key:2 "),
            ("longrun-secret-env-A", "projects/p/secrets/key"),
            ("longrun-env-GREETING", " it's $HOME\n"),
            ("longrun-when-orphaned", "delete-vm"),
            ("longrun-preflight", "require"),
            ("longrun-logs", "cloud-logging, gs://my-logs/runs"),
            ("longrun-result-file", "/out/my result.json"),
            ("ssh-keys", "not ours"),
        ])
        .unwrap();
        assert_eq!((order.when_orphaned, order.preflight), (WhenOrphaned::DeleteVm, Preflight::Require));
        assert_eq!((order.callback.method, order.callback.auth), (Method::PUT, Auth::None));
        let job = order.job.unwrap();
        assert_eq!(job.timeout, Some(Duration::from_secs(14 * 24 * 3600)));
        assert_eq!((job.grace, job.log_tail), (Duration::from_secs(90), 128 << 10));
        assert_eq!((job.max_attempts, job.on_reboot), (100, OnReboot::Rerun));
        assert!(job.sinks.cloud_logging);
        assert_eq!(job.result_file.as_deref(), Some("/out/my result.json"));
        assert!([1, 75, 100, 110].into_iter().all(|code| job.retry_exit_codes.contains(code)));
        assert!(![2, 99, 111].into_iter().any(|code| job.retry_exit_codes.contains(code)));
        assert_eq!(job.env, [("GREETING".to_owned(), " it's $HOME\n".to_owned())]);
        let secrets: Vec<_> =
            job.secrets.iter().map(|secret| (&*secret.name, secret.version.to_string())).collect();
        assert_eq!(
            secrets,
            [("A", "projects/p/secrets/key/versions/latest".to_owned()), ("B_2", "key:2".to_owned())]
        );
    }

    #[test]
    fn codes_to_retry_need_a_number_of_attempts() {
        let codes = ("longrun-retry-exit-codes", "75");
        let problems = order(&[codes]).unwrap().job.unwrap_err();
        assert_eq!(
            problems,
            [
                "longrun-retry-exit-codes: nothing is tried again without longrun-max-attempts; set it to 2 or more"
            ]
        );
        let off = order(&[codes, ("longrun-max-attempts", "1")]).unwrap().job.unwrap();
        assert_eq!(off.max_attempts, 1);
    }

    #[test]
    fn a_number_of_attempts_is_from_1_to_100() {
        for value in ["", "0", "101", "-1", "1.5", "many", "4294967297"] {
            let problems = order(&[("longrun-max-attempts", value)]).unwrap().job.unwrap_err();
            let expected = "cannot be used; expected a number from 1 to 100";
            assert_eq!(problems, [format!("longrun-max-attempts: `{value}` {expected}")]);
        }
    }

    #[test]
    fn a_result_file_is_an_absolute_path() {
        for value in ["", "/", "out.json", "./out.json", "/out/", "/o\0ut", &format!("/{}", "o".repeat(1024))]
        {
            let problems = order(&[("longrun-result-file", value)]).unwrap().job.unwrap_err();
            let expected =
                "an absolute path in the container, such as /out/result.json, of 1024 bytes at most";
            assert_eq!(
                problems,
                [format!("longrun-result-file: `{value}` cannot be used; expected {expected}")]
            );
        }
    }

    #[test]
    fn the_grace_is_the_commands_own_unless_an_attribute_says_otherwise() {
        let stop_timeout = ("docker-command", "docker run --stop-timeout 42 a");
        assert_eq!(order(&[stop_timeout]).unwrap().job.unwrap().grace, Duration::from_secs(42));
        let for_ever = ("docker-command", "docker run --stop-timeout 9223372036854775807 a");
        assert_eq!(order(&[for_ever]).unwrap().job.unwrap().grace, LONGEST);
        let both = order(&[stop_timeout, ("longrun-stop-grace", "7s")]).unwrap();
        assert_eq!(both.job.unwrap().grace, Duration::from_secs(7));
    }

    #[test]
    fn without_a_callback_there_is_no_order() {
        let refused = |url: &str| order(&[("callback-url", url)]).unwrap_err();
        assert_eq!(Order::read(&Attributes::new(), no_file).unwrap_err(), NoCallback::Missing);
        assert_eq!(refused(" "), NoCallback::Missing);
        assert!(matches!(refused("workflowexecutions"), NoCallback::Malformed(_)));
        assert!(matches!(refused("ftp://x/y"), NoCallback::Malformed(_)));
        assert!(matches!(refused(&format!("https://x/{}", "y".repeat(9000))), NoCallback::Malformed(_)));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let problems = order(&[
            ("docker-command", "docker run --nope a"),
            ("longrun-timeuot", "1h"),
            ("longrun-zebra", "1"),
            ("longrun-callback-method", "TRACE"),
            ("longrun-callback-auth", "basic"),
            ("longrun-timeout", "soon"),
            ("longrun-retry-exit-codes", "110-100"),
            ("longrun-on-reboot", "again"),
            ("longrun-log-tail", "1GiB"),
            ("longrun-when-orphaned", "adopt"),
            ("longrun-preflight", "on"),
            ("longrun-logs", "cloud-logging, gs://Bucket/prefix"),
            ("longrun-secret-env-KEY", "hunter 2"),
        ])
        .unwrap()
        .job
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "longrun-timeuot: unknown attribute; the nearest known one is longrun-timeout",
                "longrun-zebra: unknown attribute",
                "longrun-callback-method: `TRACE` cannot be used; expected GET, HEAD, POST, PUT, DELETE, OPTIONS or PATCH",
                "longrun-callback-auth: `basic` cannot be used; expected auto, access-token, identity-token or none",
                "longrun-when-orphaned: `adopt` cannot be used; expected keep, stop-job or delete-vm",
                "longrun-preflight: `on` cannot be used; expected warn, require or off",
                "longrun-timeout: `soon` cannot be used; expected a duration such as 90s, 90m, 36h or 14d",
                "longrun-retry-exit-codes: `110-100` cannot be used; expected exit codes and ranges such as 1,75,100-110, but `110-100` runs backwards",
                "longrun-on-reboot: `again` cannot be used; expected fail or rerun",
                "longrun-log-tail: `1GiB` cannot be used; expected 128KiB at most",
                "longrun-logs: `cloud-logging, gs://Bucket/prefix` cannot be used; expected the name of a bucket, as in gs://bucket/prefix, not `Bucket/prefix`",
                "docker-command: unknown flag `--nope` at word 3",
                "longrun-secret-env-KEY: its value cannot be used; expected a secret of the VM's project such as `api-key` or `api-key:3`, or `projects/PROJECT/secrets/NAME/versions/VERSION`",
            ]
        );
    }

    #[test]
    fn a_secret_is_the_only_one_to_set_its_variable() {
        let problems = |command: &str, attribute: &str| {
            order(&[("docker-command", command), (attribute, "key")]).unwrap().job.map(drop).unwrap_err()
        };
        for command in ["docker run -e KEY=x a", "docker run -e KEY a", "docker run -e KEY= a"] {
            assert_eq!(
                problems(command, "longrun-secret-env-KEY"),
                [
                    "longrun-secret-env-KEY: docker-command has the variable KEY too, by --env or --env-file; keep one of them"
                ]
            );
        }
        let other = [("docker-command", "docker run -e KEYS=x a"), ("longrun-secret-env-KEY", "key")];
        assert_eq!(order(&other).unwrap().job.unwrap().secrets.len(), 1);
        assert_eq!(
            problems("docker run a", "longrun-secret-env-db-url"),
            [
                "longrun-secret-env-db-url: `db-url` cannot be a variable's name; use letters, digits and _, and no digit first"
            ]
        );
        assert_eq!(
            problems("docker run a", "longrun-secret-env-"),
            ["longrun-secret-env-: unknown attribute; the nearest known one is longrun-secret-env-NAME"]
        );
    }

    #[test]
    fn a_variable_comes_from_one_place() {
        let env = ("longrun-env-KEY", "x");
        for (command, other, problem) in [
            (
                "docker run -e KEY=x a",
                env,
                "longrun-env-KEY: docker-command has the variable KEY too, by --env or --env-file; keep one of them",
            ),
            (
                "docker run a",
                ("longrun-env-1A", "x"),
                "longrun-env-1A: `1A` cannot be a variable's name; use letters, digits and _, and no digit first",
            ),
            (
                "docker run a",
                ("longrun-secret-env-KEY", "key"),
                "longrun-secret-env-KEY: longrun-env-KEY is set too; keep one of them",
            ),
        ] {
            let attributes = [("docker-command", command), env, other];
            assert_eq!(order(&attributes).unwrap().job.unwrap_err(), [problem]);
        }
    }

    #[test]
    fn a_user_is_for_a_command_on_the_vm() {
        let problems = order(&[("longrun-user", "nobody")]).unwrap().job.unwrap_err();
        assert_eq!(
            problems,
            ["longrun-user: it is for host-command; a container's user is `docker run --user`"]
        );
    }

    #[test]
    fn one_command_is_needed_and_no_more() {
        let problems = |attributes: &[(&str, &str)]| order(attributes).unwrap().job.unwrap_err();
        assert_eq!(
            problems(&[("host-command", "true")]),
            ["docker-command and host-command are both set; keep one of them"]
        );
        let mut none = attributes(&[]);
        none.remove("docker-command");
        let order = Order::read(&none, no_file).unwrap();
        assert_eq!(
            order.job.unwrap_err(),
            ["neither docker-command nor host-command is set; set docker-command to a `docker run …` line"]
        );
    }

    fn no_file(_: &str) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn attributes(changes: &[(&str, &str)]) -> Attributes {
        [("docker-command", "docker run a"), ("callback-url", URL)]
            .iter()
            .chain(changes)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn order(changes: &[(&str, &str)]) -> Result<Order, NoCallback> {
        Order::read(&attributes(changes), no_file)
    }
}
