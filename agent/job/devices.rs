//! Values about devices and limits: `--device`, `--gpus`, `--device-…`, `--blkio-…`, `--ulimit`.

use serde_json::{Value, json};

use super::{
    go,
    values::{Read, bytes},
};

/// A `--device`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Device {
    /// A device file.
    Mapping(Value),
    /// A name of the Container Device Interface, `vendor/class=name`.
    Cdi(String),
}

/// `/dev/x`, `/dev/x:/dev/y`, `/dev/x:rwm`, `/dev/x:/dev/y:rwm`, or `vendor/class=name`.
pub(crate) fn device(value: &str) -> Read<Device> {
    if is_cdi(value) {
        return Ok(Device::Cdi(value.to_owned()));
    }
    let expected = || "/dev/on-vm[:/dev/in-container][:rwm], or vendor/class=device".to_owned();
    let parts: Vec<&str> = value.split(':').collect();
    let (host, container, mode) = match parts[..] {
        [host] => (go::clean(host), go::clean(host), "rwm"),
        [host, mode] if is_mode(mode) => (go::clean(host), go::clean(host), mode),
        [host, container] => (host.to_owned(), go::clean(container), "rwm"),
        [host, container, mode] if is_mode(mode) => (host.to_owned(), container.to_owned(), mode),
        _ => return Err(expected()),
    };
    if parts[0].is_empty() || !container.starts_with('/') {
        return Err(expected());
    }
    if host.ends_with('*') {
        return Err("one device a flag: no shell expands the * where the agent runs".to_owned());
    }
    let mapping = json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode });
    Ok(Device::Mapping(mapping))
}

/// Each of `r`, `w`, `m` at most once.
fn is_mode(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 3
        && text.char_indices().all(|(at, c)| "rwm".contains(c) && !text[..at].contains(c))
}

/// The CDI's `vendor/class=name` (container-device-interface, `parser.IsQualifiedName`).
fn is_cdi(value: &str) -> bool {
    let name = |text: &str, first: fn(char) -> bool, inner: &str| {
        text.starts_with(first)
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
    };
    let letter = |c: char| c.is_ascii_alphabetic();
    let Some((kind, device)) = value.split_once('=') else { return false };
    kind.split_once('/').is_some_and(|(vendor, class)| {
        name(vendor, letter, "_-.")
            && name(class, letter, "_-.")
            && name(device, |c| c.is_ascii_alphanumeric(), "_-.:")
    })
}

/// A rule such as `c 42:* rmw`.
pub(crate) fn cgroup_rule(value: &str) -> Read<Value> {
    let number = |text: &str| text == "*" || go::digits::<u64>(text).is_some();
    let good = match value.split(' ').collect::<Vec<_>>()[..] {
        ["a" | "c" | "b", numbers, mode] => {
            numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&mode.len())
                && mode.bytes().all(|byte| b"rwm".contains(&byte))
        }
        _ => false,
    };
    good.then(|| value.into()).ok_or_else(|| "a rule such as `c 42:* rwm`".to_owned())
}

/// `--gpus`: `all`, a count, or comma-separated `count=`, `device=`, `driver=`, `capabilities=`, `options=`.
pub(crate) fn gpus(value: &str) -> Read<Value> {
    let expected =
        || "all, a count, or fields such as device=0 and capabilities=utility, each once".to_owned();
    let count = |text: &str| match text {
        "all" => Ok(json!(-1)),
        text => text.parse::<i64>().map(Value::from).map_err(|_| expected()),
    };
    let mut request =
        json!({ "Driver": "", "Count": 0, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {} });
    let mut seen: Vec<String> = Vec::new();
    for field in go::csv(value)? {
        let (key, text) = field.split_once('=').map_or((&*field, None), |(key, text)| (key, Some(text)));
        if seen.iter().any(|seen| seen == key) {
            return Err(expected());
        }
        seen.push(key.to_owned());
        match (key, text) {
            (key, None) => {
                request["Count"] = count(key)?;
                seen.push("count".to_owned());
            }
            ("count", Some(text)) => request["Count"] = count(text)?,
            ("device", Some(text)) => request["DeviceIDs"] = text.split(',').collect(),
            ("driver", Some(text)) => request["Driver"] = text.into(),
            ("capabilities", Some(text)) => {
                request["Capabilities"] = json!([text.split(',').chain(["gpu"]).collect::<Vec<_>>()]);
            }
            ("options", Some(text)) => {
                for option in go::csv(text)? {
                    let (key, value) = option.split_once('=').unwrap_or((&option, ""));
                    request["Options"][key] = value.into();
                }
            }
            (_, Some(_)) => return Err(expected()),
        }
    }
    if !seen.iter().any(|key| key == "count") && request["DeviceIDs"].is_null() {
        request["Count"] = json!(1);
    }
    Ok(request)
}

/// `/dev/x:10mb`, a rate in bytes a second.
pub(crate) fn byte_rate(value: &str) -> Read<Value> {
    let expected = || "/dev/on-vm:rate, such as /dev/sda:10mb".to_owned();
    let (path, rate) = device_and(value).ok_or_else(expected)?;
    Ok(json!({ "Path": path, "Rate": bytes(rate).map_err(|_| expected())? }))
}

/// `/dev/x:1000`, a rate in operations a second.
pub(crate) fn operation_rate(value: &str) -> Read<Value> {
    let expected = || "/dev/on-vm:operations, such as /dev/sda:1000".to_owned();
    let (path, rate) = device_and(value).ok_or_else(expected)?;
    Ok(json!({ "Path": path, "Rate": go::digits::<u64>(rate).ok_or_else(expected)? }))
}

