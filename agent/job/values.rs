//! Readers of flag values: text in, the Engine's JSON out, or what was expected instead.
//!
//! The rules are the docker CLI's (`opts/` of docker/cli, and docker/go-units for sizes). A reader's error
//! says what was expected; the flag, the value and the place are added by the caller.

use serde_json::{Value, json};

/// What a reader answers: the value as the Engine wants it, or what was expected.
pub(crate) type Read<T> = Result<T, String>;

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn text(value: &str) -> Read<Value> {
    Ok(value.into())
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(value: &str) -> Read<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// [`boolean`], for the Engine.
pub(crate) fn switch(value: &str) -> Read<Value> {
    boolean(value).map(Value::from)
}

/// A whole number.
pub(crate) fn integer(value: &str) -> Read<Value> {
    value.parse::<i64>().map(Value::from).map_err(|_| "a whole number".to_owned())
}

/// go-units `RAMInBytes`: `512m`, `1.5GiB`, `64 kb`; units are powers of 1024, the bare number is bytes.
pub(crate) fn bytes(value: &str) -> Read<Value> {
    let expected = || "a size such as 512m or 2g (units b, k, m, g, t, p; bytes without one)".to_owned();
    let number_end =
        value.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(expected)?;
    let (number, unit) = value.split_at(number_end + 1);
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().map_err(|_| expected())?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" if matches!(unit.as_str(), "" | "b") => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1_u64 << 50,
        _ => return Err(expected()),
    };
    if number < 0.0 || !matches!(unit.get(1..).unwrap_or(""), "" | "b" | "ib") {
        return Err(expected());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as go-units does")]
    let bytes = (number * factor as f64) as i64;
    Ok(bytes.into())
}

/// `--cpus`: a decimal number of processors, exact to a billionth, as `NanoCpus`.
pub(crate) fn nano_cpus(value: &str) -> Read<Value> {
    let expected = || "a number of processors such as 2 or 1.5, to nine decimals at most".to_owned();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(expected());
    }
    let fraction = fraction.trim_end_matches('0');
    let nanos = format!("{whole}{fraction:0<9}");
    if fraction.len() > 9 {
        return Err(expected());
    }
    nanos.parse::<i64>().map(Value::from).map_err(|_| expected())
}

/// `NAME=value` or `NAME`. The latter is sent as it is: the docker CLI would look NAME up where it runs,
/// and where the agent runs nothing of the user's is set.
pub(crate) fn environment(value: &str) -> Read<Value> {
    match value.split('=').next() {
        Some("") | None => Err("NAME=value".to_owned()),
        Some(_) => Ok(value.into()),
    }
}

/// `key=value`, or `key` with an empty value.
pub(crate) fn label(value: &str) -> Read<(String, Value)> {
    let (key, text) = value.split_once('=').unwrap_or((value, ""));
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err("key=value, the key without blanks".to_owned());
    }
    Ok((key.to_owned(), text.into()))
}

/// `key=value`, as `--log-opt` has it.
pub(crate) fn option(value: &str) -> Read<(String, Value)> {
    match value.split_once('=') {
        Some((key, text)) if !key.is_empty() => Ok((key.to_owned(), text.into())),
        _ => Err("option=value".to_owned()),
    }
}

/// `host:address` or `host=address`; the address may be `host-gateway`, an IPv6 one may be in brackets.
pub(crate) fn extra_host(value: &str) -> Read<Value> {
    let expected = || "host:address, the address an IP or host-gateway".to_owned();
    let (host, address) = value.split_once('=').or_else(|| value.split_once(':')).ok_or_else(expected)?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let known = bare == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok();
    if host.is_empty() || !known {
        return Err(expected());
    }
    Ok(format!("{host}:{bare}").into())
}

/// A capability as the Engine names it: upper case, with `CAP_`, but `ALL` alone.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn capability(value: &str) -> Read<Value> {
    let upper = value.trim().to_ascii_uppercase();
    Ok(match upper.as_str() {
        "ALL" => upper.into(),
        name if name.starts_with("CAP_") => upper.into(),
        name => format!("CAP_{name}").into(),
    })
}

/// `/dev/x`, `/dev/x:/dev/y`, `/dev/x:rwm`, `/dev/x:/dev/y:rwm`.
pub(crate) fn device(value: &str) -> Read<Value> {
    let parts: Vec<&str> = value.split(':').collect();
    let is_mode = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let (host, container, mode) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if is_mode(mode) => (host, container, mode),
        _ => return Err("/dev/on-vm[:/dev/in-container][:rwm]".to_owned()),
    };
    if !host.starts_with('/') || !container.starts_with('/') {
        return Err("/dev/on-vm[:/dev/in-container][:rwm], with absolute paths".to_owned());
    }
    Ok(json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode }))
}

