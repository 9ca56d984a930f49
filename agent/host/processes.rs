//! The processes that a command started: found, named, and ended.
//!
//! A shim is a child subreaper, so that all of them are its descendants, however often they forked. Source: prctl(2),
//! proc_pid_stat(5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Pid, getpgrp},
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

/// Who is left of a command. Those that fork may be gone, and others be there, before they are looked up.
pub(super) trait Left {
    /// As many as can be found.
    fn find(&self) -> Vec<Seen>;
    /// Whether nobody is left, whom `find` may have missed.
    fn is_nobody(&self) -> bool;
    /// Kills those that need not be found.
    fn kill(&self) {}
}

/// A process that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) id: i32,
    /// Its process group, if nobody else is in that.
    pub(super) group: Option<i32>,
}

/// What of a process matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    group: i32,
    session: i32,
    /// It ended, and its parent has not heard yet.
    is_zombie: bool,
}

/// All that descend from the process and live, itself not among them. A session and its groups have come from one
/// process, so that theirs have nobody else in them but for those in the process's own.
pub(super) fn descendants(of: i32) -> Vec<Seen> {
    let all = all();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| *id));
        at += 1;
    }
    let session = all.get(&of).map(|process| process.session);
    let living = found.into_iter().skip(1).filter_map(|id| Some((id, all.get(&id)?)));
    let seen = |(id, process): (i32, &Process)| Seen {
        id,
        group: Some(process.group).filter(|_| Some(process.session) != session),
    };
    living.filter(|(_, process)| !process.is_zombie).map(seen).collect()
}

/// All of a session that live.
pub(super) fn of_session(session: i32) -> Vec<Seen> {
    let all = all().into_iter();
    all.filter(|(_, process)| process.session == session && !process.is_zombie)
        .map(|(id, process)| Seen { id, group: Some(process.group) })
        .collect()
}

/// Whether this process has no children, not even ended ones. Of a subreaper then nothing descends.
pub(super) fn has_no_children() -> bool {
    let looked = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    looked == Err(Errno::ECHILD)
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
fn signal(processes: &[Seen], signal: Signal) {
    for Seen { id, .. } in processes {
        if let Err(error) = kill(Pid::from_raw(*id), signal)
            && error != Errno::ESRCH
        {
            eprintln!("{signal} to the process {id}: {error}");
        }
    }
}

/// Kills all that can be found now, and all of their groups.
pub(super) fn kill_once(left: &impl Left) {
    kill_with(left, &mut BTreeSet::new());
}

/// Kills all that can be found now, and all of the groups, to which theirs are added. A group is killed as a whole, which
/// nobody escapes by forking: what is forked is in the group before the signal, or does not come to be (fork(2),
/// kernel/fork.c). So one look at any of them is enough, though it be an earlier one.
fn kill_with(left: &impl Left, groups: &mut BTreeSet<i32>) {
    left.kill();
    let found = left.find();
    groups.extend(found.iter().filter_map(|seen| seen.group));
    for group in groups.iter().filter(|group| **group > 1 && **group != getpgrp().as_raw()) {
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
    signal(&found, Signal::SIGKILL);
}

/// Those that do not go by themselves: a signal for all of a group ends some a moment after others. `None` if nobody
/// stays; those that are gone whenever they are looked up are nobody in particular.
pub(super) async fn that_stay(left: &impl Left) -> Option<Vec<Seen>> {
    let until = Instant::now() + STAY;
    loop {
        if left.is_nobody() {
            return None;
        }
        let found = left.find();
        if Instant::now() >= until && (!found.is_empty() || Instant::now() >= until + STAY) {
            return Some(found);
        }
        sleep(LOOK).await;
    }
}

/// Ends all who are left, again and again, since they may fork: by SIGTERM, then by SIGKILL. Answers how many are
/// there all the same.
pub(super) async fn end(left: &impl Left) -> usize {
    let mut told: BTreeSet<Seen> = BTreeSet::new();
    let ask = || {
        let mut found = left.find();
        found.retain(|seen| told.insert(*seen));
        signal(&found, Signal::SIGTERM);
    };
    if until_nobody(left, GRACE, ask).await {
        return 0;
    }
    // Seconds old: no number has come round to somebody else.
    let mut groups = told.iter().filter_map(|seen| seen.group).collect();
    if until_nobody(left, KILLED, || kill_with(left, &mut groups)).await {
        return 0;
    }
    left.find().len().max(1)
}

/// Does something again and again until nobody is left; `false` if somebody is after so long.
async fn until_nobody(left: &impl Left, patience: Duration, mut act: impl FnMut()) -> bool {
    let until = Instant::now() + patience;
    while !left.is_nobody() {
        if Instant::now() >= until {
            return false;
        }
        act();
        sleep(LOOK).await;
    }
    true
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
    let (state, parent, group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Process {
        parent: parent.parse().ok()?,
        group: group.parse().ok()?,
        session: session.parse().ok()?,
        is_zombie: matches!(state, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_process_is_called() {
        let process = |parent, group, session, is_zombie| Some(Process { parent, group, session, is_zombie });
        for (line, read_as) in [
            ("7 (sh) S 1 7 6 0 -1", process(1, 7, 6, false)),
            ("7 (a) b) (c) Z 12 7 345 0", process(12, 7, 345, true)),
            ("7 (sh) S", None),
            ("", None),
        ] {
            assert_eq!(read(line), read_as, "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_ended_is_counted_and_who_cannot_be_found_is_one() {
        struct Stubborn(Vec<Seen>);
        impl Left for Stubborn {
            fn find(&self) -> Vec<Seen> {
                self.0.clone()
            }
            fn is_nobody(&self) -> bool {
                false
            }
        }
        // No process has these numbers (proc(5), pid_max).
        let nobody = |number| Seen { id: (1 << 23) + number, group: None };
        for (found, counted) in [(vec![nobody(0), nobody(1)], 2), (Vec::new(), 1)] {
            let left = Stubborn(found.clone());
            assert_eq!((that_stay(&left).await, end(&left).await), (Some(found), counted));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_left_only_if_it_is_known() {
        struct Unseen(std::cell::Cell<u32>);
        impl Left for Unseen {
            fn find(&self) -> Vec<Seen> {
                Vec::new()
            }
            fn is_nobody(&self) -> bool {
                self.0.get() > 2
            }
            fn kill(&self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let left = Unseen(std::cell::Cell::new(0));
        assert_eq!(end(&left).await, 0);
        assert_eq!(left.0.get(), 3, "it is killed until nobody is left, though nobody was found");
        assert_eq!(that_stay(&left).await, None);
    }

    #[test]
    fn who_descends_from_a_process_is_found_and_named() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let of_this = descendants(i32::try_from(std::process::id()).unwrap());
        assert!(of_this.contains(&Seen { id, group: None }), "the group is this process's too: {of_this:?}");
        assert!(descendants(id).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(name(std::process::id().try_into().unwrap()).contains("(process "));
    }
}
