//! The container that a command asks for, in the words of the Engine's create call.
//!
//! Leaves out the call itself.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde_json::{Map, Value, json};

use super::{
    files::ReadFile,
    networks::{Networks, Published},
    values::Read,
};

/// A field of the create call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// At the top, beside the image.
    Config(&'static str),
    /// In `HostConfig`.
    Host(&'static str),
    /// In `Healthcheck`.
    Health(&'static str),
}

/// When to pull the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Even if it is there.
    Always,
    /// If it is not there.
    #[default]
    Missing,
    /// Not at all: it is there, or the job cannot run.
    Never,
}

/// A version of the Engine's API, such as 1.41.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineApi {
    /// Before the dot.
    pub major: u32,
    /// After the dot.
    pub minor: u32,
}

impl FromStr for EngineApi {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('.').and_then(|(major, minor)| {
            Some(Self { major: super::go::digits(major)?, minor: super::go::digits(minor)? })
        });
        numbers.ok_or_else(|| format!("`{text}` is not an API version such as 1.41"))
    }
}

impl fmt::Display for EngineApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A create call as far as the flags read have filled it.
#[derive(Debug)]
pub(crate) struct Draft {
    config: Map<String, Value>,
    host: Map<String, Value>,
    health: Map<String, Value>,
    pub(crate) read: ReadFile,
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) pull: Pull,
    /// Seconds, as `--stop-timeout` gives them; negative means for ever.
    pub(crate) stop_timeout: Option<i64>,
    pub(crate) remove_volumes: bool,
    pub(crate) no_healthcheck: bool,
    pub(crate) detach: bool,
    /// Whether `--attach` was given.
    pub(crate) attach: bool,
    /// The last `--restart`.
    pub(crate) restart: String,
    pub(crate) networks: Networks,
    /// `NAME=value` or `NAME`, of files and of flags.
    pub(crate) env_of_files: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) labels_of_files: Vec<String>,
    pub(crate) ulimits: BTreeMap<String, Value>,
    pub(crate) cdi_devices: Vec<String>,
}

impl Draft {
    /// Nothing but defaults; `read` reads the files that flags name.
    pub(crate) fn new(read: ReadFile) -> Self {
        Self {
            config: Map::new(),
            host: Map::new(),
            health: Map::new(),
            read,
            name: None,
            platform: None,
            pull: Pull::default(),
            stop_timeout: None,
            remove_volumes: false,
            no_healthcheck: false,
            detach: false,
            attach: false,
            restart: String::new(),
            networks: Networks::default(),
            env_of_files: Vec::new(),
            env: Vec::new(),
            labels_of_files: Vec::new(),
            ulimits: BTreeMap::new(),
            cdi_devices: Vec::new(),
        }
    }

    /// Replaces a field; an empty text is as if the flag were not there.
    pub(crate) fn set(&mut self, place: Place, value: Value) {
        let field = self.field(place);
        *field = if value == "" { Value::Null } else { value };
    }

    /// Appends to a list.
    pub(crate) fn append(&mut self, place: Place, value: Value) {
        match self.field(place) {
            Value::Array(list) => list.push(value),
            field => *field = json!([value]),
        }
    }

    /// Makes a field a list, if it is not there.
    pub(crate) fn want_list(&mut self, place: Place) {
        let field = self.field(place);
        if field.is_null() {
            *field = json!([]);
        }
    }

    /// Sets a key of an object.
    pub(crate) fn insert(&mut self, place: Place, key: String, value: Value) {
        let field = self.field(place);
        if field.is_null() {
            *field = json!({});
        }
        field[key] = value;
    }

    /// `HostConfig.LogConfig`, whose two parts come from two flags.
    pub(crate) fn log_config(&mut self) -> &mut Value {
        let field = self.field(Place::Host("LogConfig"));
        if field.is_null() {
            *field = json!({ "Type": "", "Config": {} });
        }
        field
    }

    /// Publishes a port.
    pub(crate) fn publish(&mut self, published: Published) {
        let Published { port, host_address, host_port } = published;
        self.insert(Place::Config("ExposedPorts"), port.clone(), json!({}));
        let binding = json!({ "HostIp": host_address, "HostPort": host_port });
        match self.field(Place::Host("PortBindings")).get_mut(&port) {
            Some(Value::Array(bindings)) => bindings.push(binding),
            _ => self.insert(Place::Host("PortBindings"), port, json!([binding])),
        }
    }

