//! The flags of `docker run`, one row each: its names, how its value is read, and the field of the
//! Engine's create call that it becomes.
//!
//! **To add a flag**, add a row to [`FLAGS`]. Most need no more than a reader from [`super::values`] and a
//! field; one that needs code of its own is `Own`, with a function beside the table.
//!
//! Source of the rows: docker/cli `cli/command/container/opts.go`.

use serde_json::{Value, json};

use super::{
    create::{Draft, Place, Pull},
    pflag::Named,
    values::{self, Read},
};

/// A flag of `docker run`.
#[derive(Debug)]
pub(crate) struct Flag {
    name: &'static str,
    short: Option<char>,
    switch: bool,
    effect: Effect,
}

/// What a flag does to the container that is to be created.
#[derive(Debug)]
enum Effect {
    /// The last value is the field's.
    Set(Place, fn(&str) -> Read<Value>),
    /// Every value is appended to the field's list.
    Append(Place, fn(&str) -> Read<Value>),
    /// Every value is a key and a value of the field's object.
    Insert(Place, fn(&str) -> Read<(String, Value)>),
    /// Something that one field cannot say.
    Own(fn(&mut Draft, &str) -> Read<()>),
}

use Effect::{Append, Insert, Own, Set};
use Place::{Config, Host};

/// Every flag that can be used.
pub(crate) const FLAGS: &[Flag] = &[
    value("add-host", None, Append(Host("ExtraHosts"), values::extra_host)),
    value("cap-add", None, Append(Host("CapAdd"), values::capability)),
    value("cpus", None, Set(Host("NanoCpus"), values::nano_cpus)),
    // The agent is what stays in the foreground.
    switch("detach", Some('d'), Own(ignored_switch)),
    value("device", None, Append(Host("Devices"), values::device)),
    value("entrypoint", None, Set(Config("Entrypoint"), entrypoint)),
    value("env", Some('e'), Append(Config("Env"), values::environment)),
    value("gpus", None, Append(Host("DeviceRequests"), values::gpus)),
    switch("init", None, Set(Host("Init"), values::switch)),
    // Nobody types here: the job's standard input is empty, as with `docker run -i … </dev/null`.
    switch("interactive", Some('i'), Own(ignored_switch)),
    value("label", Some('l'), Insert(Config("Labels"), values::label)),
    value("log-driver", None, Own(log_driver)),
    value("log-opt", None, Own(log_option)),
    value("memory", Some('m'), Set(Host("Memory"), values::bytes)),
    value("name", None, Own(name)),
    value("net", None, Set(Host("NetworkMode"), network)),
    value("network", None, Set(Host("NetworkMode"), network)),
    value("platform", None, Own(platform)),
    switch("privileged", None, Set(Host("Privileged"), values::switch)),
    value("publish", Some('p'), Own(publish)),
    value("pull", None, Own(pull)),
    // The agent removes the container in any case, once its end was told; with --rm its anonymous volumes too.
    switch("rm", None, Own(remove)),
    value("shm-size", None, Set(Host("ShmSize"), values::bytes)),
    value("stop-timeout", None, Own(stop_timeout)),
    switch("tty", Some('t'), Set(Config("Tty"), values::switch)),
    value("user", Some('u'), Set(Config("User"), values::text)),
    value("volume", Some('v'), Own(volume)),
    value("workdir", Some('w'), Set(Config("WorkingDir"), values::text)),
];

const fn value(name: &'static str, short: Option<char>, effect: Effect) -> Flag {
    Flag { name, short, switch: false, effect }
}

const fn switch(name: &'static str, short: Option<char>, effect: Effect) -> Flag {
    Flag { name, short, switch: true, effect }
}

impl Named for Flag {
    fn name(&self) -> &'static str {
        self.name
    }

    fn short(&self) -> Option<char> {
        self.short
    }

    fn is_switch(&self) -> bool {
        self.switch
    }
}

impl Flag {
    /// A value as an error may show it: what an environment variable holds is often a secret.
    pub(crate) fn shown(&self, value: &str) -> String {
        match value.split_once('=') {
            Some((name, _)) if self.name == "env" => format!("{name}=…"),
            _ => value.to_owned(),
        }
    }

    /// Applies one use of the flag; the error is what was expected of the value.
    pub(crate) fn apply(&self, draft: &mut Draft, value: &str) -> Read<()> {
        match self.effect {
            Set(place, read) => draft.set(place, read(value)?),
            Append(place, read) => draft.append(place, read(value)?),
            Insert(place, read) => {
                let (key, value) = read(value)?;
                draft.insert(place, key, value);
            }
            Own(apply) => apply(draft, value)?,
        }
        Ok(())
    }
}

fn ignored_switch(_: &mut Draft, value: &str) -> Read<()> {
    values::boolean(value).map(drop)
}

