//! The file for the node exporter's textfile collector: always whole, since it is renamed into place.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::Metrics;

/// How often the file is written. Prometheus asks every quarter of a minute or less often.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// The collector runs as a user of its own.
const MODE: u32 = 0o644;

/// The file, and whether it was told that it can't be written.
#[derive(Clone, Debug)]
pub(super) struct MetricsFile {
    path: PathBuf,
    told: Arc<AtomicBool>,
}

impl MetricsFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, told: Arc::default() }
    }

    /// Writes it from now on, until the program ends.
    pub fn start(&self, metrics: Metrics) {
        let file = self.clone();
        thread::spawn(move || {
            loop {
                file.write(&metrics.text());
                thread::sleep(WRITE_EVERY);
            }
        });
    }

    /// Writes it. That it can't be written is told once, until it can.
    pub fn write(&self, text: &str) {
        let path = self.path.display();
        match self.replace(text) {
            Ok(()) => {
                if self.told.swap(false, Ordering::Relaxed) {
                    info!("the metrics are written to {path} again");
                }
            }
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    warn!("cannot write the metrics to {path} (metrics.file): {error}");
                }
            }
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let name = self.path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        // The dot and the end keep the collector from reading it.
        let temporary = self.path.with_file_name(format!(".{}.tmp", name.display()));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_and_readable_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.prom");
        let file = MetricsFile::new(path.clone());
        file.write("a 1\n");
        // What a crash left is no obstacle.
        fs::write(folder.path().join(".outbox.prom.tmp"), "a").unwrap();
        file.write("a 2\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a 2\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "no temporary file stays");
    }

    #[test]
    fn that_it_can_not_be_written_is_told_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = MetricsFile::new(folder.path().join("missing/outbox.prom"));
        file.write("a 1\n");
        assert!(file.told.load(Ordering::Relaxed));
        fs::create_dir(folder.path().join("missing")).unwrap();
        file.write("a 2\n");
        assert!(!file.told.load(Ordering::Relaxed));
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "a 2\n");
    }
}
