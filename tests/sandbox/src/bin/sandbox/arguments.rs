//! The program's command line.

use std::{net::SocketAddr, path::PathBuf};

use sandbox::Fate;
use serde_json::{Map, Value};

use crate::bench;

/// What `--help` says.
pub(crate) const USAGE: &str = "\
usage: sandbox [options] [docker run …]   run the job as a VM would, and show its report;
                                          without a command, a demo job
       sandbox [options] host COMMAND      the same with a shell command on this machine, which needs no Docker
       sandbox serve [options] [docker run …]
                                          keep the fakes up for an agent, curl or gcloud
       sandbox workflow FILE [--arg NAME=VALUE …] [--vm FATE …]
                                          run a workflow of Google's Workflows, its VMs on this machine
       sandbox image                      make the demo job's image, and print its name
       sandbox bench [--quick] [--only PART …] [--agent FILE] [--results FOLDER]
                                          measure the agent of the image longrun-agent, or of a file, beside the
                                          article's script, docker run and docker logs; with --quick see that it works

options:
  --attribute NAME=VALUE   an attribute of the VM, such as longrun-timeout=90m; may be repeated
  --secret NAME=VALUE      a secret of Secret Manager, for an attribute longrun-secret-env-…; may be repeated
  --listen ADDRESS:PORT    where the fakes listen (default: a free port of 127.0.0.1)
  --plain-callback         the callback is a web server of somebody else, which gets no token
  --once                   serve: end after the first report, with the job's exit code
  --arg NAME=VALUE         workflow: an argument, as JSON or as text; may be repeated
  --vm FATE                workflow: what happens to the first VM, the second, …: spared, preempted, told-twice, lost, mute,
                           refused or late
  --only PART              bench: footprint, job, log, growth, idle or crowd; may be repeated
  --results FOLDER         bench: write results.json and results.svg there";

/// A job on the command line, as the attribute that it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `docker-command`, from `docker` or `run` on.
    Docker(String),
    /// `host-command`, after `host`.
    Host(String),
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Run a job.
    #[default]
    Run,
    /// Only the fakes.
    Serve,
    /// Only the demo job's image.
    Image,
    /// Run a workflow.
    Workflow,
    /// Measure the agent.
    Bench,
    /// Be the agent of a VM that a workflow made. Not for people.
    Agent,
    /// Say how to use this.
    Help,
}

/// A command line that was understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) mode: Mode,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) plain_callback: bool,
    pub(crate) once: bool,
    pub(crate) workflow: PathBuf,
    pub(crate) args: Map<String, Value>,
    pub(crate) fates: Vec<Fate>,
    pub(crate) bench: bench::Options,
    /// What to run; `None` for the demo job.
    pub(crate) command: Option<Command>,
}

impl Arguments {
    /// Reads the words after the program's name; the error is for people.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let mut words = words.peekable();
        arguments.mode = mode(words.peek().map(String::as_str));
        if arguments.mode != Mode::Run {
            words.next();
        }
        if arguments.mode == Mode::Workflow {
            let file = words.next().filter(|word| !word.starts_with('-'));
            arguments.workflow =
                file.ok_or_else(|| format!("sandbox: workflow needs a file\n\n{USAGE}"))?.into();
        }
        while let Some(word) = words.next() {
            let (word, own_value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word, None),
            };
            let needs_value = || format!("sandbox: {word} needs a value\n\n{USAGE}");
            let mut value = || own_value.clone().or_else(|| words.next()).ok_or_else(needs_value);
            match word.as_str() {
                "--help" | "-h" => arguments.mode = Mode::Help,
                "--once" => arguments.once = true,
                "--plain-callback" => arguments.plain_callback = true,
                "--arg" => {
                    let (name, value) = named("--arg", &value()?)?;
                    arguments.args.insert(name, serde_json::from_str(&value).unwrap_or(Value::String(value)));
                }
                "--vm" => arguments.fates.push(fate(&value()?)?),
                "--quick" => arguments.bench.quick = true,
                "--only" => arguments.bench.only.push(part(&value()?)?),
                "--agent" => arguments.bench.agent = Some(value()?.into()),
                "--results" => arguments.bench.results = Some(value()?.into()),
                "--listen" => arguments.listen = Some(address(&value()?)?),
                "--attribute" => arguments.attributes.push(named("--attribute", &value()?)?),
                "--secret" => arguments.secrets.push(named("--secret", &value()?)?),
                "docker" | "run" => {
                    let words: Vec<_> = std::iter::once(word).chain(words.by_ref()).collect();
                    arguments.command = Some(Command::Docker(shell_words::join(words)));
                }
                "host" => {
                    let text = words.by_ref().collect::<Vec<_>>().join(" ");
                    arguments.command = Some(Command::Host(text));
                }
                _ => {
                    return Err(format!(
                        "sandbox: `{word}` is neither an option, `docker run …` nor `host …`\n\n{USAGE}"
                    ));
                }
            }
        }
        match arguments.command.is_some() && arguments.has_ordered() {
            true => Err("sandbox: a command after the options and one in --attribute; give one".to_owned()),
            false => Ok(arguments),
        }
    }
}

