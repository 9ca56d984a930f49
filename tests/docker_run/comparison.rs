//! Whether two create calls ask the Engine for the same container.

use std::collections::{BTreeMap, BTreeSet};

use longrun_agent::job::ContainerCommand;
use serde_json::{Map, Value, json};

use super::oracle::{Container, Oracle, Verdict};

/// Fields that may differ, and why.
const MAY_DIFFER: [(&str, &str); 7] = [
    ("/AttachStdin", "nobody types"),
    ("/StdinOnce", "nobody types"),
    ("/OpenStdin", "nobody types"),
    ("/AttachStdout", "the agent attaches by itself"),
    ("/AttachStderr", "the agent attaches by itself"),
    ("/HostConfig/AutoRemove", "the agent removes the container once its end was told"),
    ("/HostConfig/ContainerIDFile", "the Engine only shows it"),
];

/// What we make of a line.
pub(crate) fn ours(line: &str, api: &str) -> Verdict {
    let read = std::panic::catch_unwind(|| {
        let command = ContainerCommand::parse(&format!("docker run {line}"), |path| std::fs::read(path))
            .map_err(|e| e.to_string())?;
        let body = command.create_body(api.parse().expect("a version")).map_err(|e| e.to_string())?;
        Ok(Container { name: command.name, platform: command.platform, body: Value::Object(body) })
    });
    match read {
        Ok(Ok(container)) => Verdict::Created(container),
        Ok(Err(reason)) => Verdict::Refused(reason),
        Err(_) => Verdict::Crashed,
    }
}

/// How both differ, a field a line; nothing if they ask for the same. Ours has only what flags set, so it
/// is laid over the `baseline`, the CLI's body of a line without flags.
fn differences(baseline: &Container, cli: &Verdict, ours: &Verdict) -> Vec<String> {
    match (cli, ours) {
        // What the CLI makes of it nobody knows.
        (Verdict::Crashed, Verdict::Created(_) | Verdict::Refused(_)) => Vec::new(),
        (_, Verdict::Crashed) => vec!["we panic".to_owned()],
        (Verdict::Refused(_), Verdict::Refused(_)) => Vec::new(),
        (Verdict::Refused(reason), Verdict::Created(_)) => vec![format!("we take it; the CLI: {reason}")],
        (Verdict::Created(_), Verdict::Refused(reason)) => vec![format!("the CLI takes it; we: {reason}")],
        (Verdict::Created(cli), Verdict::Created(ours)) => fields(baseline, cli, ours),
    }
}

fn fields(baseline: &Container, cli: &Container, ours: &Container) -> Vec<String> {
    let mut found = Vec::new();
    for (field, cli, ours) in [("?name", &cli.name, &ours.name), ("?platform", &cli.platform, &ours.platform)]
    {
        if cli != ours {
            found.push(format!("{field}: the CLI's {cli:?}, ours {ours:?}"));
        }
    }
    let mut laid = canonical(baseline.body.clone());
    overlay(&mut laid, &ours.body);
    walk("", &canonical(cli.body.clone()), &canonical(laid), &mut found);
    found
}

/// Objects merge, everything else replaces.
fn overlay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// A body without what may differ, and with one order where the CLI's is random.
fn canonical(mut body: Value) -> Value {
    for (path, _reason) in MAY_DIFFER {
        let (parent, field) = path.rsplit_once('/').expect("a path");
        if let Some(Value::Object(parent)) = body.pointer_mut(parent) {
            parent.remove(field);
        }
    }
    // The Engine reads no name as `no`.
    if let Some(name) = body.pointer_mut("/HostConfig/RestartPolicy/Name").filter(|name| **name == "") {
        *name = "no".into();
    }
    // `-e` goes through a map. A stable sort by name: of one name the order counts, the last one wins.
    if let Some(Value::Array(variables)) = body.pointer_mut("/Env") {
        variables.sort_by_key(|text| {
            text.as_str().and_then(|text| text.split('=').next()).unwrap_or_default().to_owned()
        });
    }
    // `-v` goes through a set.
    if let Some(Value::Array(binds)) = body.pointer_mut("/HostConfig/Binds") {
        binds.sort_by_key(Value::to_string);
    }
    let network =
        body.pointer("/HostConfig/NetworkMode").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(Value::Object(endpoints)) = body.pointer_mut("/NetworkingConfig/EndpointsConfig") {
        sparse(endpoints, &network);
    }
    body
}

