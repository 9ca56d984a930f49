//! One `docker run …` command line, read as a shell and the docker CLI would read it.
//!
//! Leaves out expansion: no variables, globs or `~`, since no shell runs it.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    create::{self, Draft, EngineApi, Pull},
    files::ReadFile,
    flags::FLAGS,
    image::{ImageError, ImageReference},
    nearest,
    pflag::{self, Given, Named, WordError},
    shell::{self, OpenQuote},
};

/// A container to run.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerCommand {
    /// The image, as the command names it.
    pub image: ImageReference,
    /// When to pull it.
    pub pull: Pull,
    /// `--platform`.
    pub platform: Option<String>,
    /// `--name`.
    pub name: Option<String>,
    /// `--stop-timeout`, in seconds; negative means for ever.
    pub stop_timeout: Option<i64>,
    /// Whether the container's anonymous volumes go with it (`--rm`).
    pub remove_volumes: bool,
    /// Whether the job has a terminal (`-t`): its output is then one stream without frames.
    pub tty: bool,
    /// What looks as if a shell should have acted on it (`$HOME`, `*`, `|`), which none does.
    pub unexpanded: Vec<String>,
    /// `--memory`, in bytes.
    pub memory: Option<u64>,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// The body of the Engine's create call, as the newest API wants it.
    body: Map<String, Value>,
    /// What flags need of the Engine.
    needs: Vec<(EngineApi, &'static str)>,
}

/// What is wrong with a command line, and where. Words are counted from 1.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// A quote that does not end.
    #[error(
        "docker-command: {quote} at character {at}{after} has no partner; close it, or put a backslash before it"
    )]
    UnbalancedQuote {
        /// `'` or `"`.
        quote: char,
        /// Its place in the text, counted from 1.
        at: usize,
        /// The word that it stands in, if its beginning can be shown: what follows a `=` is often a secret.
        after: String,
    },
    /// Not a `docker run`.
    #[error("docker-command: expected `docker run …`, found `{found}` at word {word}")]
    NotDockerRun {
        /// The word, or `the end`.
        found: String,
        /// Its number.
        word: usize,
    },
    /// A word that the flag reader refuses.
    #[error("docker-command: {source} at word {word}{hint}")]
    Word {
        /// Its number.
        word: usize,
        /// Another flag that may have been meant.
        hint: String,
        /// What is wrong.
        #[source]
        source: WordError,
    },
    /// A flag's value that cannot be used.
    #[error("docker-command: --{flag} at word {word}: `{value}` cannot be used; expected {expected}")]
    Value {
        /// The flag's long name.
        flag: &'static str,
        /// The number of its word.
        word: usize,
        /// The value given.
        value: String,
        /// What it should have been.
        expected: String,
    },
    /// A flag that has no place on a VM.
    #[error("docker-command: --{flag} at word {word} cannot be used: {why}")]
    Refused {
        /// The flag's long name.
        flag: &'static str,
        /// The number of its word.
        word: usize,
        /// Why.
        why: &'static str,
    },
    /// Flags that contradict one another.
    #[error("docker-command: {0}")]
    Conflict(String),
    /// A flag that this Engine does not know yet.
    #[error("docker-command: --{flag} needs an Engine with API {needs} or newer; this one has {has}")]
    OldEngine {
        /// The flag's long name.
        flag: &'static str,
        /// The API that it needs.
        needs: EngineApi,
        /// The Engine's.
        has: EngineApi,
    },
    /// Flags and no image.
    #[error("docker-command: no image after the flags; expected `docker run [flags] image [arguments]`")]
    NoImage,
    /// An image that cannot be one.
    #[error("docker-command: {source}, at word {word}")]
    Image {
        /// Its number.
        word: usize,
        /// What is wrong.
        #[source]
        source: ImageError,
    },
}

impl ContainerCommand {
    /// Reads `text`: POSIX shell quoting, then `docker run`'s flags, the image, and its arguments. `read` reads
    /// the files that flags name.
    pub fn parse(text: &str, read: ReadFile) -> Result<Self, CommandError> {
        let words = shell::split(text).map_err(|OpenQuote { quote, at, after }| {
            let after = if after.is_empty() { String::new() } else { format!(" after `{after}`") };
            CommandError::UnbalancedQuote { quote, at: at + 1, after }
        })?;
        let unexpanded = shell::meant_for_a_shell(text);
        let start = after_docker_run(&words)?;
        let (given, image_at) = pflag::read(FLAGS, &words, start).map_err(word_error)?;

        let mut draft = Draft::new(read);
        let mut needs = Vec::new();
        for use_of in given {
            needs.extend(use_of.flag.needs());
            apply(&mut draft, use_of)?;
        }

        let image = words.get(image_at).ok_or(CommandError::NoImage)?;
        let image = ImageReference::parse(image)
            .map_err(|source| CommandError::Image { word: image_at + 1, source })?;
        let (pull, stop_timeout, remove_volumes) = (draft.pull, draft.stop_timeout, draft.remove_volumes);
        let (platform, name) = (draft.platform.take(), draft.name.take());
        let body = draft.body(image.as_str(), &words[image_at + 1..]).map_err(CommandError::Conflict)?;
        let tty = body.get("Tty") == Some(&Value::Bool(true));
        let host = &body["HostConfig"];
        let memory = host["Memory"].as_u64().filter(|bytes| *bytes != 0);
        let cgroup_parent = host["CgroupParent"].as_str().map(str::to_owned);
        Ok(Self {
            image,
            pull,
            platform,
            name,
            stop_timeout,
            remove_volumes,
            tty,
            memory,
            cgroup_parent,
            unexpanded,
            body,
            needs,
        })
    }