/// `/dev/x:500`, a weight from 10 to 1000, or 0.
pub(crate) fn device_weight(value: &str) -> Read<Value> {
    let expected = || "/dev/on-vm:weight, the weight 0 or from 10 to 1000".to_owned();
    let (path, weight) = device_and(value).ok_or_else(expected)?;
    match go::digits::<u16>(weight) {
        Some(weight @ (0 | 10..=1000)) => Ok(json!({ "Path": path, "Weight": weight })),
        _ => Err(expected()),
    }
}

fn device_and(value: &str) -> Option<(&str, &str)> {
    value.split_once(':').filter(|(path, _)| path.starts_with("/dev/"))
}

/// `name=soft[:hard]`; answers the name too, because the last of a name counts.
pub(crate) fn ulimit(value: &str) -> Read<(String, Value)> {
    const NAMES: &[&str] = &[
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let expected = || format!("name=soft[:hard], the name one of {}", NAMES.join(", "));
    let (name, limits) =
        value.split_once('=').filter(|(name, _)| NAMES.contains(name)).ok_or_else(expected)?;
    let mut numbers = limits.split(':').map(|number| number.parse::<i64>().map_err(|_| expected()));
    let soft = numbers.next().ok_or_else(expected)??;
    let hard = numbers.next().transpose()?.unwrap_or(soft);
    let unlimited = |limit: i64| if limit == -1 { i64::MAX } else { limit };
    if numbers.next().is_some() || unlimited(soft) > unlimited(hard) {
        return Err(format!("{}, the soft limit not above the hard one", expected()));
    }
    Ok((name.to_owned(), json!({ "Name": name, "Soft": soft, "Hard": hard })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_take_one_to_three_parts() {
        let device_of = |host: &str, container: &str, mode: &str| json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode });
        mapped("/dev/kvm", device_of("/dev/kvm", "/dev/kvm", "rwm"));
        mapped("/dev/kvm:r", device_of("/dev/kvm", "/dev/kvm", "r"));
        mapped("/dev/a:/dev/b", device_of("/dev/a", "/dev/b", "rwm"));
        mapped("/dev/a:/dev/b:rw", device_of("/dev/a", "/dev/b", "rw"));
        for bad in
            ["", "kvm", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w", "/dev/a:/dev/b:rr", "/dev/tty*"]
        {
            assert!(device(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_name_of_the_device_interface_is_no_path() {
        for name in ["nvidia.com/gpu=all", "vendor.com/class=0", "v/c=a.b:c"] {
            assert_eq!(device(name), Ok(Device::Cdi(name.to_owned())));
        }
        for bad in ["nvidia.com/gpu", "nvidia.com/gpu=", "1v/c=a", "v/c=a b"] {
            assert!(device(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn gpus_are_a_count_or_devices() {
        let request = |count: i64, devices: Value, capabilities: Value| json!({ "Driver": "", "Count": count, "DeviceIDs": devices, "Capabilities": capabilities, "Options": {} });
        read(gpus, "all", request(-1, Value::Null, json!([["gpu"]])));
        read(gpus, "2", request(2, Value::Null, json!([["gpu"]])));
        read(gpus, "\"device=0,2\"", request(0, json!(["0", "2"]), json!([["gpu"]])));
        read(
            gpus,
            "device=GPU-1,capabilities=utility",
            request(0, json!(["GPU-1"]), json!([["utility", "gpu"]])),
        );
        for bad in ["", "all,all", "some", "count=x", "color=red", "\"device=0"] {
            refuse(gpus, bad);
        }
    }

    #[test]
    fn rates_weights_rules_and_limits_are_read() {
        read(byte_rate, "/dev/sda:1mb", json!({ "Path": "/dev/sda", "Rate": 1 << 20 }));
        read(operation_rate, "/dev/sda:100", json!({ "Path": "/dev/sda", "Rate": 100 }));
        read(device_weight, "/dev/sda:500", json!({ "Path": "/dev/sda", "Weight": 500 }));
        read(cgroup_rule, "c 42:* rwm", json!("c 42:* rwm"));
        for bad in ["sda:1", "/dev/sda", "/dev/sda:x", "/dev/sda:9"] {
            refuse(device_weight, bad);
        }
        for bad in ["c 42 rwm", "d 1:1 r", "c 1:1 x", "c 1:1 rwmr"] {
            refuse(cgroup_rule, bad);
        }
        let limit = |soft: i64, hard: i64| json!({ "Name": "nofile", "Soft": soft, "Hard": hard });
        for (text, soft, hard) in [("1024", 1024, 1024), ("1:2", 1, 2), ("1:-1", 1, -1), ("-1", -1, -1)] {
            assert_eq!(ulimit(&format!("nofile={text}")), Ok(("nofile".to_owned(), limit(soft, hard))));
        }
        for bad in ["nofile", "nope=1", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3", "nofile=x"] {
            assert!(ulimit(bad).is_err(), "{bad} was taken");
        }
    }

    #[track_caller]
    fn mapped(value: &str, expected: Value) {
        assert_eq!(device(value), Ok(Device::Mapping(expected)), "{value:?}");
    }

    #[track_caller]
    fn read(reader: fn(&str) -> Read<Value>, value: &str, expected: Value) {
        assert_eq!(reader(value), Ok(expected), "{value:?}");
    }

    #[track_caller]
    fn refuse(reader: fn(&str) -> Read<Value>, value: &str) {
        assert!(reader(value).is_err(), "{value:?} was taken as {:?}", reader(value));
    }
}
