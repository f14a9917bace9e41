//! The journal of systemd, spoken to in its own protocol: an entry is a datagram of lines `FIELD=value`
//! (systemd.io, "Native Journal Protocol").

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::Level;

use super::Fields;
use crate::text::one_line;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    to: PathBuf,
    identifier: String,
}

impl Journal {
    /// The system's journal; `None` if there is none that could be written to.
    pub fn of_the_system() -> Option<Self> {
        Self::at(Path::new(SOCKET)).ok()
    }

    fn at(to: &Path) -> io::Result<Self> {
        let program = std::env::args_os().next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or(OsStr::new("outbox"));
        let socket = UnixDatagram::unbound()?;
        // Only to see that somebody listens; unconnected, a journal that is restarted is found again.
        UnixDatagram::unbound()?.connect(to)?;
        Ok(Self { socket, to: to.to_owned(), identifier: program.to_string_lossy().into_owned() })
    }

    /// Writes an entry: the words as in the text format, and each field under its own name in
    /// capitals. Fails if the journal does not take it, for example for its size.
    pub fn write(&self, level: Level, fields: &Fields) -> io::Result<()> {
        let mut entry = String::new();
        let mut line = |name: &str, value: &str| {
            // No value has a line end, so none needs the form with a length.
            let _ = writeln!(entry, "{name}={}", one_line(value));
        };
        line("MESSAGE", &fields.journal_words(level));
        line("PRIORITY", &super::priority(level).to_string());
        line("SYSLOG_IDENTIFIER", &self.identifier);
        for (name, value) in &fields.others {
            line(&field_name(name), value);
        }
        self.socket.send_to(entry.as_bytes(), &self.to).map(drop)
    }
}

/// The journal takes capitals, digits and `_`, and keeps names that begin with `_` for itself.
fn field_name(name: &str) -> String {
    let valid = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(valid).collect::<String>().trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_each_field_on_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journal::at(&path).is_err(), "nobody listens");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal =
            Journal { identifier: "outbox-deliverer".into(), ..Journal::at(&path).unwrap() };
        let fields = Fields {
            message: "deferred\nPRIORITY=0".into(),
            others: vec![
                ("ticket", "20261125-10000042".into()),
                ("reply.text", "a b\nMAIL=x".into()),
            ],
        };
        journal.write(Level::WARN, &fields).unwrap();
        let mut bytes = [0; 4096];
        let length = listener.recv(&mut bytes).unwrap();
        let lines: Vec<&str> = std::str::from_utf8(&bytes[..length]).unwrap().lines().collect();
        assert_eq!(
            lines,
            [
                r#"MESSAGE=WARN deferred\nPRIORITY=0 ticket=20261125-10000042 reply.text="a b\nMAIL=x""#,
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=outbox-deliverer",
                "TICKET=20261125-10000042",
                r"REPLY_TEXT=a b\nMAIL=x",
            ]
        );
        drop(listener);
        assert!(journal.write(Level::WARN, &fields).is_err(), "the journal is gone");
    }
}
