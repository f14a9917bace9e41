//! What a crash of the machine could leave of an outbox, at any point of a trace.
//!
//! * A file has the octets that were there when it was made durable. If it never was, it is empty, or has
//!   the first half of them, or all of them, or as many zeros.
//! * A folder has the entries that were there when it was made durable. Each change since then is there or
//!   not, independently of all others. Only this holds: a rename within a folder is one change, and of a
//!   rename from one folder to another at least one name is there. Both are, if the old folder still has
//!   the entry and the new one has it already.
//! * The database has what was committed. A commit that was not confirmed yet may be there or not.
//!
//! That is weaker than what file systems with a journal promise, which keep the changes in their order.
//! What the deliverer says of itself (`delivery/.service.json`) is left out: it is about no mail.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Trace, Transaction, What, folder_of};
use crate::random::Random;

/// What a crash left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// The files, each with a number that those names share which are the same file.
    pub files: BTreeMap<String, (usize, Arc<[u8]>)>,
    /// What the database has committed.
    pub committed: Vec<Transaction>,
}

/// A point of a trace, and one of the things that a crash there could leave.
#[derive(Clone, Debug)]
pub struct Crash {
    /// When.
    pub time: u64,
    /// What survived, in words.
    pub how: String,
    /// What is left.
    pub left: Left,
}

/// What becomes of octets that are not durable.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Empty,
    Half,
    Whole,
    Zeros,
}

const TORN: [Torn; 4] = [Torn::Empty, Torn::Half, Torn::Whole, Torn::Zeros];

/// A change of a folder's entries.
#[derive(Clone, Debug)]
struct Change {
    adds: Option<(String, usize)>,
    removes: Option<String>,
    /// The change without which this one can't survive.
    only_with: Option<usize>,
    folder: String,
    at: u64,
    durable: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    octets: Vec<u8>,
    written: u64,
    durable: bool,
}

/// Everything on the disk at one time, and how durable it is.
struct Disk {
    inodes: Vec<Inode>,
    changes: Vec<Change>,
}

/// The points of a trace at which a crash is looked at: whenever something on the disk, in the database or
/// at the relay had happened.
pub fn cuts(trace: &Trace) -> Vec<u64> {
    let mut times = BTreeSet::from([0]);
    for event in &trace.events {
        match &event.what {
            What::Created(_)
            | What::Wrote(..)
            | What::Synced(_)
            | What::Renamed(..)
            | What::Removed(_)
            | What::Relay(..) => times.extend([event.to]),
            What::Committed(_) => times.extend([event.from, event.to]),
            _ => {}
        }
    }
    times.remove(&super::NEVER);
    times.into_iter().collect()
}

/// What a crash at this time could leave: nothing of what is not durable, all of it, each beginning of
/// it, all but one change, one change alone, and some that chance has chosen.
pub fn crashes(trace: &Trace, time: u64, random: &mut Random, chances: usize) -> Vec<Crash> {
    let disk = Disk::at(trace, time);
    let pending: Vec<usize> =
        (0..disk.changes.len()).filter(|&change| !disk.changes[change].durable).collect();
    let count = pending.len();
    let mut choices: Vec<(String, Vec<bool>, Torn)> = Vec::new();
    for torn in TORN {
        choices.push((format!("all, octets {torn:?}"), vec![true; count], torn));
    }
    choices.push(("nothing".into(), vec![false; count], Torn::Empty));
    for one in 0..count {
        let only = |this: bool| (0..count).map(|other| (other == one) == this).collect();
        let first = (0..count).map(|other| other < one).collect();
        choices.push((format!("the first {one}"), first, Torn::Whole));
        choices.push((format!("all but {one}"), only(false), Torn::Whole));
        choices.push((format!("{one} alone"), only(true), Torn::Empty));
    }
    for _ in 0..chances {
        let chosen: Vec<bool> = (0..count).map(|_| random.below(2) == 0).collect();
        let torn = TORN[usize::try_from(random.below(4)).expect("it is small")];
        choices.push((format!("{chosen:?}, octets {torn:?}"), chosen, torn));
    }
    let (committed, unconfirmed) = committed(trace, time);
    let mut crashes = Vec::new();
    for (how, chosen, torn) in choices {
        let survives: BTreeSet<usize> =
            pending.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(it, _)| *it).collect();
        let files = disk.after(&survives, torn);
        let mut left = Left { files, committed: committed.clone() };
        crashes.push(Crash { time, how: how.clone(), left: left.clone() });
        if !unconfirmed.is_empty() {
            left.committed.extend(unconfirmed.clone());
            crashes.push(Crash { time, how: format!("{how}, and the commit"), left });
        }
    }
    let mut seen = BTreeSet::new();
    crashes.retain(|crash| seen.insert(crash.left.digest()));
    crashes
}