fn remove(draft: &mut Draft, value: &str) -> Read<()> {
    draft.remove_volumes = values::boolean(value)?;
    Ok(())
}

/// One word, not split; an empty one resets the image's.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
fn entrypoint(value: &str) -> Read<Value> {
    Ok(json!([value]))
}

fn name(draft: &mut Draft, value: &str) -> Read<()> {
    // The Engine's own rule: names.RestrictedNamePattern.
    let mut bytes = value.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !first || !rest || value.len() < 2 {
        return Err("two or more of a-z A-Z 0-9 _ . -, beginning with a letter or digit".to_owned());
    }
    draft.name = Some(value.to_owned());
    Ok(())
}

fn network(value: &str) -> Read<Value> {
    if value.contains(['=', ',']) {
        return Err("a network's name (the long form name=…,alias=… cannot be used yet)".to_owned());
    }
    Ok(value.into())
}

fn platform(draft: &mut Draft, value: &str) -> Read<()> {
    let parts: Vec<&str> = value.split('/').collect();
    let known = (1..=3).contains(&parts.len()) && !parts.contains(&"");
    if !known {
        return Err("os[/architecture[/variant]], such as linux/amd64".to_owned());
    }
    draft.platform = Some(value.to_owned());
    Ok(())
}

fn pull(draft: &mut Draft, value: &str) -> Read<()> {
    draft.pull = match value {
        "always" => Pull::Always,
        "missing" => Pull::Missing,
        "never" => Pull::Never,
        _ => return Err("always, missing or never".to_owned()),
    };
    Ok(())
}

fn stop_timeout(draft: &mut Draft, value: &str) -> Read<()> {
    let seconds: i32 = value.parse().map_err(|_| "a whole number of seconds".to_owned())?;
    draft.stop_timeout = Some(seconds);
    draft.set(Config("StopTimeout"), seconds.into());
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn log_driver(draft: &mut Draft, value: &str) -> Read<()> {
    draft.log_config()["Type"] = value.into();
    Ok(())
}

fn log_option(draft: &mut Draft, value: &str) -> Read<()> {
    let (key, text) = values::option(value)?;
    draft.log_config()["Config"][key] = text;
    Ok(())
}

/// `[[ip:][host port or range]:]port or range[/protocol]`; an IPv6 address is in brackets.
fn publish(draft: &mut Draft, value: &str) -> Read<()> {
    let expected = || "[[address:]port-on-vm:]port[/tcp|udp|sctp], ranges as 8000-8010".to_owned();
    let (ports, protocol) = value.rsplit_once('/').unwrap_or((value, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(expected());
    }
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = address.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(expected());
    }
    let container = port_range(container).ok_or_else(expected)?;
    let host = match host {
        "" => None,
        range => Some(port_range(range).ok_or_else(expected)?),
    };
    let one_of_many = container.len() == 1 && host.as_ref().is_some_and(|host| host.len() > 1);
    if host.as_ref().is_some_and(|host| host.len() != container.len()) && !one_of_many {
        return Err("ranges of one length on both sides".to_owned());
    }
    for (index, port) in container.enumerate() {
        let host_port = match &host {
            None => String::new(),
            Some(range) if one_of_many => format!("{}-{}", range.start(), range.end()),
            Some(range) => (usize::from(*range.start()) + index).to_string(),
        };
        draft.publish(&format!("{port}/{protocol}"), address, &host_port);
    }
    Ok(())
}

/// `80` or `8000-8010`.
fn port_range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok()?..=last.parse().ok()?;
    (!range.is_empty()).then_some(range)
}

/// `/anonymous`, `name:/path[:options]`, `/on-vm:/path[:options]`.
fn volume(draft: &mut Draft, value: &str) -> Read<()> {
    let expected = || "/on-vm:/in-container[:ro], name:/in-container[:ro] or /in-container".to_owned();
    let parts: Vec<&str> = value.split(':').collect();
    match parts[..] {
        [path] if path.starts_with('/') => draft.insert(Config("Volumes"), path.to_owned(), json!({})),
        [source, path] | [source, path, _] if !source.is_empty() && path.starts_with('/') => {
            if source.starts_with('.') || source.starts_with('~') {
                return Err(format!("an absolute path on the VM in place of `{source}`"));
            }
            draft.append(Host("Binds"), value.into());
        }
        _ => return Err(expected()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_every_flag_and_no_other() {
        let expected: Vec<_> = FLAGS.iter().map(|flag| format!("`--{}`", flag.name)).collect();
        let readme = include_str!("../../README.md");
        let from = readme.find("`--add-host`").unwrap();
        let listed: Vec<_> = readme[from..].split('.').next().unwrap().split_whitespace().collect();
        assert_eq!(listed, expected);
        assert!(FLAGS.is_sorted_by_key(|flag| flag.name));
    }
}
