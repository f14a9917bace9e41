//! The file for the node exporter's textfile collector: always whole, since it is renamed into place.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::Metrics;

/// How often the file is written. Prometheus asks every quarter of a minute or less often.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// The collector runs as a user of its own.
const MODE: u32 = 0o644;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct MetricsFile {
    path: PathBuf,
    started: Arc<Once>,
    /// Whether it was told that it can't be written. Held while it is written: there is one
    /// temporary file.
    told: Arc<Mutex<bool>>,
}

impl MetricsFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, started: Arc::new(Once::new()), told: Arc::default() }
    }

    /// Writes it from now on, until the program ends; once begun, it goes on.
    pub fn start(&self, metrics: &Metrics) {
        self.started.call_once(|| {
            let (file, metrics) = (self.clone(), metrics.clone());
            thread::spawn(move || {
                loop {
                    file.write(&metrics);
                    thread::sleep(WRITE_EVERY);
                }
            });
        });
    }

    /// Writes it. That it can't be written is told once, until it can.
    pub fn write(&self, metrics: &Metrics) {
        let path = self.path.display();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match self.replace(&metrics.text()) {
            Ok(()) => {
                if std::mem::replace(&mut *told, false) {
                    info!("the metrics are written to {path} again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut *told, true) {
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
        let (file, metrics) = (MetricsFile::new(path.clone()), Metrics::new());
        file.write(&metrics);
        // What a crash left is no obstacle.
        fs::write(folder.path().join(".outbox.prom.tmp"), "a").unwrap();
        metrics.marked(2);
        file.write(&metrics);
        assert_eq!(fs::read_to_string(&path).unwrap(), metrics.text());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "no temporary file stays");
    }

    #[test]
    fn two_threads_that_write_it_are_not_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let (file, metrics) = (MetricsFile::new(folder.path().join("outbox.prom")), Metrics::new());
        let write = || (0..200).for_each(|_| file.write(&metrics));
        thread::scope(|scope| [scope.spawn(write), scope.spawn(write)].map(drop));
        assert!(!*file.told.lock().unwrap());
    }

    #[test]
    fn that_it_can_not_be_written_is_told_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let (file, metrics) =
            (MetricsFile::new(folder.path().join("missing/outbox.prom")), Metrics::new());
        file.write(&metrics);
        assert!(*file.told.lock().unwrap());
        fs::create_dir(folder.path().join("missing")).unwrap();
        file.write(&metrics);
        assert!(!*file.told.lock().unwrap());
        assert_eq!(fs::read_to_string(&file.path).unwrap(), metrics.text());
    }
}