/// What was committed for certain, and what may be.
fn committed(trace: &Trace, time: u64) -> (Vec<Transaction>, Vec<Transaction>) {
    let (mut certain, mut unconfirmed) = (Vec::new(), Vec::new());
    for event in trace.events.iter().filter(|event| event.from <= time) {
        if let What::Committed(transaction) = &event.what {
            let to = if event.to <= time { &mut certain } else { &mut unconfirmed };
            to.push(transaction.clone());
        }
    }
    (certain, unconfirmed)
}

impl Left {
    /// The same for what is the same.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Which number a file has says nothing.
        let mut numbers = BTreeMap::new();
        for (path, (number, octets)) in &self.files {
            let next = numbers.len();
            (path, numbers.entry(number).or_insert(next), octets).hash(&mut hasher);
        }
        self.committed.hash(&mut hasher);
        hasher.finish()
    }
}

impl Disk {
    fn at(trace: &Trace, time: u64) -> Self {
        let mut disk = Self { inodes: Vec::new(), changes: Vec::new() };
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for event in trace.events.iter().filter(|event| event.from <= time) {
            match &event.what {
                What::Created(path) if counts(path) => {
                    names.insert(path, disk.inodes.len());
                    let adds = Some((path.clone(), disk.inodes.len()));
                    disk.inodes.push(Inode { written: event.to, ..Inode::default() });
                    disk.change(folder_of(path), event.to, adds, None, None);
                }
                What::Wrote(path, octets) => {
                    if let Some(inode) = names.get(path.as_str()) {
                        let inode = &mut disk.inodes[*inode];
                        inode.octets.extend_from_slice(octets);
                        (inode.written, inode.durable) = (event.to, false);
                    }
                }
                What::Synced(path) => disk.synced(path, &names, event.from, event.to <= time),
                What::Renamed(from, to) if counts(to) => {
                    let Some(inode) = names.remove(from.as_str()) else { continue };
                    names.insert(to, inode);
                    let adds = Some((to.clone(), inode));
                    if folder_of(from) == folder_of(to) {
                        disk.change(folder_of(to), event.to, adds, Some(from), None);
                    } else {
                        disk.change(folder_of(to), event.to, adds, None, None);
                        let added = disk.changes.len() - 1;
                        disk.change(folder_of(from), event.to, None, Some(from), Some(added));
                    }
                }
                What::Removed(path) if names.remove(path.as_str()).is_some() => {
                    disk.change(folder_of(path), event.to, None, Some(path), None);
                }
                _ => {}
            }
        }
        for change in (0..disk.changes.len()).rev() {
            if let (true, Some(other)) =
                (disk.changes[change].durable, disk.changes[change].only_with)
            {
                disk.changes[other].durable = true;
            }
        }
        disk
    }

    fn change(
        &mut self,
        folder: &str,
        at: u64,
        adds: Option<(String, usize)>,
        removes: Option<&String>,
        only_with: Option<usize>,
    ) {
        let (folder, removes) = (folder.to_owned(), removes.cloned());
        self.changes.push(Change { adds, removes, only_with, folder, at, durable: false });
    }

    /// What had happened before this began is durable, if it came to its end.
    fn synced(&mut self, path: &str, names: &BTreeMap<&str, usize>, from: u64, ended: bool) {
        if !ended {
            return;
        }
        if let Some(inode) = names.get(path) {
            let inode = &mut self.inodes[*inode];
            inode.durable |= inode.written < from;
        }
        for change in &mut self.changes {
            change.durable |= change.folder == path && change.at < from;
        }
    }

