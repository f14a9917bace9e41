//! What must not outlive the test process, however that ends.
//!
//! One shell a process waits for the end of its standard input, whose other end belongs to the test
//! process: the kernel closes it even when the process is killed with SIGKILL or leaves its statics
//! undropped. Then the shell does what it was told meanwhile, the latest first. (The parent-death
//! signal of Linux comes when the *thread* ends that started the child, and each test is a thread.)

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Ignores what a terminal sends on Ctrl-C, since that is when it is needed.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
todo=
while IFS= read -r line; do
    todo="$line
$todo"
done
eval "$todo"
"#;

/// Has a line of shell run when the test process is gone. It must do no harm if its work was done
/// already.
pub fn at_end(line: &str) {
    static SHELL: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    assert!(!line.contains('\n'), "one line: {line}");
    #[expect(clippy::zombie_processes, reason = "it ends after us")]
    let shell = SHELL.get_or_init(|| {
        let child = Command::new("sh")
            .args(["-c", WATCHDOG, "outbox-tests-watchdog"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Its own process group, so that killing the group of the tests leaves it to do its
            // work.
            .process_group(0)
            .spawn()
            .expect("failed to start the watchdog");
        Mutex::new(child.stdin.expect("it was piped"))
    });
    let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(shell, "{line}").expect("failed to tell the watchdog");
}

/// Has a folder removed when the test process is gone.
pub fn removes(folder: &Path) {
    at_end(&format!("rm -rf '{}'", folder.display()));
}

/// Has a process killed when the test process is gone. Its number may have gone to another process
/// by then: that one began later, which the 22nd field of its `stat` tells.
pub fn kills(pid: u32) {
    let Some(began) = began(pid) else { return };
    at_end(&format!(
        "[ \"$(sed 's/.*) //' /proc/{pid}/stat 2>/dev/null | cut -d' ' -f20)\" = {began} ] && kill -KILL {pid}"
    ));
}

/// When a process began, in ticks of the kernel's clock. The second field of `stat` is a name that
/// may hold anything, so fields are counted from its closing bracket.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').nth(19)?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use rustix::process::Pid;

    use super::*;
    use crate::postgres_cluster::{Cluster, is_running};

    /// Not a test: what the next one kills.
    #[test]
    #[ignore = "waits to be killed"]
    fn leave_processes_and_folders_behind() {
        let folder = tempfile::TempDir::with_prefix_in("outbox-", "/tmp").unwrap().keep();
        removes(&folder);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        kills(child.id());
        eprintln!("left {} {}", child.id(), folder.display());
        let cluster = Cluster::shared();
        cluster.database().connect();
        eprintln!("left {} {}", cluster.pid().as_raw_nonzero(), cluster.socket_dir().display());
        child.wait().unwrap();
    }

    #[test]
    fn a_test_process_killed_without_warning_leaves_no_process_no_server_and_no_folder() {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "leave_processes_and_folders_behind"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let left: Vec<(Pid, PathBuf)> = BufReader::new(victim.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| {
                let (pid, folder) = line.strip_prefix("left ")?.split_once(' ')?;
                Some((Pid::from_raw(pid.parse().ok()?)?, PathBuf::from(folder)))
            })
            .take(2)
            .collect();
        assert_eq!(left.len(), 2, "the victim says what it leaves");
        assert!(left.iter().all(|(pid, folder)| is_running(*pid) && folder.exists()));
        victim.kill().unwrap();
        victim.wait().unwrap();

        let deadline = Instant::now() + Duration::from_secs(30);
        while left.iter().any(|(pid, folder)| is_running(*pid) || folder.exists()) {
            assert!(Instant::now() < deadline, "one of {left:?} is left");
            sleep(Duration::from_millis(20));
        }
    }
}