    /// Sets a variable; of one name, the last counts, in the place of the first.
    pub(crate) fn set_env(&mut self, variable: &str) {
        let name = |variable: &str| variable.split('=').next().map(str::to_owned);
        match self.env.iter_mut().find(|known| name(known) == name(variable)) {
            Some(known) => variable.clone_into(known),
            None => self.env.push(variable.to_owned()),
        }
    }

    /// The body of the create call; the error names flags that contradict one another.
    pub(crate) fn body(mut self, image: &str, arguments: &[String]) -> Read<Map<String, Value>> {
        self.check_restart()?;
        if self.detach && self.attach {
            return Err(
                "--detach contradicts --attach; leave both out, the agent does what is needed".to_owned()
            );
        }
        self.finish_lists();
        self.finish_labels();
        self.finish_health()?;
        let endpoints = self.networks.endpoints()?;
        if let Some(mode) = self.networks.mode() {
            self.host.insert("NetworkMode".to_owned(), mode.into());
        }
        let mut body = self.config;
        if self.networks.mode().is_some() || !endpoints.is_empty() {
            body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
        }
        body.insert("Image".to_owned(), image.into());
        if !arguments.is_empty() {
            body.insert("Cmd".to_owned(), arguments.into());
        }
        let log = self.host.get("LogConfig").unwrap_or(&Value::Null);
        if log["Type"] == "none" && log["Config"].as_object().is_some_and(|options| !options.is_empty()) {
            return Err("--log-opt has no meaning for --log-driver none; leave one of them out".to_owned());
        }
        self.host.retain(|_, value| !value.is_null());
        body.retain(|_, value| !value.is_null());
        body.insert("HostConfig".to_owned(), self.host.into());
        Ok(body)
    }

    /// Another policy than `no` starts the container again behind the agent's back.
    fn check_restart(&mut self) -> Read<()> {
        let policy = &self.restart;
        let (name, times) = policy.split_once(':').unwrap_or((policy, ""));
        let times = if times.is_empty() { Some(0) } else { times.parse::<i64>().ok() };
        match (name, times) {
            ("", _) if policy.is_empty() => {}
            ("no", Some(0)) => {}
            // It means nothing, and the CLI sends it.
            ("no", Some(times)) => {
                let policy = json!({ "Name": "no", "MaximumRetryCount": times });
                self.set(Place::Host("RestartPolicy"), policy);
            }
            ("always" | "unless-stopped", _) => {
                return Err(format!(
                    "--restart {policy}: a job that is always started again never ends, and nobody would be told; \
                     leave --restart out"
                ));
            }
            ("on-failure", _) => {
                return Err(format!(
                    "--restart {policy}: how each start ends must be told, so the agent starts the job, not Docker; \
                     leave --restart out"
                ));
            }
            _ => return Err(format!("--restart {policy}: expected no, and nothing else")),
        }
        Ok(())
    }

    fn finish_lists(&mut self) {
        // As the docker CLI sends them: sorted, each once.
        for field in ["CapAdd", "CapDrop"] {
            if let Some(Value::Array(capabilities)) = self.host.get_mut(field) {
                capabilities.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                capabilities.dedup();
            }
        }
        if let Some(Value::Array(binds)) = self.host.get_mut("Binds") {
            let mut seen = std::collections::HashSet::new();
            binds.retain(|bind| seen.insert(bind.to_string()));
        }
        let env: Vec<_> = self.env_of_files.drain(..).chain(self.env.drain(..)).collect();
        if !env.is_empty() {
            self.config.insert("Env".to_owned(), env.into());
        }
        if !self.networks.links.is_empty() {
            self.host.insert("Links".to_owned(), self.networks.links.clone().into());
        }
        if !self.ulimits.is_empty() {
            let ulimits: Vec<_> = std::mem::take(&mut self.ulimits).into_values().collect();
            self.host.insert("Ulimits".to_owned(), ulimits.into());
        }
        if !self.cdi_devices.is_empty() {
            let devices = std::mem::take(&mut self.cdi_devices);
            let request = json!({ "Driver": "cdi", "Count": 0, "DeviceIDs": devices, "Capabilities": null, "Options": null });
            self.append(Place::Host("DeviceRequests"), request);
        }
    }

