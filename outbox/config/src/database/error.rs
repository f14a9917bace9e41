//! What can go wrong in a session, in words that say what the server said.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use postgres::error::SqlState;

/// An error of a session.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    /// Who is logged in, or wants to be.
    role: String,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The server said so, or the connection to it broke.
    Server(postgres::Error),
    /// For so long the server said nothing.
    Silent(Duration),
    /// This machine has too little of something.
    System(io::Error),
}

impl Error {
    pub(super) fn new(kind: Kind, role: &str) -> Self {
        Self { kind, role: role.to_owned() }
    }

    /// What the server called it; `None` if it said nothing.
    ///
    /// Only this decides anything: the words come in the server's language.
    pub fn code(&self) -> Option<&SqlState> {
        match &self.kind {
            Kind::Server(error) => error.code(),
            Kind::Silent(_) | Kind::System(_) => None,
        }
    }

    /// Whether the server undid a transaction for the sake of another one, and it may work now: SQLSTATE
    /// class 40.
    pub fn is_conflict(&self) -> bool {
        self.is_of("40")
    }

    /// Whether it is about what is in the database, its objects and rights, and no outage: SQLSTATE
    /// class 42.
    pub fn is_lasting(&self) -> bool {
        self.is_of("42")
    }

    fn is_of(&self, class: &str) -> bool {
        self.code().is_some_and(|code| code.code().starts_with(class))
    }
}

impl fmt::Display for Error {
    /// `postgres::Error` alone hides what the server said behind words such as "db error".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match &self.kind {
            Kind::Silent(patience) => {
                return write!(
                    f,
                    "the server said nothing for {} seconds: it seems frozen",
                    patience.as_secs()
                );
            }
            Kind::System(error) => return write!(f, "cannot begin a session: {error}"),
            Kind::Server(error) => error,
        };
        let Some(said) = error.as_db_error() else {
            error.fmt(f)?;
            let mut cause = error.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
            return Ok(());
        };
        write!(f, "{} (SQLSTATE {})", said.message(), said.code().code())?;
        for more in [said.detail(), said.hint()].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        if *said.code() == SqlState::INSUFFICIENT_PRIVILEGE {
            write!(f, "; the role is {}, and `check` shows what it lacks", self.role)?;
        }
        Ok(())
    }
}

// Without a source: the words above tell all of it, and would be said twice.
impl std::error::Error for Error {}