    /// Whether a flag or a file sets this variable, or names it without a value.
    pub(crate) fn has_env(&self, name: &str) -> bool {
        let variables = self.body.get("Env").and_then(Value::as_array).into_iter().flatten();
        variables.filter_map(Value::as_str).any(|variable| variable.split('=').next() == Some(name))
    }

    /// The body of the create call for an Engine of `api`.
    pub fn create_body(&self, api: EngineApi) -> Result<Map<String, Value>, CommandError> {
        if let Some((needs, flag)) = self.needs.iter().find(|(needs, _)| *needs > api) {
            return Err(CommandError::OldEngine { flag, needs: *needs, has: api });
        }
        let mut body = self.body.clone();
        create::adapt(&mut body, api).map_err(|(needs, flag)| CommandError::OldEngine {
            flag,
            needs,
            has: api,
        })?;
        Ok(body)
    }
}

fn apply(draft: &mut Draft, use_of: Given<'_, super::flags::Flag>) -> Result<(), CommandError> {
    let Given { flag, value, word } = use_of;
    if let Some(why) = flag.refusal() {
        return Err(CommandError::Refused { flag: flag.name(), word: word + 1, why });
    }
    flag.apply(draft, &value).map_err(|expected| CommandError::Value {
        flag: flag.name(),
        word: word + 1,
        value: flag.shown(&value),
        expected,
    })
}

/// The docker CLI's own flags that take a value: `docker --log-level debug run …`.
const BEFORE_RUN: &[&str] = &[
    "--config",
    "-c",
    "--context",
    "-H",
    "--host",
    "-l",
    "--log-level",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];

/// The index after `docker run`, `docker container run` or a bare `run`. The CLI's own flags before it say how
/// to reach an Engine, which the agent knows.
fn after_docker_run(words: &[String]) -> Result<usize, CommandError> {
    let is = |index: usize, word: &str| words.get(index).is_some_and(|w| w == word);
    let mut at = usize::from(is(0, "docker"));
    while at > 0 && words.get(at).is_some_and(|word| word.starts_with('-')) {
        at += 1 + usize::from(BEFORE_RUN.contains(&&*words[at]));
    }
    at += usize::from(is(at, "container"));
    if is(at, "run") {
        return Ok(at + 1);
    }
    let found = words.get(at).cloned().unwrap_or_else(|| "the end".to_owned());
    Err(CommandError::NotDockerRun { found, word: at + 1 })
}