    /// Labels of flags go before those of files.
    fn finish_labels(&mut self) {
        let mut labels = Map::new();
        for line in &self.labels_of_files {
            let (key, text) = line.split_once('=').unwrap_or((line, ""));
            labels.insert(key.to_owned(), text.into());
        }
        if let Some(Value::Object(given)) = self.config.remove("Labels") {
            labels.extend(given);
        }
        if !labels.is_empty() {
            self.config.insert("Labels".to_owned(), labels.into());
        }
    }

    fn finish_health(&mut self) -> Read<()> {
        let unset = |value: &Value| value.is_null() || value.as_i64() == Some(0);
        self.health.retain(|_, value| !unset(value));
        if self.no_healthcheck && !self.health.is_empty() {
            return Err(
                "--no-healthcheck contradicts the other --health flags; leave it or them out".to_owned()
            );
        }
        let negative = |value: &Value| value.as_i64().is_some_and(|number| number < 0);
        if let Some((field, value)) = self.health.iter().find(|(_, value)| negative(value)) {
            return Err(format!("Healthcheck.{field} would be {value}; give its --health flag 0 or more"));
        }
        if let Some(command) = self.health.remove("Test") {
            self.health.insert("Test".to_owned(), json!(["CMD-SHELL", command]));
        }
        if self.no_healthcheck {
            self.health.insert("Test".to_owned(), json!(["NONE"]));
        }
        if !self.health.is_empty() {
            let health = std::mem::take(&mut self.health);
            self.config.insert("Healthcheck".to_owned(), health.into());
        }
        Ok(())
    }

    fn field(&mut self, place: Place) -> &mut Value {
        match place {
            Place::Config(name) => self.config.entry(name).or_insert(Value::Null),
            Place::Host(name) => self.host.entry(name).or_insert(Value::Null),
            Place::Health(name) => self.health.entry(name).or_insert(Value::Null),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(name) => write!(f, "{name}"),
            Self::Host(name) => write!(f, "HostConfig.{name}"),
            Self::Health(name) => write!(f, "Healthcheck.{name}"),
        }
    }
}

/// Says in the words of `api` what a newer one says otherwise; the error names a flag that it has no words for,
/// and the API that has.
pub(crate) fn adapt(body: &mut Map<String, Value>, api: EngineApi) -> Result<(), (EngineApi, &'static str)> {
    let since = |minor| EngineApi { major: 1, minor };
    if let Some(Value::Object(host)) = body.get_mut("HostConfig")
        && (api >= since(42) || host.get("KernelMemory") == Some(&0.into()))
    {
        host.remove("KernelMemory");
    }
    if api >= since(44) {
        return Ok(());
    }
    let forced = |mount: &Value| mount["BindOptions"]["ReadOnlyForceRecursive"] == true;
    let mounts = body["HostConfig"]["Mounts"].as_array();
    if mounts.is_some_and(|mounts| mounts.iter().any(forced)) {
        return Err((since(44), "mount bind-recursive=readonly"));
    }
    // Before 1.44 a container has one MAC address, its own; from then on each of its networks has one.
    let main = body["HostConfig"]["NetworkMode"].as_str().unwrap_or("default").to_owned();
    let networks = body.get_mut("NetworkingConfig").and_then(|config| config.get_mut("EndpointsConfig"));
    let mut own = None;
    for (network, endpoint) in networks.and_then(Value::as_object_mut).into_iter().flatten() {
        match endpoint.as_object_mut().and_then(|endpoint| endpoint.remove("MacAddress")) {
            Some(address) if *network == main => own = Some(address),
            Some(_) => return Err((since(44), "network mac-address=")),
            None => {}
        }
    }
    body.extend(own.map(|address| ("MacAddress".to_owned(), address)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_compare_by_number() {
        let version = |text: &str| text.parse::<EngineApi>();
        assert!(version("1.9") < version("1.41") && version("1.41") < version("1.100"));
        assert_eq!(version("1.41").unwrap().to_string(), "1.41");
        assert!(version("1").is_err() && version("1.x").is_err());
    }
}
