//! The processes that a command started: found, named, and ended.
//!
//! A shim is a child subreaper, so that all of them are its descendants, however often they forked. Source: prctl(2),
//! proc_pid_stat(5).

use std::{collections::BTreeMap, fs, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// For who is about to go anyway.
const STAY: Duration = Duration::from_millis(200);
/// From SIGTERM to SIGKILL for who was left behind.
const GRACE: Duration = Duration::from_secs(2);
/// For SIGKILL to have its effect.
const KILLED: Duration = Duration::from_secs(2);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);
/// Of a command line, for people.
const LONGEST_NAME: usize = 80;

/// What of a process matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    session: i32,
    /// It ended, and its parent has not heard yet.
    is_zombie: bool,
}

/// All that descend from the process and live, itself not among them.
pub(super) fn descendants(of: i32) -> Vec<i32> {
    let all = all();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| *id));
        at += 1;
    }
    let lives = |id: &i32| *id != of && all.get(id).is_some_and(|process| !process.is_zombie);
    found.into_iter().filter(lives).collect()
}

/// All of a session that live.
pub(super) fn of_session(session: i32) -> Vec<i32> {
    let all = all().into_iter();
    all.filter(|(_, process)| process.session == session && !process.is_zombie).map(|(id, _)| id).collect()
}

/// When a process began, in ticks since the boot; `None` if there is none. Source: proc_pid_stat(5), field 22.
pub(super) fn began(id: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// A process for people: its command line, else its name.
pub(super) fn name(id: i32) -> String {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let name = match line.trim() {
        "" => fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default().trim().to_owned(),
        line => line.to_owned(),
    };
    format!("{} (process {id})", crate::report::cut(&name, LONGEST_NAME))
}

/// Sends a signal to each; one that is gone needs none.
pub(super) fn signal(processes: &[i32], signal: Signal) {
    for id in processes {
        if let Err(error) = kill(Pid::from_raw(*id), signal)
            && error != Errno::ESRCH
        {
            eprintln!("{signal} to the process {id}: {error}");
        }
    }
}

/// Those that do not go by themselves: a signal for all of a group ends some a moment after others.
pub(super) async fn that_stay(find: impl Fn() -> Vec<i32>) -> Vec<i32> {
    let until = Instant::now() + STAY;
    loop {
        let left = find();
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        sleep(LOOK).await;
    }
}

/// Ends all that `find` finds, again and again, since they may fork: by SIGTERM, then by `kill` and SIGKILL.
/// Answers who is left all the same.
pub(super) async fn end(find: impl Fn() -> Vec<i32>, kill: impl Fn()) -> Vec<i32> {
    let mut told = Vec::new();
    let ask = |left: &[i32]| {
        let news: Vec<_> = left.iter().copied().filter(|id| !told.contains(id)).collect();
        signal(&news, Signal::SIGTERM);
        told.extend(news);
    };
    if until_gone(&find, GRACE, ask).await.is_empty() {
        return Vec::new();
    }
    let kill = |left: &[i32]| {
        kill();
        signal(left, Signal::SIGKILL);
    };
    until_gone(&find, KILLED, kill).await
}

/// Does something to all that `find` finds until there are none, and answers who is left after so long.
async fn until_gone(
    find: &impl Fn() -> Vec<i32>,
    patience: Duration,
    mut act: impl FnMut(&[i32]),
) -> Vec<i32> {
    let until = Instant::now() + patience;
    loop {
        let left = find();
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        act(&left);
        sleep(LOOK).await;
    }
}

fn all() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: i32| Some((id, read(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?)))
        .collect()
}

/// A line of `/proc/<id>/stat`, whose second field may hold anything.
fn read(stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Process {
        parent: parent.parse().ok()?,
        session: session.parse().ok()?,
        is_zombie: matches!(state, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_process_is_called() {
        let process = |parent, session, is_zombie| Some(Process { parent, session, is_zombie });
        for (line, read_as) in [
            ("7 (sh) S 1 7 6 0 -1", process(1, 6, false)),
            ("7 (a) b) (c) Z 12 7 345 0", process(12, 345, true)),
            ("7 (sh) S", None),
            ("", None),
        ] {
            assert_eq!(read(line), read_as, "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_ended_is_told() {
        // No process has this number (proc(5), pid_max).
        let nobody = 1 << 23;
        let kills = std::cell::Cell::new(0);
        let kill = || kills.set(kills.get() + 1);
        assert_eq!(end(|| vec![nobody], kill).await, [nobody]);
        assert!(
            kills.get() > 50,
            "{} times: those that fork are to be killed as often as they do",
            kills.get()
        );
        assert_eq!(end(Vec::new, || panic!("there is nobody")).await, [0; 0]);
    }

    #[test]
    fn who_descends_from_a_process_is_found_and_named() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        assert!(descendants(i32::try_from(std::process::id()).unwrap()).contains(&id));
        assert!(descendants(id).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(name(std::process::id().try_into().unwrap()).contains("(process "));
    }
}
