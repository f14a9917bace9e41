//! What several of these servers need of the system: a free port, and a copy of a folder.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// A port of 127.0.0.1 that nobody listens on, as of a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Copies a folder with the files and folders in it, and their modes. The sockets of an agent are
/// neither.
pub fn copy_folder(from: &Path, to: &Path) {
    let copy = || -> std::io::Result<()> {
        fs::create_dir(to)?;
        fs::set_permissions(to, fs::metadata(from)?.permissions())?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                copy_folder(&entry.path(), &target);
            } else if kind.is_file() {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    };
    copy().unwrap_or_else(|error| panic!("failed to copy {}: {error}", from.display()));
}
