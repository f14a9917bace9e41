//! Whether the outbox's folders let in whom they must, and nobody else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::folder::FOLDER_MODE;
use crate::{Error, Outbox, Result};

impl Outbox {
    /// What is wrong with the modes and the groups of the folders: for each a text that ends with the
    /// command that mends it. Changes nothing.
    pub fn wrong_permissions(&self) -> Result<Vec<String>> {
        let metadata = |folder: &Path| fs::metadata(folder).map_err(Error::io("stat", folder));
        let group = metadata(self.root())?.gid();
        let mut wrong = Vec::new();
        for folder in self.folders() {
            let found = metadata(&folder)?;
            let path = folder.display();
            let lacks = |bits| found.mode() & bits != bits;
            let reasons = [
                (found.mode() & 0o002 != 0, "others than its group may write into it"),
                (found.mode() & 0o005 != 0, "others than its group may look into it"),
                (lacks(0o070), "its group may not do all in it, and both programs must"),
                (lacks(0o700), "its owner may not do all in it"),
                (
                    found.mode() & 0o1000 != 0,
                    "who owns neither it nor a file in it may not rename that (sticky bit)",
                ),
                (lacks(0o2000), "what is made in it does not belong to its group"),
            ];
            let reasons: Vec<&str> =
                reasons.into_iter().filter_map(|(wrong, why)| wrong.then_some(why)).collect();
            if !reasons.is_empty() {
                wrong.push(format!("{path}: {}: chmod {FOLDER_MODE:o} {path}", reasons.join("; ")));
            }
            if found.gid() != group {
                let root = self.root().display();
                wrong.push(format!(
                    "{path}: it belongs to another group than {root}: chgrp --reference={root} {path}"
                ));
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_folder_that_differs_is_told_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
        assert_eq!(outbox.wrong_permissions().unwrap(), [""; 0]);
        for (mode, words) in [
            (0o2772, "may write into it"),
            (0o2775, "may look into it"),
            (0o2750, "its group may not do all"),
            (0o0770, "does not belong to its group"),
            (0o3770, "may not rename that"),
        ] {
            for wrong in [outbox.root().to_owned(), outbox.sidecars(), outbox.archive().join("cur")]
            {
                fs::set_permissions(&wrong, Permissions::from_mode(mode)).unwrap();
                let found = outbox.wrong_permissions().unwrap();
                let [found] = found.as_slice() else { panic!("{mode:o}: {found:?}") };
                let mended = format!(": chmod 2770 {}", wrong.display());
                assert!(found.contains(words) && found.ends_with(&mended), "{found}");
                fs::set_permissions(&wrong, Permissions::from_mode(FOLDER_MODE)).unwrap();
            }
        }
    }
}