fn word_error(source: WordError) -> CommandError {
    let hint = match &source {
        WordError::UnknownLong { name, .. } => nearest(name, FLAGS.iter().map(Named::name))
            .map(|near| format!("; the nearest known one is --{near}"))
            .unwrap_or_default(),
        WordError::UnknownShort { .. } | WordError::Malformed { .. } | WordError::NoValue { .. } => {
            String::new()
        }
    };
    CommandError::Word { word: source.word() + 1, hint, source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_line_becomes_a_create_call() {
        body("docker run a", json!({ "Image": "a", "HostConfig": {} }));
        body("run a", json!({ "Image": "a", "HostConfig": {} }));
        body("docker container run a", json!({ "Image": "a", "HostConfig": {} }));
        body("docker run --rm -dit a", json!({ "Image": "a", "Tty": true, "HostConfig": {} }));
        body(
            "docker run a -c 'b c' --rm",
            json!({ "Image": "a", "Cmd": ["-c", "b c", "--rm"], "HostConfig": {} }),
        );
        body(
            "docker run \\\r\n  -e A=1 \\\r\n  a",
            json!({ "Image": "a", "Env": ["A=1"], "HostConfig": {} }),
        );
        body("docker run --entrypoint= a", json!({ "Image": "a", "Entrypoint": [""], "HostConfig": {} }));
        body(
            "docker run -w /x -u 1:2 a",
            json!({ "Image": "a", "WorkingDir": "/x", "User": "1:2", "HostConfig": {} }),
        );
        body(
            "docker run -l a=b -l c a",
            json!({ "Image": "a", "Labels": { "a": "b", "c": "" }, "HostConfig": {} }),
        );
        body("docker run --stop-timeout 5 a", json!({ "Image": "a", "StopTimeout": 5, "HostConfig": {} }));
    }

    #[test]
    fn flags_of_the_host_become_its_config() {
        host(
            "-m 32m --cpus 1.5 --shm-size=1g",
            json!({ "Memory": 32 << 20, "NanoCpus": 1_500_000_000, "ShmSize": 1 << 30 }),
        );
        host(
            "--cap-add sys_admin --cap-add=NET_ADMIN --cap-add SYS_ADMIN",
            json!({ "CapAdd": ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"] }),
        );
        host("-v /a:/b -v n:/c:ro", json!({ "Binds": ["/a:/b", "n:/c:ro"] }));
        host("--privileged --init=false", json!({ "Privileged": true, "Init": false }));
        host(
            "--log-driver local --log-opt max-size=1m",
            json!({ "LogConfig": { "Type": "local", "Config": { "max-size": "1m" } } }),
        );
        host("--log-opt max-size=1m", json!({ "LogConfig": { "Type": "", "Config": { "max-size": "1m" } } }));
        host("--add-host db:10.0.0.1", json!({ "ExtraHosts": ["db:10.0.0.1"] }));
    }

    #[test]
    fn ports_are_published_with_ranges_addresses_and_protocols() {
        let bound = |address: &str, port: &str| json!([{ "HostIp": address, "HostPort": port }]);
        ports("80", json!({ "80/tcp": bound("", "") }));
        ports("8080:80", json!({ "80/tcp": bound("", "8080") }));
        ports("127.0.0.1:8080:80/UDP", json!({ "80/udp": bound("127.0.0.1", "8080") }));
        ports("127.0.0.1::80", json!({ "80/tcp": bound("127.0.0.1", "") }));
        ports("[::1]:8080:80", json!({ "80/tcp": bound("::1", "8080") }));
        ports("8000-8001:80-81", json!({ "80/tcp": bound("", "8000"), "81/tcp": bound("", "8001") }));
        ports("8000-8010:80", json!({ "80/tcp": bound("", "8000-8010") }));
    }

    #[test]
    fn a_network_is_a_mode_and_where_more_is_said_an_endpoint() {
        let networks = |flags: &str| {
            let command = ContainerCommand::parse(&format!("docker run {flags} a"), no_file).unwrap();
            let body = command.create_body("1.41".parse().unwrap()).unwrap();
            (body["HostConfig"]["NetworkMode"].clone(), body["NetworkingConfig"]["EndpointsConfig"].clone())
        };
        assert_eq!(networks("--network host"), (json!("host"), json!({})));
        assert_eq!(
            networks("--network n --ip 10.0.0.9"),
            (json!("n"), json!({ "n": { "IPAMConfig": { "IPv4Address": "10.0.0.9" } } }))
        );
        assert_eq!(networks("--network name=n,alias=B"), (json!("n"), json!({ "n": { "Aliases": ["b"] } })));
        refuse(
            "docker run --network n --network host a",
            "--network: networks of your own and Docker's (bridge, host, none) cannot be mixed",
        );
        refuse("docker run --network n --network n a", "--network: n is there twice");
    }

    #[test]
    fn what_an_engine_does_not_know_yet_is_told_or_said_in_its_way() {
        let command =
            |flags: &str| ContainerCommand::parse(&format!("docker run {flags} a"), no_file).unwrap();
        let mac = command("--network n --mac-address 92:d0:c6:0a:29:33");
        let body = |api: &str| mac.create_body(api.parse().unwrap()).unwrap();
        assert_eq!(
            body("1.44")["NetworkingConfig"]["EndpointsConfig"]["n"]["MacAddress"],
            "92:d0:c6:0a:29:33"
        );
        assert_eq!(body("1.43")["MacAddress"], "92:d0:c6:0a:29:33");
        let error = command("--annotation a=b").create_body("1.41".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "docker-command: --annotation needs an Engine with API 1.43 or newer; this one has 1.41"
        );
    }

    #[test]
    fn files_that_flags_name_are_read_and_a_missing_one_is_told_with_what_to_do() {
        let file = |path: &str| match path {
            "env" => Ok("\u{feff}# comment\nA=1\n  B=2 \r\nC\n".into()),
            "profile.json" => Ok("{ \"a b\": [1,\n 2] }".into()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let command = |line: &str| ContainerCommand::parse(line, file);
        let body = command("docker run -e D=4 --env-file env -e A=9 a").unwrap().body;
        assert_eq!(body["Env"], json!(["A=1", "B=2 ", "D=4", "A=9"]));
        let body = command("docker run --security-opt seccomp=profile.json a").unwrap().body;
        assert_eq!(body["HostConfig"]["SecurityOpt"], json!(["seccomp={\"a b\":[1,2]}"]));
        let error = command("docker run --env-file /x a").unwrap_err().to_string();
        assert!(error.contains("mount it there: --volume /x:/x:ro"), "{error}");
    }

    #[test]
    fn an_anonymous_volume_is_part_of_the_configuration() {
        body("docker run -v /data a", json!({ "Image": "a", "Volumes": { "/data": {} }, "HostConfig": {} }));
    }

    #[test]
    fn what_concerns_the_agent_is_kept_beside_the_body() {
        let line = "docker run --rm --name job --pull always --platform linux/arm64 --stop-timeout 7 a";
        let command = ContainerCommand::parse(line, no_file).unwrap();
        assert_eq!(command.name.as_deref(), Some("job"));
        assert_eq!(command.platform.as_deref(), Some("linux/arm64"));
        assert_eq!(
            (command.pull, command.stop_timeout, command.remove_volumes),
            (Pull::Always, Some(7), true)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        refuse("", "expected `docker run …`, found `the end` at word 1");
        refuse("docker", "expected `docker run …`, found `the end` at word 2");
        refuse("docker ps", "expected `docker run …`, found `ps` at word 2");
        refuse("docker run", "no image after the flags; expected `docker run [flags] image [arguments]`");
        refuse(
            "docker run --rm",
            "no image after the flags; expected `docker run [flags] image [arguments]`",
        );
        refuse(
            "docker run ''",
            "the image is empty; expected a name such as us-docker.pkg.dev/project/repository/image:tag, at word 3",
        );
        refuse("docker run --nope a", "unknown flag `--nope` at word 3");
        refuse(
            "docker run --rm --memroy 1g a",
            "unknown flag `--memroy` at word 4; the nearest known one is --memory",
        );
        refuse("docker run -x a", "unknown flag `-x` in `-x` at word 3");
        refuse(
            "docker run -m 12x a",
            "--memory at word 3: `12x` cannot be used; expected a size such as 512m or 2g (units b, k, m, g, t, p; bytes without one)",
        );
        refuse(
            "docker run --restart always a",
            "--restart always: a job that is always started again never ends, and nobody would be told; leave --restart out",
        );
        refuse("docker run --help", "--help at word 3 cannot be used: it runs nothing");
        refuse(
            "docker run --no-healthcheck --health-cmd x a",
            "--no-healthcheck contradicts the other --health flags; leave it or them out",
        );
        refuse("docker --host ps", "expected `docker run …`, found `the end` at word 4");
        refuse("docker run -e =secret a", "--env at word 3: `=…` cannot be used; expected NAME=value");
        refuse(
            "docker run -v ./x:/y a",
            "--volume at word 3: `./x:/y` cannot be used; expected an absolute path on the VM in place of `./x`: there is no working folder",
        );
        refuse(
            "docker run -p 80-81:80-82 a",
            "--publish at word 3: `80-81:80-82` cannot be used; expected ranges of one length on both sides",
        );
        refuse(
            "docker run --pull often a",
            "--pull at word 3: `often` cannot be used; expected always, missing or never",
        );
    }

    #[test]
    fn a_quote_without_partner_is_shown() {
        let told = |place: &str| format!("{place} has no partner; close it, or put a backslash before it");
        refuse("docker run a 'b c", &told("' at character 14"));
        refuse("docker run -e PASSWORD='hunter2 a", &told("' at character 24 after `PASSWORD=`"));
    }

    fn no_file(_: &str) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    #[track_caller]
    fn body(line: &str, expected: Value) {
        let command =
            ContainerCommand::parse(line, no_file).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(Value::Object(command.body), expected, "{line}");
    }

    #[track_caller]
    fn host(flags: &str, expected: Value) {
        body(&format!("docker run {flags} a"), json!({ "Image": "a", "HostConfig": expected }));
    }

    #[track_caller]
    fn ports(ports: &str, expected: Value) {
        let command = ContainerCommand::parse(&format!("docker run -p {ports} a"), no_file).unwrap();
        assert_eq!(command.body["HostConfig"]["PortBindings"], expected, "{ports}");
        let exposed: Vec<_> = command.body["ExposedPorts"].as_object().unwrap().keys().collect();
        assert_eq!(exposed, expected.as_object().unwrap().keys().collect::<Vec<_>>(), "{ports}");
    }

    #[track_caller]
    fn refuse(line: &str, expected: &str) {
        let error =
            ContainerCommand::parse(line, no_file).err().unwrap_or_else(|| panic!("{line} was taken"));
        assert_eq!(error.to_string(), format!("docker-command: {expected}"), "{line}");
    }
}