/// Endpoints without the fields that say nothing, and without an endpoint that says nothing but that the
/// container is in the network that `NetworkMode` names.
fn sparse(endpoints: &mut Map<String, Value>, network: &str) {
    for endpoint in endpoints.values_mut() {
        if let Value::Object(fields) = endpoint {
            fields.retain(|_, value| *value != Value::Null && *value != "" && *value != 0);
        }
    }
    endpoints
        .retain(|name, endpoint| name != network || endpoint.as_object().is_none_or(|it| !it.is_empty()));
}

/// Collects the places where two values differ.
fn walk(path: &str, cli: &Value, ours: &Value, found: &mut Vec<String>) {
    if cli == ours {
        return;
    }
    let (Value::Object(theirs), Value::Object(mine)) = (cli, ours) else {
        return found.push(format!("{path}: the CLI's {cli}, ours {ours}"));
    };
    let keys: BTreeSet<_> = theirs.keys().chain(mine.keys()).collect();
    for key in keys {
        match (theirs.get(key), mine.get(key)) {
            (Some(theirs), Some(mine)) => walk(&format!("{path}/{key}"), theirs, mine, found),
            (Some(theirs), None) => found.push(format!("{path}/{key}: the CLI's {theirs}, ours has none")),
            (None, Some(mine)) => found.push(format!("{path}/{key}: the CLI has none, ours {mine}")),
            (None, None) => {}
        }
    }
}

/// Lines and an Engine's version, compared.
pub(crate) struct Bench {
    oracle: Oracle,
    baselines: BTreeMap<String, Container>,
    /// How many lines the CLI took.
    pub(crate) taken: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { oracle: Oracle::start(), baselines: BTreeMap::new(), taken: 0 }
    }

    /// How we differ from the CLI on a line; `verb` is the CLI's.
    pub(crate) fn compare(&mut self, api: &str, verb: &str, line: &str) -> Vec<String> {
        // Ours first: the CLI writes a --cidfile.
        let ours = ours(&self.oracle.fill(line), api);
        let cli = self.oracle.ask(api, verb, line);
        self.taken += usize::from(matches!(cli, Verdict::Created(_)));
        if self.on_purpose(&cli, &ours) {
            return Vec::new();
        }
        let baseline = self.baseline(api);
        differences(&baseline, &cli, &ours)
    }

    /// Whether both differ for a reason of the table `DIFFERENCES`, as far as their verdicts show it.
    fn on_purpose(&self, cli: &Verdict, ours: &Verdict) -> bool {
        match (cli, ours) {
            (Verdict::Created(cli), Verdict::Refused(_)) => self.is_refused_on_purpose(&cli.body),
            (Verdict::Refused(reason), Verdict::Created(ours)) => {
                reason.contains("specify mac-address per network") && ours.body.get("MacAddress").is_some()
            }
            _ => false,
        }
    }

    fn is_refused_on_purpose(&self, cli: &Value) -> bool {
        let at = |path: &str| cli.pointer(path).unwrap_or(&Value::Null);
        let texts = |path: &str, field: &str| -> Vec<String> {
            let items = at(path).as_array().into_iter().flatten();
            items.filter_map(|item| item.get(field).unwrap_or(item).as_str().map(str::to_owned)).collect()
        };
        let sources = [texts("/HostConfig/Binds", ""), texts("/HostConfig/Mounts", "Source")].concat();
        let devices = texts("/HostConfig/Devices", "PathOnHost");
        let no_restart = json!({ "Name": "no", "MaximumRetryCount": 0 });
        let processors = at("/HostConfig/NanoCpus").as_i64().unwrap_or_default();
        sources.iter().any(|source| self.oracle.was_relative(source))
            || devices.iter().any(|device| device.contains('*'))
            || (at("/HostConfig/RestartPolicy") != &no_restart && at("/HostConfig/RestartPolicy/Name") != "")
            || at("/HostConfig/ContainerIDFile") != ""
            || has_overflow(cli)
            // Go's int64 of so many billionths is another number.
            || processors.unsigned_abs() > 1 << 50
    }

    fn baseline(&mut self, api: &str) -> Container {
        if !self.baselines.contains_key(api) {
            let Verdict::Created(container) = self.oracle.ask(api, "create", "a") else {
                panic!("the CLI refuses `docker create a`");
            };
            self.baselines.insert(api.to_owned(), container);
        }
        self.baselines[api].clone()
    }
}

/// `--memory 8192p` becomes the smallest number there is.
fn has_overflow(body: &Value) -> bool {
    match body {
        Value::Object(fields) => fields.values().any(has_overflow),
        Value::Array(items) => items.iter().any(has_overflow),
        value => value.as_i64() == Some(i64::MIN),
    }
}
