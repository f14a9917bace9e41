//! The two programs without root's rights, whoever runs the tests: root reads and writes everything,
//! and would find nothing wrong with a file that its user may not read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::programs::Programs;
use crate::watchdog;

/// The programs, started so that they are bound to modes and owners of files: as they are, or, where
/// root runs the tests, as root without a capability. Such a process may do with root's files what
/// their modes say, and nothing with those of others.
pub fn unprivileged(programs: Programs) -> Programs {
    static WRAPPED: OnceLock<Programs> = OnceLock::new();
    if !rustix::process::geteuid().is_root() {
        return programs;
    }
    *WRAPPED.get_or_init(|| {
        let folder = TempDir::with_prefix_in("outbox-", "/tmp").expect("failed to make a folder");
        watchdog::removes(folder.path());
        let folder = folder.keep();
        let [generator, deliverer] = [programs.generator, programs.deliverer].map(|program| {
            let name = program.rsplit('/').next().expect("there is a name");
            let script = folder.join(name);
            let text = format!(
                "#!/bin/sh\nexec setpriv --bounding-set=-all --inh-caps=-all -- {program} \"$@\"\n"
            );
            fs::write(&script, text).expect("failed to write a script");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
            &*script.display().to_string().leak()
        });
        Programs { generator, deliverer }
    })
}
