//! Values about storage: `--volume` and `--mount`.

use serde_json::{Map, Value, json};

use super::{
    go,
    values::{Read, bytes},
};

/// A `--volume`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A new volume for this container alone.
    Anonymous(String),
    /// A folder of the VM or a named volume, as the Engine reads it itself.
    Bind(String),
}

/// `/in-container`, `name:/in-container[:options]`, `/on-vm:/in-container[:options]`.
pub(crate) fn volume(value: &str) -> Read<Volume> {
    let expected = || "/on-vm:/in-container[:ro], name:/in-container[:ro] or /in-container".to_owned();
    let parts = split_at_colons(value);
    if value.is_empty() || parts.len() > 3 || (parts.len() > 1 && parts.iter().any(String::is_empty)) {
        return Err(expected());
    }
    match &parts[..] {
        [path] => Ok(Volume::Anonymous(path.clone())),
        [source, ..] if source.starts_with('.') || source.starts_with('~') => {
            Err(format!("an absolute path on the VM in place of `{source}`: there is no working folder"))
        }
        _ => Ok(Volume::Bind(value.to_owned())),
    }
}

/// The parts between colons; `C:` at the start of a part is a drive, as the CLI sees it.
fn split_at_colons(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in value.chars() {
        let Some(part) = parts.last_mut() else { break };
        let drive = part.chars().count() == 1 && part.starts_with(char::is_alphabetic);
        match c {
            ':' if !drive => parts.push(String::new()),
            c => part.push(c),
        }
    }
    parts
}

/// The families of options, each for one type of mount.
const OPTIONS: [(&str, &str); 4] = [
    ("volume", "VolumeOptions"),
    ("bind", "BindOptions"),
    ("tmpfs", "TmpfsOptions"),
    ("image", "ImageOptions"),
];

/// `--mount`: comma-separated `key=value`.
pub(crate) fn mount(value: &str) -> Read<Value> {
    let mut mount = Mount { fields: Map::new() };
    mount.fields.insert("Type".to_owned(), "volume".into());
    for field in go::csv(value)? {
        match field.split_once('=') {
            Some((key, text)) => mount.option(&key.to_ascii_lowercase(), text, &field)?,
            None => match &*field.to_ascii_lowercase() {
                key @ ("readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive") => {
                    mount.option(key, "true", &field)?;
                }
                _ => return Err(format!("key=value in place of `{field}`")),
            },
        }
    }
    mount.checked()
}

struct Mount {
    fields: Map<String, Value>,
}

impl Mount {
    fn option(&mut self, key: &str, text: &str, field: &str) -> Read<()> {
        let boolean = || go::boolean(text).map(Value::from).map_err(|is| format!("{is} in `{field}`"));
        match key {
            "type" => self.set("Type", text.to_ascii_lowercase()),
            "source" | "src" if text == "." || text.starts_with("./") || text.starts_with("../") => {
                return Err(format!("an absolute path on the VM in `{field}`: there is no working folder"));
            }
            "source" | "src" => self.set("Source", text),
            "target" | "dst" | "destination" => self.set("Target", text),
            "readonly" | "ro" => self.set("ReadOnly", boolean()?),
            "consistency" => self.set("Consistency", text.to_ascii_lowercase()),
            "bind-propagation" => {
                self.family("BindOptions")["Propagation"] = text.to_ascii_lowercase().into();
            }
            "bind-nonrecursive" => self.family("BindOptions")["NonRecursive"] = boolean()?,
            "bind-recursive" => self.recursive(text, field)?,
            "volume-subpath" => self.volume()["Subpath"] = text.into(),
            "volume-nocopy" => self.volume()["NoCopy"] = boolean()?,
            "volume-label" => set_pair(&mut self.volume()["Labels"], text),
            "volume-driver" => self.volume()["DriverConfig"]["Name"] = text.into(),
            "volume-opt" => set_pair(&mut self.volume()["DriverConfig"]["Options"], text),
            "image-subpath" => self.family("ImageOptions")["Subpath"] = text.into(),
            "tmpfs-size" => {
                let size = bytes(text).map_err(|expected| format!("{expected} in `{field}`"))?;
                self.family("TmpfsOptions")["SizeBytes"] = size;
            }
            "tmpfs-mode" => {
                let octal = u32::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+'));
                let mode = octal.ok_or_else(|| format!("an octal mode such as 1770 in `{field}`"))?;
                self.family("TmpfsOptions")["Mode"] = mode.into();
            }
            _ => return Err(format!("a key of --mount in place of `{key}`")),
        }
        Ok(())
    }

    fn recursive(&mut self, text: &str, field: &str) -> Read<()> {
        let option = match text {
            "enabled" => return Ok(()),
            "disabled" => "NonRecursive",
            "writable" => "ReadOnlyNonRecursive",
            "readonly" => "ReadOnlyForceRecursive",
            _ => return Err(format!("enabled, disabled, writable or readonly in `{field}`")),
        };
        self.family("BindOptions")[option] = true.into();
        Ok(())
    }

    /// What holds for the whole.
    fn checked(self) -> Read<Value> {
        let text = |key: &str| self.fields.get(key).and_then(Value::as_str).unwrap_or_default();
        let kind = text("Type");
        if kind.is_empty() || text("Target").is_empty() {
            return Err("a type and a target: type=bind,source=/on-vm,target=/in-container".to_owned());
        }
        for (family, options) in OPTIONS {
            if self.fields.contains_key(options) && family != kind {
                return Err(format!("no {family}-* option for a mount of type {kind}"));
            }
        }
        let read_only = self.fields.get("ReadOnly") == Some(&true.into());
        let bind = self.fields.get("BindOptions").unwrap_or(&Value::Null);
        let forced = bind["ReadOnlyForceRecursive"] == true;
        if (forced || bind["ReadOnlyNonRecursive"] == true) && !read_only {
            return Err("readonly beside bind-recursive=writable and bind-recursive=readonly".to_owned());
        }
        if forced && bind["Propagation"] != "rprivate" {
            return Err("bind-propagation=rprivate beside bind-recursive=readonly".to_owned());
        }
        Ok(without_zeros(self.fields).into())
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.fields.insert(key.to_owned(), value.into());
    }

    fn family(&mut self, name: &str) -> &mut Value {
        self.fields.entry(name).or_insert_with(|| json!({}))
    }

    fn volume(&mut self) -> &mut Value {
        let empty = json!({ "Labels": {}, "DriverConfig": {} });
        self.fields.entry("VolumeOptions").or_insert(empty)
    }
}

/// Without what is as if it were not given; families of options stay, for that they are there says something.
fn without_zeros(fields: Map<String, Value>) -> Map<String, Value> {
    let stays = |key: &str| key == "DriverConfig" || OPTIONS.iter().any(|(_, options)| *options == key);
    let pruned = fields.into_iter().map(|(key, value)| match value {
        // A label or a driver's option may be empty: its name says something.
        Value::Object(fields) if key != "Labels" && key != "Options" => {
            (key, Value::Object(without_zeros(fields)))
        }
        value => (key, value),
    });
    let said = |key: &str, value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => stays(key) || !fields.is_empty(),
        Value::Bool(true) | Value::Array(_) => true,
    };
    pruned.filter(|(key, value)| said(key, value)).collect()
}

/// `key=value`; one without a key is passed over, as by the CLI.
fn set_pair(object: &mut Value, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if object.is_null() {
        *object = json!({});
    }
    if !key.is_empty() {
        object[key] = value.into();
    }
}
