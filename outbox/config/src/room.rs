//! Whether the outbox's file system has room for more, as the configuration asks for.

use crate::{OutboxSettings, size_words};

impl OutboxSettings {
    /// Judges what the file system has free: `octets`, and `files` where it limits them. Fails, in
    /// words that say which key asks for more and what to do, if that is too little.
    pub fn judge_room(&self, octets: u64, files: Option<u64>) -> Result<String, String> {
        let path = self.path.display();
        let free = size_words(octets);
        if octets < self.min_free {
            return Err(format!(
                "the file system of {path} has {free} free, and outbox.min_free asks for {}: make \
                 room, for example with a shorter delivery.archive_for",
                size_words(self.min_free)
            ));
        }
        match files {
            Some(files) if files < self.min_free_inodes => Err(format!(
                "the file system of {path} has room for {files} more files (inodes), and \
                 outbox.min_free_inodes asks for {}: remove some, for example with a shorter \
                 delivery.archive_for",
                self.min_free_inodes
            )),
            Some(files) => Ok(format!("room for {free} and {files} files")),
            None => Ok(format!("room for {free}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_below_a_floor_is_told_with_its_key_and_at_the_floor_is_enough() {
        let settings = OutboxSettings::default();
        let judge = |octets, files| settings.judge_room(octets, files);
        let megabytes = |number: u64| number << 20;
        assert_eq!(
            judge(megabytes(12), Some(10_000)).unwrap_err(),
            "the file system of /var/spool/intelmq-outbox has 12 MiB free, and outbox.min_free asks \
             for 100 MiB: make room, for example with a shorter delivery.archive_for"
        );
        let few = judge(megabytes(100), Some(999)).unwrap_err();
        assert!(few.contains("999 more files") && few.contains("outbox.min_free_inodes"), "{few}");
        assert_eq!(judge(megabytes(100), Some(1000)).unwrap(), "room for 100 MiB and 1000 files");
        assert_eq!(judge(megabytes(100), None).unwrap(), "room for 100 MiB");
    }

    #[test]
    fn a_floor_of_zero_is_none() {
        let settings =
            OutboxSettings { min_free: 0, min_free_inodes: 0, ..OutboxSettings::default() };
        assert!(settings.judge_room(0, Some(0)).is_ok());
    }
}
