//! Named points at which a test can have the agent killed, as a VM that loses its power would.
//!
//! Compiled only for tests, by the feature `fail-points`. `LONGRUN_FAIL_AT=<name>#<n>` sends SIGKILL to the
//! process when it comes to that point for the nth time; `LONGRUN_FAIL_LOG=<file>` appends a line
//! `<name>#<n>` at every point that is passed, which is how the tests learn what points there are.

#[cfg(not(feature = "fail-points"))]
/// Nothing, outside of tests.
#[inline(always)]
pub(crate) fn pass(_: std::fmt::Arguments<'_>) {}

#[cfg(feature = "fail-points")]
pub(crate) use enabled::pass;

#[cfg(feature = "fail-points")]
mod enabled {
    use std::{
        collections::HashMap,
        env, fmt,
        fs::OpenOptions,
        io::Write,
        sync::{LazyLock, Mutex, PoisonError},
    };

    use nix::sys::signal::{Signal, raise};

    /// How often each point was passed.
    static PASSED: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

    /// Notes that the agent came here, and ends it if this is where it is to end.
    pub(crate) fn pass(name: fmt::Arguments<'_>) {
        let (kill_at, log) = (env::var("LONGRUN_FAIL_AT").ok(), env::var_os("LONGRUN_FAIL_LOG"));
        if kill_at.is_none() && log.is_none() {
            return;
        }
        let point = {
            let name = name.to_string();
            let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
            let times = passed.entry(name.clone()).or_default();
            *times += 1;
            format!("{name}#{times}")
        };
        if let Some(log) = log {
            let file = OpenOptions::new().create(true).append(true).open(log);
            let written = file.and_then(|mut file| writeln!(file, "{point}"));
            written.expect("LONGRUN_FAIL_LOG can be written");
        }
        if kill_at.is_some_and(|kill_at| kill_at == point) {
            // It does not return.
            let _ = raise(Signal::SIGKILL);
        }
    }
}
