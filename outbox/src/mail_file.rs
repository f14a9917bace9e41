//! A mail's file in the Maildir: where it is and which flags its name carries.

use std::ffi::OsString;
use std::fmt;

use crate::MailId;

/// One of a Maildir's three folders, in the order in which a mail moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Being written.
    Tmp,
    /// Delivered into the Maildir, not seen by a mail reader.
    New,
    /// Seen by a mail reader, or flagged.
    Cur,
}

impl Place {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Tmp, Self::New, Self::Cur];

    /// The folder's name.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Tmp => "tmp",
            Self::New => "new",
            Self::Cur => "cur",
        }
    }
}

/// The flags behind `:2,` in a file's name, each once and in ASCII order as Maildir asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(String);

impl Flags {
    /// Flagged: held.
    pub const HELD: char = 'F';
    /// Trashed: withdrawn.
    pub const TRASHED: char = 'T';
    /// A flag of our own, which mail readers keep and don't show: a deferred mail is due now. It goes
    /// away with the attempt.
    pub const RETRY: char = 'r';

    /// Whether the mail is flagged (F), by a person or by the deliverer: it is held.
    pub fn held(&self) -> bool {
        self.0.contains(Self::HELD)
    }

    /// Whether a person marked the mail for deletion (T): it is withdrawn.
    pub fn trashed(&self) -> bool {
        self.0.contains(Self::TRASHED)
    }

    /// Whether a person asked for the next attempt now ([`Flags::RETRY`]).
    pub fn retried(&self) -> bool {
        self.0.contains(Self::RETRY)
    }

    /// These flags and `flag`.
    #[must_use]
    pub fn with(&self, flag: char) -> Self {
        Self::from(format!("{}{flag}", self.0).as_str())
    }

    /// These flags without `flag`.
    #[must_use]
    pub fn without(&self, flag: char) -> Self {
        Self(self.0.chars().filter(|&c| c != flag).collect())
    }
}

impl From<&str> for Flags {
    fn from(text: &str) -> Self {
        let mut flags: Vec<char> = text.chars().filter(char::is_ascii_alphabetic).collect();
        flags.sort_unstable();
        flags.dedup();
        Self(flags.into_iter().collect())
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a mail's file was when it was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFile {
    /// In which of the three folders.
    pub place: Place,
    /// Its whole name there.
    pub file_name: OsString,
    /// What its name says.
    pub flags: Flags,
}

impl MailFile {
    /// The name of the mail's file in `cur/` after a program of ours changed its flags.
    ///
    /// It is one that the mail never had: a `+` behind the id, and a number one higher than before. A
    /// mail reader that read the folder earlier, and writes its own idea of the flags later, so writes
    /// nothing: to it, the mail that it knew is gone, and another one came. Under the old name, mutt
    /// would clear the flag of a mail that was held while a person read it.
    pub(crate) fn name_anew(&self, id: &MailId, flags: &Flags) -> String {
        let name = self.file_name.to_str().and_then(parse_unique_name);
        let number = name.map_or(0, |(_, number)| number).wrapping_add(1);
        format!("{id}+{number}:2,{flags}")
    }
}

/// Splits a file's name into the mail's id and flags. `None` if no mail of ours has such a name.
pub(crate) fn parse_file_name(name: &str) -> Option<(MailId, Flags)> {
    let info = name.split_once(':').map_or("", |(_, info)| info);
    let (id, _) = parse_unique_name(name)?;
    Some((id, Flags::from(info.strip_prefix("2,").unwrap_or(""))))
}

/// The id, and how often a program of ours changed the flags: what stands before the colon.
fn parse_unique_name(name: &str) -> Option<(MailId, u32)> {
    let unique = name.split_once(':').map_or(name, |(unique, _)| unique);
    let (id, number) = match unique.split_once('+') {
        // Rust would read another `+` before the digits.
        Some((id, number)) if number.bytes().all(|b| b.is_ascii_digit()) => {
            (id, number.parse().ok()?)
        }
        Some(_) => return None,
        None => (unique, 0),
    };
    Some((id.parse().ok()?, number))
}

/// The name of a mail's file in a `cur/` where nobody knows it yet.
pub(crate) fn file_name(id: &MailId, flags: &Flags) -> String {
    format!("{id}:2,{flags}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_kept_sorted_and_once_each() {
        let flags = Flags::from("SF");
        assert!(flags.held() && !flags.trashed());
        assert_eq!(flags.with('R').with('F').to_string(), "FRS");
        assert_eq!(flags.without('F').to_string(), "S");
    }

    #[test]
    fn a_mail_is_known_by_the_part_before_the_colon() {
        let (id, flags) = parse_file_name("1.M2.20261125-10000042.h:2,ST").unwrap();
        assert_eq!(id.as_str(), "1.M2.20261125-10000042.h");
        assert!(flags.trashed());
        assert_eq!(parse_file_name("1.h").unwrap().1, Flags::default());
        let (id, flags) = parse_file_name("1.M2.20261125-10000042.h+3:2,F").unwrap();
        assert_eq!(id.as_str(), "1.M2.20261125-10000042.h");
        assert!(flags.held());
        for other in ["1.h+x:2,", "1.h+:2,", "1.h++3:2,", "1.h+-3:2,", "1.h+4294967296:2,"] {
            assert!(parse_file_name(other).is_none(), "{other}");
        }
        assert!(parse_file_name(".hidden").is_none());
    }

    #[test]
    fn a_mail_whose_flags_we_change_has_a_name_that_it_never_had() {
        let mut mail =
            MailFile { place: Place::New, file_name: "1.h".into(), flags: Flags::default() };
        let id = "1.h".parse().unwrap();
        for expected in ["1.h+1:2,F", "1.h+2:2,F"] {
            mail.file_name = mail.name_anew(&id, &mail.flags.with(Flags::HELD)).into();
            assert_eq!(mail.file_name, expected);
        }
    }
}
