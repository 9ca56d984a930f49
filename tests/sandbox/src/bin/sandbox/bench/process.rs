//! What a process costs, as Linux tells it (proc(5)).

use std::{fs, io, time::Duration};

use nix::errno::Errno;

/// A process by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// The first one with this name.
    pub(crate) fn named(name: &str) -> io::Result<Self> {
        let is_it = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let found = pids.filter(is_it).min();
        found.map(Self).ok_or_else(|| io::Error::other(format!("no process {name} is here to be measured")))
    }

    /// Its largest resident memory so far, in bytes.
    pub(crate) fn peak_memory(self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        Ok(field(&status, "VmHWM:")? << 10)
    }

    /// The time its threads were on a processor. Those that ended are left out: the agent's do not end.
    pub(crate) fn cpu(self) -> io::Result<Duration> {
        let of = |schedstat: String| {
            let first = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("no schedstat"))
        };
        self.threads("schedstat")?.into_iter().map(of).sum()
    }

    /// How often a processor began to work for it, by its own will or not.
    pub(crate) fn context_switches(self) -> io::Result<u64> {
        let of = |status: String| {
            Ok(field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?)
        };
        self.threads("status")?.into_iter().map(of).sum()
    }

    /// The time that it and its threads, those that ended too, worked, in hundredths of a second.
    pub(crate) fn cpu_of_all_threads(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name, in brackets, may have blanks; utime and stime are fields 14 and 15.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
        let ticks: Option<u64> =
            fields.and_then(|fields| fields.map(|field| field.parse::<u64>().ok()).sum());
        ticks.map(|ticks| Duration::from_millis(ticks * 10)).ok_or_else(|| io::Error::other("no stat"))
    }

    /// A file of each of its threads.
    fn threads(self, file: &str) -> io::Result<Vec<String>> {
        let folder = fs::read_dir(format!("/proc/{}/task", self.0))?;
        let read = folder.map(|thread| fs::read_to_string(thread?.path().join(file)));
        // One may end between the two looks, or within the second.
        let is_gone = |error: &io::Error| {
            error
                .raw_os_error()
                .is_some_and(|code| [Errno::ENOENT, Errno::ESRCH].contains(&Errno::from_raw(code)))
        };
        read.filter(|text| !text.as_ref().is_err_and(is_gone)).collect()
    }
}

/// A number in /proc/PID/status.
fn field(status: &str, name: &str) -> io::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.ok_or_else(|| io::Error::other(format!("/proc has no {name} for a process that ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_worked_has_used_time_and_memory() {
        let own = Process(std::process::id());
        let before = own.cpu().expect("proc");
        let mut worked = 0_u64;
        while own.cpu().expect("proc") < before + Duration::from_millis(30) {
            worked = std::hint::black_box(worked + 1);
        }
        assert!(own.cpu_of_all_threads().expect("proc") >= Duration::from_millis(10));
        assert!((1 << 20..1 << 32).contains(&own.peak_memory().expect("proc")));
        assert!(own.context_switches().is_ok());
        assert!(Process::named("no such process").is_err());
    }
}
