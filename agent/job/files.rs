//! Values that name a file which the docker CLI reads: `--env-file`, `--label-file`, a seccomp profile.
//!
//! The agent reads them where it runs, which is a container: a file of the VM is there only if it was mounted.

use super::values::Read;

/// Reads a file; a parameter, so that this stays pure.
pub type ReadFile = fn(&str) -> std::io::Result<Vec<u8>>;

/// The lines `NAME=value` of an environment or label file (docker/cli `pkg/kvfile`): UTF-8, with or without a
/// byte-order mark; leading blanks, empty lines and `#` lines are passed over; nothing is unquoted. Names without
/// a value are left out, as the CLI does with those that its environment does not have.
pub(crate) fn lines(path: &str, read: ReadFile) -> Read<Vec<String>> {
    let bytes = open(path, read)?;
    let text = String::from_utf8(bytes).map_err(|_| "a file in UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("NAME=value, the name without blanks, in line {}", number + 1));
        }
        if line.contains('=') {
            lines.push(line.to_owned());
        }
    }
    Ok(lines)
}

/// A JSON file, without its white space (Go's `json.Compact`: nothing else changes).
pub(crate) fn compact_json(path: &str, read: ReadFile) -> Read<String> {
    let bytes = open(path, read)?;
    let text = String::from_utf8(bytes).map_err(|_| "a file in UTF-8".to_owned())?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| format!("a JSON file ({error})"))?;
    let (mut in_string, mut escaped) = (false, false);
    let kept = |c: &char| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        in_string || !c.is_ascii_whitespace()
    };
    Ok(text.chars().filter(kept).collect())
}

fn open(path: &str, read: ReadFile) -> Read<Vec<u8>> {
    read(path).map_err(|error| {
        format!(
            "a file that the agent can read ({error}); where the agent runs in a container, mount it there: \
             --volume {path}:{path}:ro"
        )
    })
}
