//! A file system of its own for a test: soon full, and read-only whenever that is wanted.
//!
//! It is mounted in a namespace of its own, as root or, elsewhere, as the root of a namespace of users,
//! and everybody of the same user reaches it through `/proc`. It is gone with the process that holds
//! the namespace.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::watchdog;

/// Mounts, and then mounts anew with each line of options that it is told.
const HOLD: &str = r#"
mount -t tmpfs -o "$1" outbox-tests "$0" || exit
echo done
while IFS= read -r options; do
    mount -o "remount,$options" "$0" && echo done
done
"#;

/// A small file system.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    point: TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs with these options, such as `size=1m,nr_inodes=100`. Where nothing can be mounted
    /// it says so loudly, and there is none.
    pub fn mount(options: &str) -> Option<Self> {
        let point = TempDir::with_prefix_in("outbox-", "/tmp").expect("failed to make a folder");
        watchdog::removes(point.path());
        let root = rustix::process::geteuid().is_root();
        let namespaces: &[&str] =
            if root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
        let mut holder = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", HOLD])
            .arg(point.path())
            .arg(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("failed to run unshare");
        watchdog::kills(holder.id());
        let orders = holder.stdin.take().expect("it was piped");
        let answers = BufReader::new(holder.stdout.take().expect("it was piped"));
        let mut disk = Self { holder, orders, answers, point };
        if disk.hears_done() {
            return Some(disk);
        }
        eprintln!(
            "NOT TRIED HERE: a full or read-only disk, for neither root nor a namespace of users can mount one"
        );
        None
    }

    fn hears_done(&mut self) -> bool {
        let mut line = String::new();
        self.answers.read_line(&mut line).is_ok_and(|_| line == "done\n")
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        let point = self.point.path().strip_prefix("/").expect("it is absolute");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(point)
    }

    /// Mounts it anew with other options, such as `size=2m` or `ro`.
    pub fn remount(&mut self, options: &str) {
        writeln!(self.orders, "{options}").expect("it listens");
        assert!(self.hears_done(), "cannot mount with {options}");
    }

    /// Fills it to the last octet. Removing the file that is given makes room again.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("there is room for a name");
        for size in [65536, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
