//! A small file next to the ledger that exists while a server runs. It tells the next process how this one ended.
//!
//! It contains the boot id, the memory cgroup's count of kills, and the version on trial. On a fatal signal, the
//! signal's number is written into it (`device::fatal_signals`). An orderly shutdown removes the file, so a file that is found
//! means that the process ended in another way. Its content is kept until the ledger has recorded the consequence
//! ([`Life::settle`]), so that it is not lost if the new process is killed right after its start. It is never synced to
//! disk: it has to survive the process, not the machine. It judges nothing; `ledger::after_crash` does.
//!
//! A supervisor is also told whether the canary would be blamed for an end at this moment.

use crate::device::fatal_signals;
use crate::ledger::{HowEnded, Model};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What a supervisor is notified of, a byte each.
pub const CANARY: u8 = b'c';
/// No canary is on trial: an end from now on is not a canary's.
pub const ALONE: u8 = b'a';
/// The canary that may have ended the process before is not loaded again.
pub const DROPPED: u8 = b'd';

/// Where the text begins: after two digits and a line's end.
const TEXT_AT: u64 = 3;

/// The version on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// As long as it has not been read, its place stands for its digest.
    pub model: Model,
    /// It is being loaded, and no request has reached it.
    pub loading: bool,
}

/// How the process before ended, if that was not in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousExit {
    /// Which process's it was, so that no end is drawn from twice; empty where that is not known.
    pub id: String,
    /// The cause, as far as it can be told.
    pub how: HowEnded,
    /// The version on trial at that time; `None` if stable served alone.
    pub trial: Option<Trial>,
}

/// What the file says, but for the signal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    id: String,
    boot: String,
    #[serde(default)]
    kills: Option<Kills>,
    #[serde(default)]
    trial: Option<Trial>,
}

/// How often the kernel has killed a process of a memory cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kills {
    /// The file that tells, and its inode: a cgroup that was made anew counts from 0.
    place: (PathBuf, u64),
    count: u64,
}

/// The file of a server that runs; nothing where no decisions are kept.
#[derive(Debug, Default)]
pub struct Life(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    /// Nothing as long as the file is the one of the process before.
    file: Option<File>,
    note: Note,
    supervisor: Option<UnixStream>,
}

impl Life {
    /// For the ledger at `ledger`, whose lock is held; and what the file of the process before says. If there is
    /// one, it stays until [`Life::settle`] or until something is on trial.
    pub fn begin(ledger: &Path, supervisor: Option<UnixStream>) -> (Life, Option<PreviousExit>) {
        let mut path = ledger.as_os_str().to_owned();
        path.push(".life");
        let path = PathBuf::from(path);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id = uuid::Uuid::new_v4().simple().to_string();
        let note = Note { id, boot: boot.trim().to_owned(), kills: kills(), trial: None };
        let last = fs::read(&path).ok().map(|bytes| {
            let (signal, before) = parse(&bytes);
            PreviousExit {
                id: before.id.clone(),
                how: how(signal, &before, &note),
                trial: before.trial,
            }
        });
        let mut kept = Kept { path, file: None, note, supervisor };
        if last.is_none() {
            kept.begin();
        }
        (Life(Mutex::new(Some(kept))), last)
    }

    /// What follows from the end before is written down: the file is this process's from now on.
    pub fn settle(&self) {
        if let Some(kept) = self.0.lock().as_mut().filter(|kept| kept.file.is_none()) {
            kept.begin();
        }
    }

    /// From now on this version, or none, is on trial.
    pub fn on_trial(&self, trial: Option<Trial>) {
        let mut kept = self.0.lock();
        let Some(kept) = kept.as_mut().filter(|kept| kept.note.trial != trial) else { return };
        kept.notify_supervisor(if trial.is_some() { CANARY } else { ALONE });
        kept.note.trial = trial;
        match (&kept.file, &kept.note.trial) {
            (None, Some(_)) => kept.begin(),
            _ => kept.save(),
        }
    }

    /// The supervisor is told that what may have ended the process before is not loaded again.
    pub fn dropped(&self) {
        if let Some(kept) = self.0.lock().as_mut() {
            kept.notify_supervisor(DROPPED);
        }
    }

    /// Takes in that other processes of the cgroup were killed: only a kill after that can be this one's.
    pub fn refresh(&self) {
        let mut kept = self.0.lock();
        let Some(kept) = kept.as_mut() else { return };
        let kills = kills();
        if kept.note.kills != kills {
            kept.note.kills = kills;
            kept.save();
        }
    }

    /// The process ends in order.
    pub fn end(&self) {
        if let Some(kept) = self.0.lock().take()
            && let Err(error) = fs::remove_file(&kept.path)
        {
            tracing::warn!(
                "{}: {error}; the next start will take this end for a crash",
                kept.path.display()
            );
        }
    }
}

impl Kept {
    fn begin(&mut self) {
        match open(&self.path, &self.note) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!("{path}: {error}; how this server ends will not be known");
            }
        }
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, &self.note) {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }

    fn notify_supervisor(&mut self, what: u8) {
        // One that is gone, or does not listen, needs not know.
        let _ = self.supervisor.as_mut().map(|supervisor| supervisor.write(&[what]));
    }
}

/// A new file, into which fatal signals are written from now on.
fn open(path: &Path, note: &Note) -> io::Result<File> {
    // A handler of this process may still write into the one before.
    let _ = fs::remove_file(path);
    let file = File::options().write(true).create_new(true).open(path)?;
    file.write_all_at(b"00\n", fatal_signals::NUMBER_AT as u64)?;
    write(&file, note)?;
    fatal_signals::note_into(file.try_clone()?)?;
    Ok(file)
}

