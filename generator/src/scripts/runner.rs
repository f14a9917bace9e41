//! The runner: a Python process that runs scripts written for Mailgen. Its program is part of this
//! one, and given to it through its standard input.

use std::io;
use std::process::Command;

use outbox_config::ScriptSettings;
use serde_json::json;
use tracing::Level;

use super::process::Process;

const LOADER: &str = include_str!("../../python/loader.py");
const RUNNER: &str = include_str!("../../python/runner.py");
/// What scripts import, each behind what it imports itself.
const MODULES: [(&str, &str); 4] = [
    ("intelmqmail", include_str!("../../python/intelmqmail/__init__.py")),
    ("intelmqmail.templates", include_str!("../../python/intelmqmail/templates.py")),
    ("intelmqmail.tableformat", include_str!("../../python/intelmqmail/tableformat.py")),
    ("intelmqmail.notification", include_str!("../../python/intelmqmail/notification.py")),
];

/// Starts it, without a script. `-I` keeps modules of the folder that the run was started in away.
pub(super) fn start(settings: &ScriptSettings) -> io::Result<Process> {
    let mut command = Command::new(&settings.python);
    command.args(["-I", "-X", "utf8", "-c", LOADER]);
    let mut process = Process::start(&mut command, settings.timeout).map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", settings.python.display()))
    })?;
    let sources = json!({ "runner": RUNNER, "modules": MODULES });
    let level = if tracing::enabled!(Level::DEBUG) {
        "DEBUG"
    } else if tracing::enabled!(Level::INFO) {
        "INFO"
    } else if tracing::enabled!(Level::WARN) {
        "WARNING"
    } else {
        "ERROR"
    };
    process.reply(sources.to_string().as_bytes());
    let start = json!({ "start": { "config": settings.given_to_scripts(), "level": level } });
    process.reply(start.to_string().as_bytes());
    Ok(process)
}

/// What it is told to load a script.
pub(super) fn load(path: &str) -> Vec<u8> {
    json!({ "load": path }).to_string().into_bytes()
}
