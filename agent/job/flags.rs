//! The flags of `docker run`, one row each: its names, how its value is read, and the field of the
//! Engine's create call that it becomes.
//!
//! **To add a flag**, add a row to [`FLAGS`], in its place by the alphabet. Most need no more than a reader
//! from [`super::values`] and a field; one that needs code of its own is `Own`, with a function below the
//! table. Then run the tests: one says what the README's table should be, and `tests/docker_run.rs` asks the
//! docker CLI what the flag should have become.
//!
//! Source of the rows: docker/cli `cli/command/container/opts.go`, `create.go`, `run.go` (28.2).

use super::{
    create::{Draft, EngineApi, Place, Pull},
    devices, files, go, mounts, networks,
    pflag::Named,
    platforms,
    values::{self, Read},
};
use serde_json::{Value, json};

/// A flag of `docker run`.
#[derive(Debug)]
pub(crate) struct Flag {
    name: &'static str,
    short: Option<char>,
    switch: bool,
    effect: Effect,
    since: Option<EngineApi>,
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
    /// What one field cannot say, in the README's words and by a function.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the words are for the README's table, which a test compares")
    )]
    Own(&'static str, fn(&mut Draft, &str) -> Read<()>),
    /// It cannot be used, and why.
    Refuse(&'static str),
}

use Effect::{Append, Insert, Own, Refuse, Set};
use Place::{Config, Health, Host};

const WINDOWS: &str = "it is for Windows";

/// Every flag that there is.
#[rustfmt::skip] // A row a line.
pub(crate) const FLAGS: &[Flag] = &[
    value("add-host", None, Append(Host("ExtraHosts"), values::extra_host)),
    value("annotation", None, Insert(Host("Annotations"), values::pair)).since(43),
    value("attach", Some('a'), Own("nothing: the agent attaches to both streams", attach)),
    value("blkio-weight", None, Set(Host("BlkioWeight"), values::weight)),
    value("blkio-weight-device", None, Append(Host("BlkioWeightDevice"), devices::device_weight)),
    value("cap-add", None, Append(Host("CapAdd"), values::capability)),
    value("cap-drop", None, Append(Host("CapDrop"), values::capability)),
    value("cgroup-parent", None, Set(Host("CgroupParent"), values::text)),
    value("cgroupns", None, Set(Host("CgroupnsMode"), values::cgroup_mode)),
    value("cidfile", None, Refuse("the file would be in the agent's container, where nobody sees it; use --name, or the report")),
    value("cpu-count", None, Refuse(WINDOWS)),
    value("cpu-percent", None, Refuse(WINDOWS)),
    value("cpu-period", None, Set(Host("CpuPeriod"), values::integer)),
    value("cpu-quota", None, Set(Host("CpuQuota"), values::integer)),
    value("cpu-rt-period", None, Set(Host("CpuRealtimePeriod"), values::integer)),
    value("cpu-rt-runtime", None, Set(Host("CpuRealtimeRuntime"), values::integer)),
    value("cpu-shares", Some('c'), Set(Host("CpuShares"), values::integer)),
    value("cpus", None, Set(Host("NanoCpus"), values::nano_cpus)),
    value("cpuset-cpus", None, Set(Host("CpusetCpus"), values::text)),
    value("cpuset-mems", None, Set(Host("CpusetMems"), values::text)),
    switch("detach", Some('d'), Own("nothing: the agent is what stays in the foreground", detach)),
    value("detach-keys", None, Own("nothing: nobody types", ignored)),
    value("device", None, Own("HostConfig.Devices, or HostConfig.DeviceRequests for a CDI name", device)),
    value("device-cgroup-rule", None, Append(Host("DeviceCgroupRules"), devices::cgroup_rule)),
    value("device-read-bps", None, Append(Host("BlkioDeviceReadBps"), devices::byte_rate)),
    value("device-read-iops", None, Append(Host("BlkioDeviceReadIOps"), devices::operation_rate)),
    value("device-write-bps", None, Append(Host("BlkioDeviceWriteBps"), devices::byte_rate)),
    value("device-write-iops", None, Append(Host("BlkioDeviceWriteIOps"), devices::operation_rate)),
    switch("disable-content-trust", None, Own("nothing: Docker gave it up", ignored_switch)),
    value("dns", None, Append(Host("Dns"), values::address)),
    value("dns-opt", None, Append(Host("DnsOptions"), values::text)),
    value("dns-option", None, Append(Host("DnsOptions"), values::text)),
    value("dns-search", None, Append(Host("DnsSearch"), values::dns_search)),
    value("domainname", None, Set(Config("Domainname"), values::text)),
    value("entrypoint", None, Set(Config("Entrypoint"), values::entrypoint)),
    value("env", Some('e'), Own("Env; a name without value is sent as it is", env)),
    value("env-file", None, Own("Env, before those of --env; read where the agent runs", env_file)),
    value("expose", None, Own("ExposedPorts", expose)),
    value("gpus", None, Append(Host("DeviceRequests"), devices::gpus)),
    value("group-add", None, Append(Host("GroupAdd"), values::text)),
    value("health-cmd", None, Set(Health("Test"), values::text)),
    value("health-interval", None, Set(Health("Interval"), values::duration)),
    value("health-retries", None, Set(Health("Retries"), values::integer)),
    value("health-start-interval", None, Set(Health("StartInterval"), values::duration)).since(44),
    value("health-start-period", None, Set(Health("StartPeriod"), values::duration)),
    value("health-timeout", None, Set(Health("Timeout"), values::duration)),
    switch("help", None, Refuse("it runs nothing")),
    value("hostname", Some('h'), Set(Config("Hostname"), values::text)),
    switch("init", None, Set(Host("Init"), values::switch)),
    switch("interactive", Some('i'), Own("nothing: nobody types, so the job's input is empty", ignored_switch)),
    value("io-maxbandwidth", None, Refuse(WINDOWS)),
    value("io-maxiops", None, Refuse(WINDOWS)),
    value("ip", None, Own("NetworkingConfig", |draft, value| text(&mut draft.networks.v4, value))),
    value("ip6", None, Own("NetworkingConfig", |draft, value| text(&mut draft.networks.v6, value))),
    value("ipc", None, Set(Host("IpcMode"), values::text)),
    value("isolation", None, Set(Host("Isolation"), values::text)),
    value("kernel-memory", None, Set(Host("KernelMemory"), values::bytes)),
    value("label", Some('l'), Insert(Config("Labels"), values::label)),
    value("label-file", None, Own("Labels, before those of --label; read where the agent runs", label_file)),
    value("link", None, Own("HostConfig.Links, NetworkingConfig", link)),
    value("link-local-ip", None, Own("NetworkingConfig", |draft, value| list(&mut draft.networks.link_local, value))),
    value("log-driver", None, Own("HostConfig.LogConfig.Type", log_driver)),
    value("log-opt", None, Own("HostConfig.LogConfig.Config", log_option)),
    value("mac-address", None, Own("NetworkingConfig; MacAddress before API 1.44", mac_address)),
    value("memory", Some('m'), Set(Host("Memory"), values::bytes)),
    value("memory-reservation", None, Set(Host("MemoryReservation"), values::bytes)),
    value("memory-swap", None, Set(Host("MemorySwap"), values::swap)),
    value("memory-swappiness", None, Set(Host("MemorySwappiness"), values::swappiness)),
    value("mount", None, Append(Host("Mounts"), mounts::mount)),
    value("name", None, Own("the container's name; one that is taken makes the job invalid", name)),
    value("net", None, Own("HostConfig.NetworkMode, NetworkingConfig", network)),
    value("net-alias", None, Own("NetworkingConfig", |draft, value| list(&mut draft.networks.aliases, value))),
    value("network", None, Own("HostConfig.NetworkMode, NetworkingConfig", network)),
    value("network-alias", None, Own("NetworkingConfig", |draft, value| list(&mut draft.networks.aliases, value))),
    switch("no-healthcheck", None, Own("Healthcheck.Test", no_healthcheck)),
    switch("oom-kill-disable", None, Set(Host("OomKillDisable"), values::switch)),
    value("oom-score-adj", None, Set(Host("OomScoreAdj"), values::integer)),
    value("pid", None, Set(Host("PidMode"), values::pid_mode)),
    value("pids-limit", None, Set(Host("PidsLimit"), values::integer)),
    value("platform", None, Own("the platform of the pull and of the container", platform)),
    switch("privileged", None, Set(Host("Privileged"), values::switch)),
    value("publish", Some('p'), Own("HostConfig.PortBindings, ExposedPorts", publish)),
    switch("publish-all", Some('P'), Set(Host("PublishAllPorts"), values::switch)),
    value("pull", None, Own("when to pull: always, missing, never", pull)),
    switch("quiet", Some('q'), Own("nothing: the agent logs as it is told to", ignored_switch)),
    switch("read-only", None, Set(Host("ReadonlyRootfs"), values::switch)),
    value("restart", None, Own("nothing: only `no` can be used; a job that is started again has no end to tell", restart)),
    switch("rm", None, Own("the container is removed in any case once its end was told; with --rm its anonymous volumes too", remove)),
    value("runtime", None, Set(Host("Runtime"), values::text)),
    value("security-opt", None, Own("HostConfig.SecurityOpt; a seccomp profile is read where the agent runs", security_option)),
    value("shm-size", None, Set(Host("ShmSize"), values::bytes)),
    switch("sig-proxy", None, Own("nothing: a stop of the agent stops the job", ignored_switch)),
    value("stop-signal", None, Set(Config("StopSignal"), values::text)),
    value("stop-timeout", None, Own("StopTimeout, and the grace without longrun-stop-grace", stop_timeout)),
    value("storage-opt", None, Insert(Host("StorageOpt"), values::option)),
    value("sysctl", None, Insert(Host("Sysctls"), values::sysctl)),
    value("tmpfs", None, Insert(Host("Tmpfs"), values::tmpfs)),
    switch("tty", Some('t'), Set(Config("Tty"), values::switch)),
    value("ulimit", None, Own("HostConfig.Ulimits", ulimit)),
    switch("use-api-socket", None, Refuse("it would hand the Engine and the CLI's logins to the job; mount the socket by --volume if it must have it")),
    value("user", Some('u'), Set(Config("User"), values::text)),
    value("userns", None, Set(Host("UsernsMode"), values::host_mode)),
    value("uts", None, Set(Host("UTSMode"), values::host_mode)),
    value("volume", Some('v'), Own("HostConfig.Binds, or Volumes for an anonymous one", volume)),
    value("volume-driver", None, Set(Host("VolumeDriver"), values::text)),
    value("volumes-from", None, Append(Host("VolumesFrom"), values::text)),
    value("workdir", Some('w'), Set(Config("WorkingDir"), values::text)),
];

const fn value(name: &'static str, short: Option<char>, effect: Effect) -> Flag {
    Flag { name, short, switch: false, effect, since: None }
}

const fn switch(name: &'static str, short: Option<char>, effect: Effect) -> Flag {
    Flag { name, short, switch: true, effect, since: None }
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
    /// The same, for Engines from API 1.`minor` on.
    const fn since(mut self, minor: u32) -> Self {
        self.since = Some(EngineApi { major: 1, minor });
        self
    }

    /// The oldest API that has the flag.
    pub(crate) fn needs(&self) -> Option<(EngineApi, &'static str)> {
        self.since.map(|api| (api, self.name))
    }

    /// Why the flag cannot be used, if it cannot.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        match self.effect {
            Refuse(why) => Some(why),
            Set(..) | Append(..) | Insert(..) | Own(..) => None,
        }
    }

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
            Own(_, apply) => apply(draft, value)?,
            Refuse(_) => {}
        }
        Ok(())
    }
}

