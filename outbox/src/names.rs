//! What ties everything together: the ids of ticket, mail and directive, and the clock.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The present time to the microsecond, which is what PostgreSQL can hold.
pub fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("it is the present")
}

/// Key of a row in the table `directives`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DirectiveId(pub i64);

impl fmt::Display for DirectiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A ticket: `YYYYMMDD-NNNNNNNN`, the day in UTC and a number that is unique within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ticket(String);

impl Ticket {
    /// The ticket of a `day` (`YYYYMMDD`) with a `number` drawn from the sequence.
    ///
    /// Fails if the day is not of that form or the number has more than eight digits: cutting it
    /// off, as one could, would give a ticket that was given before.
    pub fn new(day: &str, number: i64) -> Result<Self, Error> {
        format!("{day}-{number:08}").parse()
    }

    /// The ticket as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ticket {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('-') {
            Some((day, number)) if digits(day) && digits(number) => Ok(Self(text.to_owned())),
            _ => Err(Error::Ticket(text.to_owned())),
        }
    }
}

/// A mail's Maildir unique name: the part of its file name before `:`, the same in every folder.
///
/// Ours hold ASCII letters, digits, `.`, `-` and `_` only, so that they are safe in a path, a log
/// line and a terminal; a file with any other name is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailId(String);

impl MailId {
    /// The ticket in an id of ours.
    pub fn ticket(&self) -> Option<Ticket> {
        self.0.split('.').nth(2)?.parse().ok()
    }

    /// When the mail was written, to the second: an id of ours begins with it.
    pub fn written_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.split('.').next()?.parse().ok()?).ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MailId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // 200 leaves room for ":2,FLAGS" and ".json" below the 255 bytes of a file name.
        let fits = (1..=200).contains(&text.len()) && !text.starts_with('.');
        if fits && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::MailId(text.to_owned()))
        }
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_type!(Ticket);
text_type!(MailId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tickets_of_a_day_are_in_the_order_of_their_numbers_and_of_days_in_that_of_the_days(
            (day, number) in (19_700_101..99_991_231_u32, 0..200_000_000_i64),
            (other_day, other) in (19_700_101..99_991_231_u32, 0..200_000_000_i64),
        ) {
            let ticket = |day: u32, number| Ticket::new(&day.to_string(), number);
            prop_assert_eq!(ticket(day, number).is_ok(), number <= 99_999_999);
            if let (Ok(one), Ok(next)) = (ticket(day, number), ticket(other_day, other)) {
                prop_assert_eq!(one.cmp(&next), (day, number).cmp(&(other_day, other)));
                prop_assert_eq!(one.to_string().parse::<Ticket>().ok(), Some(one));
            }
        }
    }

    #[test]
    fn a_ticket_is_a_day_and_eight_digits() {
        let ticket = Ticket::new("20261125", 10_000_042).unwrap();
        assert_eq!(ticket.as_str(), "20261125-10000042");
        assert_eq!(ticket.as_str().len(), 17, "fits sent.intelmq_ticket varchar(18)");
        for bad in ["", "20261125", "2026112-10000042", "20261125-1000004x", "20261125-100000421"] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad}");
        }
        assert!(Ticket::new("20261125", 100_000_000).is_err(), "would repeat if cut off");
    }

    #[test]
    fn a_mail_id_can_not_leave_its_folder_or_upset_a_terminal() {
        assert!("1764028800.M1P2Q3.20261125-10000042.host".parse::<MailId>().is_ok());
        for bad in ["", ".hidden", "../x", "a/b", "a:2,S", "a\nb", "a\u{1b}[0m", "ä"] {
            assert!(bad.parse::<MailId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(201).parse::<MailId>().is_err());
    }
}
