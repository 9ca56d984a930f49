//! The container that a command asks for, in the words of the Engine's create call.
//!
//! Leaves out the call itself.

use serde_json::{Map, Value, json};

/// A field of the create call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// At the top, beside the image.
    Config(&'static str),
    /// In `HostConfig`.
    Host(&'static str),
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

/// A create call as far as the flags read have filled it.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    config: Map<String, Value>,
    host: Map<String, Value>,
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) pull: Pull,
    /// Seconds, as `--stop-timeout` gives them; negative means for ever.
    pub(crate) stop_timeout: Option<i32>,
    pub(crate) remove_volumes: bool,
}

impl Draft {
    /// Replaces a field.
    pub(crate) fn set(&mut self, place: Place, value: Value) {
        *self.field(place) = value;
    }

    /// Appends to a list.
    pub(crate) fn append(&mut self, place: Place, value: Value) {
        match self.field(place) {
            Value::Array(list) => list.push(value),
            field => *field = json!([value]),
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

    /// Publishes one port (`80/tcp`).
    pub(crate) fn publish(&mut self, port: &str, host_address: &str, host_port: &str) {
        self.insert(Place::Config("ExposedPorts"), port.to_owned(), json!({}));
        let binding = json!({ "HostIp": host_address, "HostPort": host_port });
        let field = self.field(Place::Host("PortBindings"));
        match field.get_mut(port) {
            Some(Value::Array(bindings)) => bindings.push(binding),
            _ => self.insert(Place::Host("PortBindings"), port.to_owned(), json!([binding])),
        }
    }

    /// The body of the create call.
    pub(crate) fn body(mut self, image: &str, arguments: &[String]) -> Map<String, Value> {
        // As the docker CLI sends them.
        if let Some(Value::Array(capabilities)) = self.host.get_mut("CapAdd") {
            capabilities.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            capabilities.dedup();
        }
        self.config.insert("Image".to_owned(), image.into());
        if !arguments.is_empty() {
            self.config.insert("Cmd".to_owned(), arguments.into());
        }
        self.config.insert("HostConfig".to_owned(), self.host.into());
        self.config
    }

    fn field(&mut self, place: Place) -> &mut Value {
        match place {
            Place::Config(name) => self.config.entry(name).or_insert(Value::Null),
            Place::Host(name) => self.host.entry(name).or_insert(Value::Null),
        }
    }
}
