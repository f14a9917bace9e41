//! How much room the outbox's file system has for more.

use rustix::fs::StatVfs;

use crate::{Error, Outbox, Result};

/// What a file system has left for those who are not root: what it keeps for root is of no use to
/// us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Octets.
    pub octets: u64,
    /// Files (inodes). `None` where only the octets limit them, as in btrfs.
    pub files: Option<u64>,
}

impl From<StatVfs> for Room {
    fn from(said: StatVfs) -> Self {
        Self {
            octets: said.f_bavail.saturating_mul(said.f_frsize),
            files: (said.f_files > 0).then_some(said.f_favail),
        }
    }
}

impl Outbox {
    /// Asks the file system how much room it has.
    pub fn room(&self) -> Result<Room> {
        rustix::fs::statvfs(self.root())
            .map(Room::from)
            .map_err(|error| Error::io("ask for the room in", self.root())(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_counts_no_inodes_has_no_limit_of_files() {
        let room = |counted| {
            let mut said = rustix::fs::statvfs("/").unwrap();
            (said.f_frsize, said.f_bfree, said.f_bavail) = (4096, 30, 20);
            (said.f_files, said.f_ffree, said.f_favail) =
                if counted { (100, 9, 7) } else { (0, 0, 0) };
            Room::from(said)
        };
        assert_eq!(room(true), Room { octets: 81_920, files: Some(7) });
        assert_eq!(room(false), Room { octets: 81_920, files: None });
    }
}