fn ignored_switch(_: &mut Draft, value: &str) -> Read<()> {
    go::boolean(value).map(drop)
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn ignored(_: &mut Draft, _: &str) -> Read<()> {
    Ok(())
}

fn detach(draft: &mut Draft, value: &str) -> Read<()> {
    draft.detach = go::boolean(value)?;
    Ok(())
}

fn attach(draft: &mut Draft, value: &str) -> Read<()> {
    draft.attach = true;
    values::stream(value).map(drop)
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn text(field: &mut String, value: &str) -> Read<()> {
    value.clone_into(field);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn list(field: &mut Vec<String>, value: &str) -> Read<()> {
    field.push(value.to_owned());
    Ok(())
}

fn remove(draft: &mut Draft, value: &str) -> Read<()> {
    draft.remove_volumes = go::boolean(value)?;
    Ok(())
}

fn no_healthcheck(draft: &mut Draft, value: &str) -> Read<()> {
    draft.no_healthcheck = go::boolean(value)?;
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn restart(draft: &mut Draft, value: &str) -> Read<()> {
    value.clone_into(&mut draft.restart);
    Ok(())
}

/// `NAME=value` or `NAME`. The latter is sent as it is: the docker CLI would look NAME up where it runs,
/// and where the agent runs nothing of the user's is set.
fn env(draft: &mut Draft, value: &str) -> Read<()> {
    if value.is_empty() || value.starts_with('=') {
        return Err("NAME=value".to_owned());
    }
    draft.set_env(value);
    Ok(())
}

fn env_file(draft: &mut Draft, value: &str) -> Read<()> {
    draft.env_of_files.extend(files::lines(value, draft.read)?);
    Ok(())
}

fn label_file(draft: &mut Draft, value: &str) -> Read<()> {
    draft.labels_of_files.extend(files::lines(value, draft.read)?);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn name(draft: &mut Draft, value: &str) -> Read<()> {
    draft.name = (!value.is_empty()).then(|| value.to_owned());
    Ok(())
}

fn network(draft: &mut Draft, value: &str) -> Read<()> {
    draft.networks.attach(value)
}

fn mac_address(draft: &mut Draft, value: &str) -> Read<()> {
    if !value.is_empty() {
        draft.networks.mac = networks::mac_address(value)?;
    }
    Ok(())
}

fn link(draft: &mut Draft, value: &str) -> Read<()> {
    values::link(value)?;
    list(&mut draft.networks.links, value)
}

fn platform(draft: &mut Draft, value: &str) -> Read<()> {
    draft.platform = match value {
        "" => None,
        value => Some(platforms::normalize(value)?),
    };
    Ok(())
}

fn pull(draft: &mut Draft, value: &str) -> Read<()> {
    draft.pull = match value {
        "always" => Pull::Always,
        "missing" | "" => Pull::Missing,
        "never" => Pull::Never,
        _ => return Err("always, missing or never".to_owned()),
    };
    Ok(())
}

fn stop_timeout(draft: &mut Draft, value: &str) -> Read<()> {
    let seconds = values::integer(value).map_err(|_| "a whole number of seconds".to_owned())?;
    draft.stop_timeout = seconds.as_i64();
    draft.set(Config("StopTimeout"), seconds);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "an effect, and effects can fail")]
fn log_driver(draft: &mut Draft, value: &str) -> Read<()> {
    draft.log_config()["Type"] = value.into();
    Ok(())
}

fn log_option(draft: &mut Draft, value: &str) -> Read<()> {
    let (key, text) = values::pair(value)?;
    draft.log_config()["Config"][key] = text;
    Ok(())
}

fn publish(draft: &mut Draft, value: &str) -> Read<()> {
    for port in networks::publish(value)? {
        draft.publish(port);
    }
    Ok(())
}

fn expose(draft: &mut Draft, value: &str) -> Read<()> {
    for port in networks::expose(value)? {
        draft.insert(Config("ExposedPorts"), port, json!({}));
    }
    Ok(())
}

fn volume(draft: &mut Draft, value: &str) -> Read<()> {
    match mounts::volume(value)? {
        mounts::Volume::Anonymous(path) => draft.insert(Config("Volumes"), path, json!({})),
        mounts::Volume::Bind(bind) => draft.append(Host("Binds"), bind.into()),
    }
    Ok(())
}

fn device(draft: &mut Draft, value: &str) -> Read<()> {
    match devices::device(value)? {
        devices::Device::Mapping(mapping) => draft.append(Host("Devices"), mapping),
        devices::Device::Cdi(name) => draft.cdi_devices.push(name),
    }
    Ok(())
}

fn ulimit(draft: &mut Draft, value: &str) -> Read<()> {
    let (name, limit) = devices::ulimit(value)?;
    draft.ulimits.insert(name, limit);
    Ok(())
}

/// `option=value` or `option:value`; `no-new-privileges` stands alone.
fn security_option(draft: &mut Draft, value: &str) -> Read<()> {
    let (key, setting) = match value.split_once('=').or_else(|| value.split_once(':')) {
        Some((key, setting)) => (key, setting),
        None => (value, ""),
    };
    match (key, setting) {
        ("no-new-privileges", _) => draft.append(Host("SecurityOpt"), value.into()),
        (_, "") => return Err("option=value, or no-new-privileges".to_owned()),
        ("seccomp", profile) if !matches!(profile, "unconfined" | "builtin") => {
            let profile = files::compact_json(profile, draft.read)?;
            draft.append(Host("SecurityOpt"), format!("seccomp={profile}").into());
        }
        _ if value == "systempaths=unconfined" => {
            draft.want_list(Host("SecurityOpt"));
            draft.set(Host("MaskedPaths"), json!([]));
            draft.set(Host("ReadonlyPaths"), json!([]));
        }
        _ => draft.append(Host("SecurityOpt"), value.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_table_is_this_one() {
        let mut expected = String::from("| flag | becomes |\n| --- | --- |\n");
        for flag in FLAGS {
            let short = flag.short.map(|short| format!(" `-{short}`")).unwrap_or_default();
            let becomes = match flag.effect {
                Set(place, _) | Append(place, _) | Insert(place, _) => place.to_string(),
                Own(text, _) => text.to_owned(),
                Refuse(why) => format!("refused: {why}"),
            };
            let since = flag.since.map(|api| format!(" (Engine API {api})")).unwrap_or_default();
            expected += &format!("| `--{}`{short} | {becomes}{since} |\n", flag.name);
        }
        assert!(include_str!("../../README.md").contains(&expected), "the README should have:\n{expected}");
    }

    #[test]
    fn every_flag_is_there_once_and_in_its_place() {
        assert_eq!(FLAGS.len(), 107, "docker run has so many");
        assert!(FLAGS.windows(2).all(|pair| pair[0].name < pair[1].name));
        let shorts: std::collections::HashSet<_> = FLAGS.iter().filter_map(|flag| flag.short).collect();
        assert_eq!(shorts.len(), FLAGS.iter().filter(|flag| flag.short.is_some()).count());
    }
}
