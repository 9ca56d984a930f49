//! Readers of flag values that become one field: text in, the Engine's JSON out, or what was expected instead.
//!
//! The rules are the docker CLI's (`opts/` of docker/cli, docker/go-units). The flag, the value and the place
//! are added to an error by the caller.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::go;

/// What a reader answers: the value as the Engine wants it, or what was expected.
pub(crate) type Read<T> = Result<T, String>;

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn text(value: &str) -> Read<Value> {
    Ok(value.into())
}

/// One word, not split; an empty one resets the image's.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn entrypoint(value: &str) -> Read<Value> {
    Ok(json!([value]))
}

/// A switch.
pub(crate) fn switch(value: &str) -> Read<Value> {
    go::boolean(value).map(Value::from)
}

/// A whole number of 64 bits.
pub(crate) fn integer(value: &str) -> Read<Value> {
    let number = go::integer(value).and_then(|number| i64::try_from(number).ok());
    number.map(Value::from).ok_or_else(|| "a whole number".to_owned())
}

/// A whole number of 64 bits, not negative.
pub(crate) fn unsigned(value: &str) -> Read<Value> {
    let number = go::integer(value).and_then(|number| u64::try_from(number).ok());
    let unsigned = number.filter(|_| !value.starts_with(['-', '+']));
    unsigned.map(Value::from).ok_or_else(|| "a whole number, not negative".to_owned())
}

/// `--blkio-weight`: the Engine checks its range.
pub(crate) fn weight(value: &str) -> Read<Value> {
    let number = unsigned(value)?;
    match number.as_u64() {
        Some(0..=65535) => Ok(number),
        _ => Err("0, or a weight from 10 to 1000".to_owned()),
    }
}

/// `--memory-swappiness`: the CLI's own `-1` is the default.
pub(crate) fn swappiness(value: &str) -> Read<Value> {
    let number = integer(value)?;
    match number.as_i64() {
        Some(-1..=100) => Ok(number),
        _ => Err("0 to 100, or -1".to_owned()),
    }
}

/// go-units `RAMInBytes`: `512m`, `1.5GiB`, `64 kb`; units are powers of 1024, the bare number is bytes.
pub(crate) fn bytes(value: &str) -> Read<Value> {
    let expected = || "a size such as 512m or 2g (units b, k, m, g, t, p; bytes without one)".to_owned();
    let number_end =
        value.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(expected)?;
    let (number, unit) = value.split_at(number_end + 1);
    let number = go::float(number.strip_suffix(' ').unwrap_or(number)).ok_or_else(expected)?;
    let unit = unit.to_ascii_lowercase();
    let (first, rest) = unit.split_at_checked(unit.len().min(1)).ok_or_else(expected)?;
    let factor = match (first, rest) {
        ("" | "b", "") => 1,
        ("k", "" | "b" | "ib") => 1 << 10,
        ("m", "" | "b" | "ib") => 1 << 20,
        ("g", "" | "b" | "ib") => 1 << 30,
        ("t", "" | "b" | "ib") => 1 << 40,
        ("p", "" | "b" | "ib") => 1_u64 << 50,
        _ => return Err(expected()),
    };
    #[expect(clippy::cast_precision_loss, reason = "as go-units does")]
    let bytes = number * factor as f64;
    // go-units lets what does not fit come out negative.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&bytes) {
        return Err(expected());
    }
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a byte is dropped")]
    Ok((bytes as i64).into())
}

/// `--memory-swap`: a size, or `-1` for no limit.
pub(crate) fn swap(value: &str) -> Read<Value> {
    if value == "-1" {
        return Ok((-1).into());
    }
    bytes(value).map_err(|expected| format!("{expected}, or -1"))
}

/// `--cpus`: a number of processors, exact to a billionth, as `NanoCpus`. Go's `big.Rat` reads decimals,
/// exponents and fractions.
pub(crate) fn nano_cpus(value: &str) -> Read<Value> {
    let nanos = go::rational(value).and_then(|(numerator, denominator)| {
        let scaled = numerator.checked_mul(1_000_000_000)?;
        let exact = scaled % denominator == 0;
        exact.then(|| i64::try_from(scaled / denominator).ok()).flatten()
    });
    let expected = || "a number of processors such as 2 or 1.5, exact to a billionth".to_owned();
    nanos.map(Value::from).ok_or_else(expected)
}

/// `--health-interval` and its kin, in nanoseconds. Of a flag that is given twice only the last is looked at, so
/// it is checked at the end that none is negative.
pub(crate) fn duration(value: &str) -> Read<Value> {
    go::duration(value).map(Value::from).ok_or_else(|| "a duration such as 30s or 1m30s".to_owned())
}

/// `key=value`, or `key` with an empty value.
pub(crate) fn label(value: &str) -> Read<(String, Value)> {
    let (key, text) = value.split_once('=').unwrap_or((value, ""));
    let bare = key.trim_start_matches([' ', '\t']);
    if bare.is_empty() || bare.contains([' ', '\t']) {
        return Err("key=value, the key without blanks".to_owned());
    }
    Ok((key.to_owned(), text.into()))
}

/// `key=value`, or `key` with an empty value; anything goes.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn pair(value: &str) -> Read<(String, Value)> {
    let (key, text) = value.split_once('=').unwrap_or((value, ""));
    Ok((key.to_owned(), text.into()))
}

/// `key=value`, as `--storage-opt` has it.
pub(crate) fn option(value: &str) -> Read<(String, Value)> {
    match value.split_once('=') {
        Some((key, text)) => Ok((key.to_owned(), text.into())),
        None => Err("option=value".to_owned()),
    }
}