impl Arguments {
    /// Whether an attribute says what to run.
    pub(crate) fn has_ordered(&self) -> bool {
        self.attributes.iter().any(|(name, _)| ["docker-command", "host-command"].contains(&name.as_str()))
    }

    /// The workflow's argument. What only a real project needs has a value here, for a task's workflow too; where there
    /// is nothing to run, it is the demo job.
    pub(crate) fn argument(&self, demo: &str) -> Value {
        let mut args = self.args.clone();
        let of_vm = match args.get_mut("task") {
            Some(Value::Object(task)) => task,
            _ => &mut args,
        };
        of_vm.entry("agentImage").or_insert_with(|| "longrun-agent".into());
        of_vm.entry("zones").or_insert_with(|| vec![sandbox::ZONE].into());
        if !["image", "dockerCommand", "hostCommand"].iter().any(|name| of_vm.contains_key(*name)) {
            of_vm.insert("dockerCommand".to_owned(), format!("docker run --rm {demo} demo").into());
        }
        args.into()
    }
}

fn mode(word: Option<&str>) -> Mode {
    match word {
        Some("serve") => Mode::Serve,
        Some("image") => Mode::Image,
        Some("bench") => Mode::Bench,
        Some("workflow") => Mode::Workflow,
        Some("agent") => Mode::Agent,
        _ => Mode::Run,
    }
}

fn fate(value: &str) -> Result<Fate, String> {
    match value {
        "spared" => Ok(Fate::Spared),
        "preempted" => Ok(Fate::Preempted),
        "lost" => Ok(Fate::Lost),
        "mute" => Ok(Fate::Mute),
        "refused" => Ok(Fate::Refused),
        "late" => Ok(Fate::Late),
        "told-twice" => Ok(Fate::ToldTwice),
        _ => Err(format!(
            "sandbox: --vm `{value}`: expected spared, preempted, told-twice, lost, mute, refused or late"
        )),
    }
}

fn part(value: &str) -> Result<String, String> {
    match bench::PARTS.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(format!("sandbox: --only `{value}`: expected one of {}", bench::PARTS.join(", "))),
    }
}

fn address(value: &str) -> Result<SocketAddr, String> {
    value
        .parse()
        .map_err(|_| format!("sandbox: --listen `{value}`: expected address:port, such as 127.0.0.1:8080"))
}

fn named(option: &str, value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("sandbox: {option} `{value}`: expected NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_before_the_command_and_the_command_is_left_alone() {
        let arguments = parse("serve --once --attribute longrun-timeout=2s docker run --once a").unwrap();
        assert_eq!((arguments.mode, arguments.once), (Mode::Serve, true));
        assert_eq!(arguments.attributes, [("longrun-timeout".to_owned(), "2s".to_owned())]);
        assert_eq!(arguments.command, Some(Command::Docker("docker run --once a".to_owned())));
        let arguments = parse("--once host echo hello").unwrap();
        assert_eq!(arguments.command, Some(Command::Host("echo hello".to_owned())));
        assert_eq!(parse("").unwrap(), Arguments::default());
        assert_eq!(parse("--help").unwrap().mode, Mode::Help);
        assert_eq!(parse("--attribute=a=b=c").unwrap().attributes, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(parse("--secret a=b").unwrap().secrets, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(parse("image").unwrap().mode, Mode::Image);
        let arguments = parse("bench --quick --only job --agent a --results b").unwrap();
        let (only, agent, results) = (vec!["job".to_owned()], Some("a".into()), Some("b".into()));
        assert_eq!(arguments.bench, bench::Options { agent, only, quick: true, results });
        assert_eq!(arguments.mode, Mode::Bench);
    }

    #[test]
    fn a_workflows_arguments_are_json_or_text_and_the_rest_is_usual() {
        let arguments = parse("workflow a/b.yaml --arg vms=2 --arg image=x:1 --vm lost --vm spared").unwrap();
        assert_eq!(
            (arguments.mode, &*arguments.workflow),
            (Mode::Workflow, std::path::Path::new("a/b.yaml"))
        );
        assert_eq!(arguments.fates, [Fate::Lost, Fate::Spared]);
        let args = arguments.argument("demo:1");
        assert_eq!(
            (&args["vms"], &args["image"], &args["zones"]),
            (&2.into(), &"x:1".into(), &vec![sandbox::ZONE].into())
        );
        let args = parse("workflow w.yaml --arg task={}").unwrap().argument("demo:1");
        assert_eq!(args["task"]["dockerCommand"], "docker run --rm demo:1 demo");
        assert_eq!(args.get("dockerCommand"), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("ubuntu", "`ubuntu`"),
            ("--attribute", "--attribute needs a value"),
            ("--attribute x", "`x`: expected NAME=VALUE"),
            ("--secret x", "--secret `x`: expected NAME=VALUE"),
            ("--attribute docker-command=x docker run a", "give one"),
            ("--attribute host-command=x docker run a", "give one"),
            ("workflow --arg a=b", "workflow needs a file"),
            ("workflow a.yaml --vm gone", "--vm `gone`: expected spared"),
            ("bench --only speed", "--only `speed`: expected one of footprint, job"),
            ("--listen 80", "`80`: expected address:port"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }
}
