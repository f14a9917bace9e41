//! How a program ends when it can't do its work: the exit codes, told by kind.

use std::fmt;
use std::process::ExitCode;

/// Why a program ended. The codes of 64 and more are those of sysexits.h.
#[derive(Debug)]
pub enum Failure {
    /// It ran, but something failed that it could not go on from.
    Failed(anyhow::Error),
    /// Something it needs is not there now: the database, the outbox. Trying later can help.
    Unavailable(anyhow::Error),
    /// The configuration is wrong. Trying later does not help.
    Configuration(anyhow::Error),
    /// It was called in a way that makes no sense.
    Usage(anyhow::Error),
}

impl Failure {
    /// [`Failure::Unavailable`] for an error of another crate.
    pub fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(anyhow::Error::new(error))
    }

    /// What went wrong, its kind forgotten.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Self::Failed(error)
            | Self::Unavailable(error)
            | Self::Configuration(error)
            | Self::Usage(error) => error,
        }
    }

    /// What the program's process ends with: 1, 2, 75 or 78.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unavailable(_) => 75,
            Self::Configuration(_) => 78,
        })
    }

    /// What went wrong, with its causes.
    pub fn error(&self) -> &anyhow::Error {
        match self {
            Self::Failed(error)
            | Self::Unavailable(error)
            | Self::Configuration(error)
            | Self::Usage(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error())
    }
}

impl From<crate::ConfigError> for Failure {
    fn from(error: crate::ConfigError) -> Self {
        Self::Configuration(error.into())
    }
}
