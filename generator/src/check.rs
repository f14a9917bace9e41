//! `check`: is everything there that a run needs? Changes nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use outbox::Outbox;
use outbox_config::database::connect;
use outbox_config::program::{self, Check};
use outbox_config::{Config, Failure};

use crate::formats::TemplateChoice;
use crate::store::{EventColumns, missing_rights};
use crate::template::Template;
use crate::tools::{definitions, sender, signer, templates};

/// Checks all of it.
pub fn check(config: &Config) -> Result<(), Failure> {
    let checks: [Check; 6] = [
        ("sender", check_sender),
        ("key", check_key),
        ("formats", check_formats),
        ("templates", check_templates),
        ("database", check_database),
        ("outbox", check_outbox),
    ];
    program::check(config, &checks)
}

/// The words of a failure; its kind does not matter here.
fn words(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Failed(error) | Failure::Unavailable(error) | Failure::Configuration(error) => {
            error
        }
    }
}

fn check_sender(config: &Config) -> anyhow::Result<String> {
    let sender = sender(config).map_err(words)?;
    Ok(sender.address.as_str().to_owned())
}

fn check_key(config: &Config) -> anyhow::Result<String> {
    Ok(match signer(config.openpgp()?).map_err(words)? {
        None => "mails are not signed (openpgp.always_sign is false)".to_owned(),
        Some(signer) => {
            let until = signer.expires_at();
            let until = until.map_or("never".to_owned(), |until| until.to_string());
            format!("{} signs without asking; expires: {until}", signer.fingerprint())
        }
    })
}

fn check_formats(config: &Config) -> anyhow::Result<String> {
    let formats = definitions(config).map_err(words)?.formats().count();
    Ok(format!("{formats} in {}", config.script_directory()?.display()))
}

/// Every file in the template folder is a template, and every template that a format names is
/// there.
fn check_templates(config: &Config) -> anyhow::Result<String> {
    let folder = config.template_dir()?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in template_names(folder)? {
        match Template::load(folder, &name) {
            Ok(_) => count += 1,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let mut templates = templates(config).map_err(words)?;
    for choice in definitions(config).map_err(words)?.templates() {
        if let (TemplateChoice::Named(_), Err(error)) = (choice, templates.get(choice)) {
            wrong.push(error.to_string());
        }
    }
    if wrong.is_empty() {
        return Ok(format!("{count} in {}", folder.display()));
    }
    bail!("{}", wrong.join("; "))
}

/// The files right in the folder, but hidden ones.
fn template_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn check_database(config: &Config) -> anyhow::Result<String> {
    let settings = &config.database()?.event;
    let mut client = connect(settings, "outbox-generator", Duration::from_secs(30))?;
    let missing = missing_rights(&mut client)?;
    if !missing.is_empty() {
        bail!("{} lacks rights: {}", settings.username, missing.join(" "));
    }
    let columns = EventColumns::read(&mut client)?;
    let definitions = definitions(config).map_err(words)?;
    let lacking: Vec<String> = definitions
        .fields()
        .into_iter()
        .filter(|field| !columns.has(field))
        .map(ToString::to_string)
        .collect();
    if !lacking.is_empty() {
        bail!("the table events lacks columns that formats show: {}", lacking.join(", "));
    }
    Ok(format!("{} as {}", settings.name, settings.username))
}

fn check_outbox(config: &Config) -> anyhow::Result<String> {
    let outbox = Outbox::open(&config.outbox.path).map_err(|error| anyhow!("failed to {error}"))?;
    let claims = outbox.claims().map_err(|error| anyhow!("failed to {error}"))?;
    let directives = claims.directives.len();
    Ok(format!("{}; it claims {directives} directives", outbox.root().display()))
}