    fn after(
        &self,
        survives: &BTreeSet<usize>,
        torn: Torn,
    ) -> BTreeMap<String, (usize, Arc<[u8]>)> {
        let is_there = |change: usize| self.changes[change].durable || survives.contains(&change);
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, change) in self.changes.iter().enumerate() {
            if !is_there(number) || change.only_with.is_some_and(|other| !is_there(other)) {
                continue;
            }
            if let Some(path) = &change.removes {
                names.remove(path.as_str());
            }
            if let Some((path, inode)) = &change.adds {
                names.insert(path, *inode);
            }
        }
        let octets = |inode: &Inode| -> Arc<[u8]> {
            let octets = inode.octets.as_slice();
            match torn {
                _ if inode.durable => octets.into(),
                Torn::Empty => Arc::default(),
                Torn::Half => octets[..octets.len() / 2].into(),
                Torn::Whole => octets.into(),
                Torn::Zeros => vec![0; octets.len()].into(),
            }
        };
        names
            .into_iter()
            .map(|(path, inode)| (path.to_owned(), (inode, octets(&self.inodes[inode]))))
            .collect()
    }
}

fn counts(path: &str) -> bool {
    !path.starts_with("delivery/.service.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Event;

    /// A trace of these steps, one after the other.
    fn trace(steps: impl IntoIterator<Item = What>) -> Trace {
        let event = |(number, what)| {
            let time = 10 * (number as u64 + 1);
            Event { from: time, to: time, process: 0, what }
        };
        Trace { events: steps.into_iter().enumerate().map(event).collect(), ..Trace::default() }
    }

    /// What names and octets a crash at the end could leave.
    fn left(steps: impl IntoIterator<Item = What>) -> BTreeSet<String> {
        let mut random = Random::seeded(1);
        let crashes = crashes(&trace(steps), 1000, &mut random, 50);
        let words = |(path, (_, octets)): (&String, &(usize, Arc<[u8]>))| {
            format!("{path}={}", String::from_utf8_lossy(octets).replace('\0', "0"))
        };
        let files =
            |crash: &Crash| crash.left.files.iter().map(words).collect::<Vec<_>>().join(" ");
        crashes.iter().map(files).collect()
    }

    fn written(path: &str) -> [What; 2] {
        [What::Created(path.into()), What::Wrote(path.into(), b"ab".to_vec())]
    }

    fn synced(path: &str) -> What {
        What::Synced(path.into())
    }

    fn renamed(from: &str, to: &str) -> What {
        What::Renamed(from.into(), to.into())
    }

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&words| words.to_owned()).collect()
    }

    #[test]
    fn a_file_that_is_not_durable_is_absent_empty_torn_or_whole() {
        let steps = written("a/x");
        assert_eq!(left(steps.clone()), set(&["", "a/x=", "a/x=a", "a/x=ab", "a/x=00"]));
        let named = left(steps.clone().into_iter().chain([synced("a")]));
        assert_eq!(named, set(&["a/x=", "a/x=a", "a/x=ab", "a/x=00"]));
        let whole = left(steps.into_iter().chain([synced("a/x")]));
        assert_eq!(whole, set(&["", "a/x=ab"]));
    }

    #[test]
    fn a_rename_is_old_or_new_and_across_folders_both_but_never_neither() {
        let start = || written("a/x").into_iter().chain([synced("a/x"), synced("a")]);
        let within = left(start().chain([renamed("a/x", "a/y")]));
        assert_eq!(within, set(&["a/x=ab", "a/y=ab"]));
        let across = left(start().chain([renamed("a/x", "b/x")]));
        assert_eq!(across, set(&["a/x=ab", "a/x=ab b/x=ab", "b/x=ab"]));
        let there = left(start().chain([renamed("a/x", "b/x"), synced("b")]));
        assert_eq!(there, set(&["a/x=ab b/x=ab", "b/x=ab"]));
        let gone = left(start().chain([renamed("a/x", "b/x"), synced("b"), synced("a")]));
        assert_eq!(gone, set(&["b/x=ab"]));
    }

    #[test]
    fn a_file_that_was_removed_may_be_back_until_its_folder_is_durable() {
        let removed = || {
            let start = written("a/x").into_iter().chain([synced("a/x"), synced("a")]);
            start.chain([What::Removed("a/x".into())])
        };
        assert_eq!(left(removed()), set(&["", "a/x=ab"]));
        assert_eq!(left(removed().chain([synced("a")])), set(&[""]));
    }

    #[test]
    fn what_began_to_be_made_durable_and_did_not_end_is_not_durable() {
        let mut trace = trace(written("a/x").into_iter().chain([synced("a/x")]));
        trace.events[2].to = 2000;
        let crashes = crashes(&trace, 1000, &mut Random::seeded(1), 0);
        assert!(crashes.iter().any(|crash| {
            crash.left.files.get("a/x").is_some_and(|(_, octets)| octets.is_empty())
        }));
    }
}
