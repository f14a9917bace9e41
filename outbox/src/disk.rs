//! Reading and writing files so that they outlast a crash, and nothing but regular files.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Files: the owner writes, the group (the other program, the person with mutt) reads.
const FILE_MODE: u32 = 0o640;

/// No sidecar or record comes near this size, in octets; what is larger is not ours.
const JSON_LIMIT: u64 = 64 << 20;

/// Creates `path`, which must not exist, and writes `bytes`. Not durable before the caller calls
/// `sync_all` on the file. What can't be written whole (the disk is full) is removed again.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(Error::io("create", path))?;
    fill(&file, path, bytes).inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(file)
}

fn fill(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    // The umask of cron or of a shell must not decide who can read the outbox.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
        .map_err(Error::io("set the mode of", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))
}

/// Makes a file's content durable.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io("fsync", path))
}

/// Makes a folder's entries durable: names that were added, renamed or removed.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(Error::io("open", path))?;
    folder.sync_all().map_err(Error::io("fsync", path))
}

/// Renames within one file system. Not durable before `sync_folder` on both folders.
///
/// A crash within a rename can leave both names, of one file. Then the system has nothing to rename,
/// and says that all is well: the old name is removed.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|cause| Error::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
        cause,
    })?;
    if from != to && is_same_file(from, to) { remove(from) } else { Ok(()) }
}

/// Whether both names are there, and of one file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|file| identity(other) == Some(file))
}

/// Removes a file; that there is none is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// How many names are tried for a file that is not in place yet.
const NAMES: u32 = 10;

/// Writes a file of ours that is not in place yet, named after `what`, and gives its path. What an
/// interrupted run left under that name is removed. What is no file, or can't be removed, stays: then
/// there is another name, for what the relay said has to be written down.
pub(crate) fn create_temporary(folder: &Path, what: &str, bytes: &[u8]) -> Result<(PathBuf, File)> {
    let mut path = folder.join(temporary(what));
    for number in 1.. {
        match create(&path, bytes) {
            Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::AlreadyExists => {
                let left = fs::symlink_metadata(&path).is_ok_and(|there| there.is_file());
                if left && remove(&path).is_ok() {
                    continue;
                }
                if number > NAMES {
                    return Err(Error::io("create", &path)(cause));
                }
                path = folder.join(temporary(format!("{what}.{number}")));
            }
            created => return created.map(|file| (path, file)),
        }
    }
    unreachable!("there is an end to the names")
}

/// The name of a JSON file of `what`, an id mostly, before it is in place. The leading dot hides it from
/// every reader.
pub(crate) fn temporary(what: impl Display) -> String {
    format!(".{what}.json.tmp")
}

/// Whether a file's name is that of a file of ours before it is in place.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(b".json.tmp")
}

/// Removes the files in `folder` that a crash kept from getting into place.
pub(crate) fn remove_temporary(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        if is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Opens a regular file for reading and says its size in octets. A symbolic link, a FIFO or a
/// device fails and never blocks.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(
            |error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => Error::malformed(path, "it is not a regular file"),
                _ => Error::io("open", path)(error),
            },
        )?;
    let metadata = file.metadata().map_err(Error::io("stat", path))?;
    if !metadata.is_file() {
        return Err(Error::malformed(path, "it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Reads `size` octets and not one more: a file that grows meanwhile does not fill the memory.
pub(crate) fn read_up_to(file: &File, size: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(size).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// The version that a file of the format says it has; everything else is read by its type.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a JSON file of the format. `None` if there is none. A version other than `version`, an
/// unknown key, or anything that is no such file fails.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, version: u32) -> Result<Option<T>> {
    let (file, size) = match open_regular(path) {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    if size > JSON_LIMIT {
        return Err(Error::malformed(path, format!("{size} octets are too many")));
    }
    let bytes = read_up_to(&file, size, path)?;
    from_json(&bytes, version).map(Some).map_err(|reason| Error::malformed(path, reason))
}

/// What a JSON file of the format says, or what is wrong with it.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8], version: u32) -> Result<T, String> {
    let found: Versioned = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if found.version != version {
        let found = found.version;
        return Err(format!(
            "it has version {found} of the format, this program knows version {version}"
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// A file of the format as bytes: JSON that a person can read, with a line end.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("the format's types always have a JSON form");
    bytes.push(b'\n');
    bytes
}
