//! What can go wrong with format definitions.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::plan::FormatName;

/// Why the definitions can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder can't be read.
    #[error("failed to read the folder of format definitions {}", path.display())]
    Folder {
        /// `script_directory` of the configuration.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The folder was read, and this is wrong in its files.
    #[error("failed to read the format definitions: {}", Listed(.0))]
    Definitions(Vec<Problem>),
}

/// One thing that is wrong in a definition file, shown as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, with its folder.
    pub file: PathBuf,
    /// Line and column, both from 1, the column in characters; `None` for the file as a whole.
    pub position: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Why the definitions can't say what becomes of a group.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// A rule asks for the age of the observation, and the group does not say when that was.
    #[error(
        "failed to decide by the format {format}: `observation_younger_than` needs `time.observation` in \
         the aggregate identifier, and there is none"
    )]
    NoObservation {
        /// Whose rule asked.
        format: FormatName,
    },

    /// A rule asks for the age of the observation, and what the group says is no time.
    #[error(
        "failed to decide by the format {format}: `observation_younger_than` can't read \
         `time.observation` {value:?} of the aggregate identifier"
    )]
    Observation {
        /// Whose rule asked.
        format: FormatName,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        source: jiff::Error,
    },

    /// A script failed, or refuses the group.
    #[error("the script {script}: {reason}")]
    Script {
        /// The script's file.
        script: String,
        /// What happened.
        reason: String,
    },

    /// What a script asked for can't be had now, nor can anything else.
    #[error("cannot give the script {script} what it asked for: {error:#}")]
    Unavailable {
        /// The script's file.
        script: String,
        /// Why.
        error: anyhow::Error,
    },
}