/// A kernel setting that has a namespace.
pub(crate) fn sysctl(value: &str) -> Read<(String, Value)> {
    const IPC: &[&str] =
        &["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let known = |key: &str| {
        key.starts_with("net.")
            || key.starts_with("fs.mqueue.")
            || key.strip_prefix("kernel.").is_some_and(|name| IPC.contains(&name))
    };
    match value.split_once('=') {
        Some((key, text)) if known(key) => Ok((key.to_owned(), text.into())),
        _ => Err(
            "setting=value, the setting under net. or fs.mqueue., or one of kernel.{msg,shm}*, kernel.sem"
                .to_owned(),
        ),
    }
}

/// `/in-container[:options]`; the Engine reads the options.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn tmpfs(value: &str) -> Read<(String, Value)> {
    let (path, options) = value.split_once(':').unwrap_or((value, ""));
    Ok((path.to_owned(), options.into()))
}

/// `host:address` or `host=address`; the address may be `host-gateway`, an IPv6 one may be in brackets.
pub(crate) fn extra_host(value: &str) -> Read<Value> {
    let expected = || "host:address, the address an IP or host-gateway".to_owned();
    let (host, address) = value.split_once('=').or_else(|| value.split_once(':')).ok_or_else(expected)?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let known = address == "host-gateway" || bare.trim().parse::<IpAddr>().is_ok();
    if host.is_empty() || host.contains(':') || !known {
        return Err(expected());
    }
    Ok(format!("{host}:{bare}").into())
}

/// An address, in its shortest form.
pub(crate) fn address(value: &str) -> Read<Value> {
    let address = value.trim().parse::<IpAddr>().map_err(|_| "an IP address".to_owned())?;
    Ok(address.to_canonical().to_string().into())
}

/// A domain to search, or `.` for none.
pub(crate) fn dns_search(value: &str) -> Read<Value> {
    let domain = value.trim_matches(' ');
    if domain == "." {
        return Ok(domain.into());
    }
    let domain = domain.trim_end();
    let bare = domain.strip_suffix('.').unwrap_or(domain);
    let has_letter = bare.contains(|c: char| c.is_ascii_alphabetic());
    let labels: Vec<&str> = bare.split('.').collect();
    let last = labels.len() - 1;
    let good = labels.iter().enumerate().all(|(at, label)| is_label(label, at == 0, at == last));
    if !has_letter || bare.len() >= 255 || !good {
        return Err("a domain, or . for none".to_owned());
    }
    Ok(bare.into())
}

/// Letters, digits and inner dashes. In the CLI's pattern `(:?` stands where `(?:` was meant, so that colons are
/// taken around a label: two before the first, one before each other and before a dot.
fn is_label(label: &str, first: bool, last: bool) -> bool {
    let bare = label.trim_start_matches(':');
    let colons = label.len() - bare.len();
    let bare = if last { bare } else { bare.strip_suffix(':').unwrap_or(bare) };
    colons <= if first { 2 } else { 1 }
        && bare.starts_with(|c: char| c.is_ascii_alphanumeric())
        && bare.ends_with(|c: char| c.is_ascii_alphanumeric())
        && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `container` or `container:alias`.
pub(crate) fn link(value: &str) -> Read<Value> {
    match value.split(':').count() {
        1 | 2 if !value.is_empty() => Ok(value.into()),
        _ => Err("container[:alias]".to_owned()),
    }
}

/// A capability as the Engine names it: upper case, with `CAP_`, but `ALL` alone.
#[expect(clippy::unnecessary_wraps, reason = "a reader, and readers can fail")]
pub(crate) fn capability(value: &str) -> Read<Value> {
    let upper = value.to_uppercase();
    Ok(match upper.as_str() {
        "ALL" => upper.into(),
        name if name.starts_with("CAP_") => upper.into(),
        name => format!("CAP_{name}").into(),
    })
}

/// `""`, `host` or, where a flag allows it, more.
pub(crate) fn host_mode(value: &str) -> Read<Value> {
    match value {
        "" | "host" => Ok(value.into()),
        _ => Err("host, or nothing".to_owned()),
    }
}

/// `--cgroupns`.
pub(crate) fn cgroup_mode(value: &str) -> Read<Value> {
    match value {
        "" | "host" | "private" => Ok(value.into()),
        _ => Err("host or private".to_owned()),
    }
}

/// `--pid`.
pub(crate) fn pid_mode(value: &str) -> Read<Value> {
    match value.split_once(':') {
        Some(("container", id)) if !id.is_empty() => Ok(value.into()),
        None if matches!(value, "" | "host") => Ok(value.into()),
        _ => Err("host or container:name".to_owned()),
    }
}

/// One of two or three forms that only the agent's user sees: `stdin`, `stdout`, `stderr`.
pub(crate) fn stream(value: &str) -> Read<Value> {
    match value.to_ascii_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(Value::Null),
        _ => Err("stdin, stdout or stderr".to_owned()),
    }
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
        for bad in [
            "", "m", "-1", "12x", "12mm", "12bb", "12ib", "12mbb", "12  m", "9999p", "1e400", "1.2.3m", "12é",
        ] {
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
        read(nano_cpus, "1/2", json!(500_000_000));
        read(nano_cpus, "15e-1", json!(1_500_000_000));
        for bad in ["", ".", "1.0000000001", "1/3", "1/0", "two", "1.5x", "99999999999999999999"] {
            refuse(nano_cpus, bad);
        }
    }

    #[test]
    fn the_smaller_readers_take_what_the_cli_takes() {
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
        assert!(option("size").is_err() && option("size=1m").is_ok());
        assert_eq!(pair("max-size"), Ok(("max-size".to_owned(), json!(""))));
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