/// `--gpus`: `all`, a count, or comma-separated `count=`, `device=`, `driver=`, `capabilities=`. A field
/// in double quotes may hold commas (`'"device=0,2"'`).
pub(crate) fn gpus(value: &str) -> Read<Value> {
    let expected = || "all, a count, or fields such as device=0 and capabilities=utility".to_owned();
    let mut request =
        json!({ "Driver": "", "Count": 0, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {} });
    let count = |text: &str| match text {
        "all" => Ok(json!(-1)),
        text => integer(text).map_err(|_| expected()),
    };
    let mut counted = false;
    for field in csv(value).ok_or_else(expected)? {
        match field.split_once('=') {
            None => (request["Count"], counted) = (count(&field)?, true),
            Some(("count", text)) => (request["Count"], counted) = (count(text)?, true),
            Some(("device", text)) => request["DeviceIDs"] = text.split(',').collect(),
            Some(("driver", text)) => request["Driver"] = text.into(),
            Some(("capabilities", text)) => {
                request["Capabilities"] = json!([text.split(',').chain(["gpu"]).collect::<Vec<_>>()]);
            }
            Some(_) => return Err(expected()),
        }
    }
    if !counted && request["DeviceIDs"].is_null() {
        request["Count"] = json!(1);
    }
    Ok(request)
}

/// The fields of one CSV record with double quotes.
fn csv(record: &str) -> Option<Vec<String>> {
    if record.is_empty() {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in record.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut()?.push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_go_units_reads_them() {
        read(bytes, "0", json!(0));
        read(bytes, "1024", json!(1024));
        read(bytes, "32b", json!(32));
        read(bytes, "32k", json!(32 << 10));
        read(bytes, "32 kB", json!(32 << 10));
        read(bytes, "512m", json!(512 << 20));
        read(bytes, "1.5GiB", json!(3_u64 << 29));
        read(bytes, "2T", json!(2_u64 << 40));
        read(bytes, "1e3", json!(1000));
        for bad in ["", "m", "-1", "12x", "12mm", "12bb", "12ib", "12mbb", "12  m", "1.2.3m", "12é"] {
            refuse(bytes, bad);
        }
    }

    #[test]
    fn processors_are_exact_to_a_billionth() {
        read(nano_cpus, "2", json!(2_000_000_000));
        read(nano_cpus, "1.5", json!(1_500_000_000));
        read(nano_cpus, ".25", json!(250_000_000));
        read(nano_cpus, "0.000000001", json!(1));
        read(nano_cpus, "1.0000000000", json!(1_000_000_000));
        for bad in ["", ".", "-1", "1.0000000001", "two", "1.5x", "99999999999999999999"] {
            refuse(nano_cpus, bad);
        }
    }

    #[test]
    fn devices_take_one_to_three_parts() {
        let device_of = |host: &str, container: &str, mode: &str| json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode });
        read(device, "/dev/kvm", device_of("/dev/kvm", "/dev/kvm", "rwm"));
        read(device, "/dev/kvm:r", device_of("/dev/kvm", "/dev/kvm", "r"));
        read(device, "/dev/a:/dev/b", device_of("/dev/a", "/dev/b", "rwm"));
        read(device, "/dev/a:/dev/b:rw", device_of("/dev/a", "/dev/b", "rw"));
        for bad in ["", "kvm", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w"] {
            refuse(device, bad);
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
        for bad in ["", "some", "count=x", "color=red", "\"device=0"] {
            refuse(gpus, bad);
        }
    }

    #[test]
    fn the_smaller_readers_take_what_the_cli_takes() {
        read(environment, "A=1=2", json!("A=1=2"));
        read(environment, "A", json!("A"));
        read(environment, "A=", json!("A="));
        refuse(environment, "");
        refuse(environment, "=1");
        read(extra_host, "db:10.0.0.1", json!("db:10.0.0.1"));
        read(extra_host, "db=[::1]", json!("db:::1"));
        read(extra_host, "db:host-gateway", json!("db:host-gateway"));
        refuse(extra_host, "db");
        refuse(extra_host, "db:nowhere");
        read(capability, "sys_admin", json!("CAP_SYS_ADMIN"));
        read(capability, "CAP_KILL", json!("CAP_KILL"));
        read(capability, "all", json!("ALL"));
        read(switch, "T", json!(true));
        refuse(switch, "yes");
        read(integer, "-1", json!(-1));
        refuse(integer, "1.5");
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), json!("b=c"))));
        assert_eq!(label("a"), Ok(("a".to_owned(), json!(""))));
        assert!(label("=b").is_err() && label("a b=c").is_err());
        assert!(option("max-size").is_err() && option("max-size=1m").is_ok());
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
