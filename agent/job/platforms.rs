//! `--platform`, as containerd's `platforms.Parse` reads and normalises it.

use super::values::Read;

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// `linux/amd64` for `LINUX/x86_64`; what one part leaves out is this machine's.
pub(crate) fn normalize(value: &str) -> Read<String> {
    let expected = || "os[/architecture[/variant]], such as linux/amd64".to_owned();
    let lower = value.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let is_word = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    let system = system(parts[0]).ok_or_else(expected)?;
    if parts.len() > 3 || !parts[1..].iter().all(is_word) {
        return Err(expected());
    }
    let (system, architecture, variant) = match parts[..] {
        [_] if SYSTEMS.contains(&system) => (system, host_architecture(), ""),
        [one] => {
            let (architecture, variant) = architecture(one, "");
            if !ARCHITECTURES.contains(&architecture) {
                return Err(expected());
            }
            (std::env::consts::OS, architecture, if variant == "v7" { "" } else { variant })
        }
        [_, second] => {
            let (architecture, variant) = architecture(second, "");
            (system, architecture, if variant == "v7" { "" } else { variant })
        }
        [_, second, third, ..] => {
            let (architecture, variant) = architecture(second, third);
            (system, architecture, if architecture == "arm64" && variant.is_empty() { "v8" } else { variant })
        }
        [] => return Err(expected()),
    };
    let all = [system, architecture, variant];
    Ok(all.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
}

/// Without a version in parentheses: `windows(10.0.17763)`.
fn system(text: &str) -> Option<&str> {
    let (name, version) = match text.strip_suffix(')') {
        Some(rest) => rest.split_once('(')?,
        None => (text, ""),
    };
    let good = |text: &str, more: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let name = if name == "macos" { "darwin" } else { name };
    (!name.is_empty() && good(name, b"_-") && good(version, b"_.-")).then_some(name)
}

fn architecture<'a>(name: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (name, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    }
}

fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, normalised) in [
            ("LINUX/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/armhf", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("windows(10.0.17763)/amd64", "windows/amd64"),
        ] {
            assert_eq!(normalize(text).as_deref(), Ok(normalised), "{text}");
        }
        for bad in ["foo", "linux/", "/amd64", "linux/a/b/c", "l$", "a b/amd64", "windows(/amd64"] {
            assert!(normalize(bad).is_err(), "{bad} was taken");
        }
    }
}
