//! What the rules know of scripts: which files they are, and how one is asked.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::plan::{MailPlan, Texts};
use crate::group::Group;

/// A script in the folder of definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptFile {
    /// The file, with its folder.
    pub path: PathBuf,
    /// Its name, for a person.
    pub name: String,
    /// How it is run.
    pub kind: ScriptKind,
}

/// How a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptKind {
    /// `NN*.py`: by the runner, as Mailgen's scripts are.
    Python,
    /// `NN-name`, a program of its own.
    Executable,
}

impl ScriptFile {
    /// The script that a file is, if it is one by its name and, for a program, its mode.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.as_encoded_bytes();
        if name.len() < 3 || !name[..2].iter().all(u8::is_ascii_digit) {
            return None;
        }
        let file = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let kind = if name.ends_with(b".py") {
            ScriptKind::Python
        } else if name[2] == b'-' && file.permissions().mode() & 0o111 != 0 {
            ScriptKind::Executable
        } else {
            return None;
        };
        let name = String::from_utf8_lossy(name).into_owned();
        Some(Self { path: path.to_owned(), name, kind })
    }
}

/// What a script makes of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not the script's. These texts are for later rules.
    Pass(Texts),
    /// It has to wait.
    Postponed,
    /// These mails, never none; of substitutions, they have what the script itself gave them.
    Mails(Vec<MailPlan>),
}

/// Why a script has no answer.
#[derive(Debug)]
pub enum AskError {
    /// It failed, or refuses the group: why.
    Script(String),
    /// What it asked for can't be had now, nor can anything else.
    Unavailable(anyhow::Error),
}

/// Asks scripts.
pub trait Ask {
    /// Asks a script what becomes of `group` at `now`. `given` are the texts of the rules before it.
    fn ask(
        &mut self,
        script: &ScriptFile,
        group: &Group,
        now: Timestamp,
        given: &Texts,
    ) -> Result<Answer, AskError>;
}

/// For folders without scripts.
#[derive(Clone, Copy, Debug)]
pub struct NoScripts;

impl Ask for NoScripts {
    fn ask(
        &mut self,
        _: &ScriptFile,
        _: &Group,
        _: Timestamp,
        _: &Texts,
    ) -> Result<Answer, AskError> {
        Err(AskError::Script("scripts are not run here".to_owned()))
    }
}