fn write(file: &File, note: &Note) -> io::Result<()> {
    let mut line = serde_json::to_string(note)?;
    line.push('\n');
    file.write_all_at(line.as_bytes(), TEXT_AT)?;
    // A process that ends before this leaves a line that is not read.
    file.set_len(TEXT_AT + line.len() as u64)
}

/// The signal, 0 for none, and the text; a file that is damaged says nothing.
fn parse(bytes: &[u8]) -> (u8, Note) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let signal = lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    let note = lines.next().and_then(|line| serde_json::from_str(line).ok());
    (signal, note.unwrap_or_default())
}

fn how(signal: u8, before: &Note, now: &Note) -> HowEnded {
    let killed = match (&before.kills, &now.kills) {
        (Some(before), Some(now)) => before.place == now.place && now.count > before.count,
        _ => false,
    };
    match signal {
        0 if before.boot != now.boot => HowEnded::OtherBoot,
        0 if killed => HowEnded::OutOfMemory,
        0 => HowEnded::Unexplained,
        signal => HowEnded::Signal(signal),
    }
}

/// What the kernel says of this process's memory cgroup, if there is one.
fn kills() -> Option<Kills> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    places(&groups).into_iter().find_map(|place| {
        let count = count(&fs::read_to_string(&place).ok()?)?;
        let inode = fs::metadata(&place).ok()?.ino();
        Some(Kills { place: (place, inode), count })
    })
}

/// Where the count may be, by the lines of /proc/self/cgroup. Inside a container the path may be the one
/// outside; the cgroup is mounted as the root then.
fn places(groups: &str) -> Vec<PathBuf> {
    let both = |root: &str, path: &str, file: &str| -> [PathBuf; 2] {
        [format!("{root}{path}/{file}").into(), format!("{root}/{file}").into()]
    };
    let of = |line: &str| -> Vec<PathBuf> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kinds, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let path = path.trim_end_matches('/');
        match kinds {
            "" => both("/sys/fs/cgroup", path, "memory.events").into(),
            kinds if kinds.split(',').any(|kind| kind == "memory") => {
                both("/sys/fs/cgroup/memory", path, "memory.oom_control").into()
            }
            _ => Vec::new(),
        }
    };
    groups.lines().flat_map(of).collect()
}

fn count(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kills(inode: u64, count: u64) -> Option<Kills> {
        Some(Kills { place: ("/sys/fs/cgroup/a/memory.events".into(), inode), count })
    }

    fn note(boot: &str, kills: Option<Kills>) -> Note {
        Note { id: "1".to_owned(), boot: boot.to_owned(), kills, trial: None }
    }

    #[test]
    fn how_a_process_ended_is_known_from_what_it_left() {
        let now = note("b", kills(1, 3));
        let table = [
            (6, note("b", kills(1, 3)), HowEnded::Signal(6)),
            // Written down is written down, whatever came afterwards.
            (11, note("a", kills(1, 2)), HowEnded::Signal(11)),
            (0, note("a", kills(1, 2)), HowEnded::OtherBoot),
            (0, note("b", kills(1, 2)), HowEnded::OutOfMemory),
            (0, note("b", kills(1, 3)), HowEnded::Unexplained),
            (0, note("b", kills(2, 0)), HowEnded::Unexplained),
            (0, note("b", None), HowEnded::Unexplained),
            (0, Note::default(), HowEnded::OtherBoot),
        ];
        for (signal, before, expected) in table {
            assert_eq!(how(signal, &before, &now), expected, "{signal} {before:?}");
        }
    }

    #[test]
    fn the_file_says_what_is_on_trial_and_goes_with_an_orderly_end() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("serin.ledger");
        let (life, last) = Life::begin(&ledger, None);
        assert_eq!(last, None);
        let model = |name: &str| Model {
            path: format!("/models/{name}"),
            version: name.to_owned(),
            digest: "d".to_owned(),
            inherited: None,
        };
        let trial = |name: &str, loading| Some(Trial { model: model(name), loading });
        life.on_trial(trial("a version with a long name", true));
        life.on_trial(trial("v2", false));
        drop(life);
        let (life, last) = Life::begin(&ledger, None);
        let last = last.unwrap();
        assert_eq!((last.how, &last.trial), (HowEnded::Unexplained, &trial("v2", false)));
        // Killed before anything was written down of it, it is still there.
        drop(life);
        let (life, again) = Life::begin(&ledger, None);
        assert_eq!(again, Some(last));
        life.settle();
        life.on_trial(trial("v2", false));
        life.on_trial(None);
        drop(life);
        let (life, last) = Life::begin(&ledger, None);
        assert_eq!(last.unwrap().trial, None);
        life.end();
        life.on_trial(trial("v2", false));
        assert_eq!(Life::begin(&ledger, None).1, None);
    }

    #[test]
    fn a_damaged_file_blames_nobody() {
        for bytes in [&b""[..], b"\n", b"00\n", b"00\n{\"boot\"", b"\xff\xfe\n\xff", b"no\nno\nno"]
        {
            let (signal, note) = parse(bytes);
            assert_eq!((signal, note.trial), (0, None), "{bytes:?}");
        }
    }

    #[test]
    fn the_count_is_found_in_both_versions_of_cgroups() {
        let two = places("0::/app.slice/serin.service\n");
        let events = "memory.events";
        let expected = [
            format!("/sys/fs/cgroup/app.slice/serin.service/{events}"),
            format!("/sys/fs/cgroup/{events}"),
        ];
        assert_eq!(two, expected.map(PathBuf::from));
        let one = places("5:cpu,cpuacct:/x\n4:memory:/pod/a\n");
        assert_eq!(one[0], PathBuf::from("/sys/fs/cgroup/memory/pod/a/memory.oom_control"));
        assert_eq!(count("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
