//! Whether the outbox's file system has room for more, as the configuration asks for.

use std::path::PathBuf;

use crate::{OutboxSettings, size_words};

/// That a file system has less free than the configuration asks for. Printed, it says which key asks
/// and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLittleRoom {
    /// Too few octets.
    #[error(
        "the file system of {} has {} free, and outbox.min_free asks for {}: make room, for example \
         with a shorter delivery.archive_for",
        outbox.display(), size_words(*free), size_words(*asked)
    )]
    Octets {
        /// The outbox.
        outbox: PathBuf,
        /// What is free.
        free: u64,
        /// What is asked for.
        asked: u64,
    },
    /// Too few files.
    #[error(
        "the file system of {} has room for {free} more files (inodes), and outbox.min_free_inodes \
         asks for {asked}: remove some, for example with a shorter delivery.archive_for",
        outbox.display()
    )]
    Files {
        /// The outbox.
        outbox: PathBuf,
        /// How many files more there is room for.
        free: u64,
        /// How many are asked for.
        asked: u64,
    },
}

impl TooLittleRoom {
    /// In as few words as a notification has room for: `12 MiB free`, `999 files free`.
    pub fn short(&self) -> String {
        match self {
            Self::Octets { free, .. } => format!("{} free", size_words(*free)),
            Self::Files { free, .. } => format!("{free} files free"),
        }
    }
}

impl OutboxSettings {
    /// Judges what the file system has free: `octets`, and `files` where it limits them. Says how much
    /// that is, or fails if it is too little.
    pub fn room_for_mails(&self, octets: u64, files: Option<u64>) -> Result<String, TooLittleRoom> {
        let outbox = || self.path.clone();
        if octets < self.min_free {
            let (free, asked) = (octets, self.min_free);
            return Err(TooLittleRoom::Octets { outbox: outbox(), free, asked });
        }
        let room = size_words(octets);
        match files {
            Some(free) if free < self.min_free_inodes => {
                let asked = self.min_free_inodes;
                Err(TooLittleRoom::Files { outbox: outbox(), free, asked })
            }
            Some(files) => Ok(format!("room for {room} and {files} files")),
            None => Ok(format!("room for {room}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_below_a_floor_is_told_with_its_key_and_at_the_floor_is_enough() {
        let settings = OutboxSettings::default();
        let judge = |octets, files| settings.room_for_mails(octets, files);
        let megabytes = |number: u64| number << 20;
        let little = judge(megabytes(12), Some(10_000)).unwrap_err();
        assert_eq!(little.short(), "12 MiB free");
        assert_eq!(
            little.to_string(),
            "the file system of /var/spool/intelmq-outbox has 12 MiB free, and outbox.min_free asks \
             for 100 MiB: make room, for example with a shorter delivery.archive_for"
        );
        let few = judge(megabytes(100), Some(999)).unwrap_err();
        assert_eq!(few.short(), "999 files free");
        let few = few.to_string();
        assert!(few.contains("999 more files") && few.contains("outbox.min_free_inodes"), "{few}");
        assert_eq!(judge(megabytes(100), Some(1000)).unwrap(), "room for 100 MiB and 1000 files");
        assert_eq!(judge(megabytes(100), None).unwrap(), "room for 100 MiB");
    }

    #[test]
    fn a_floor_of_zero_is_none() {
        let settings =
            OutboxSettings { min_free: 0, min_free_inodes: 0, ..OutboxSettings::default() };
        assert!(settings.room_for_mails(0, Some(0)).is_ok());
    }
}
