//! `check`: is everything there that a run needs? Changes nothing.

mod definitions;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outbox::Outbox;
use outbox_config::database::{Client, Silence, connect, give_up};
use outbox_config::program::{Check, Findings};
use outbox_config::{Config, Failure};

use crate::store::{Scope, check_scope, missing_rights};
use crate::template::Template;
use crate::tools::{
    claims, definitions, destinations, envelope_from, openpgp, reporter, scripts as load_scripts,
    sender, templates,
};

/// Checks all of it.
pub fn check(config: &Config) -> Result<(), Failure> {
    let checks: [Check<'_>; 6] = [
        ("sender", Box::new(check_sender)),
        ("key", Box::new(check_key)),
        ("formats", Box::new(check_formats)),
        ("templates", Box::new(check_templates)),
        ("database", Box::new(check_database)),
        ("outbox", Box::new(check_outbox)),
    ];
    let mut findings = Findings::default();
    findings.look_at(config, &checks)?;
    definitions::look_at(config, &mut findings)?;
    // An outbox that can't be opened was told about above.
    let outbox = Outbox::open(&config.outbox.path);
    for wrong in outbox.and_then(|outbox| outbox.wrong_permissions()).unwrap_or_default() {
        findings.wrong("outbox", &wrong)?;
    }
    findings.end()
}

fn check_sender(config: &Config) -> anyhow::Result<String> {
    let sender = sender(config).map_err(Failure::into_error)?;
    let envelope_from = envelope_from(config, &sender).map_err(Failure::into_error)?;
    reporter(config, &sender).map_err(Failure::into_error)?;
    let destinations =
        destinations(config, &sender, &envelope_from).map_err(Failure::into_error)?;
    let sender = sender.address;
    Ok(match destinations.redirect_to() {
        None => sender.to_string(),
        Some(to) => {
            destinations.of(to).context("review.redirect_to")?;
            let to: Vec<_> = to.iter().map(ToString::to_string).collect();
            format!("{sender}; all mails go to {} (review.redirect_to)", to.join(", "))
        }
    })
}

fn check_key(config: &Config) -> anyhow::Result<String> {
    let sender = sender(config).map_err(Failure::into_error)?;
    let mut openpgp = openpgp(config, &sender.address).map_err(Failure::into_error)?;
    openpgp.report(config.openpgp()?, outbox::now())
}

fn check_formats(config: &Config) -> anyhow::Result<String> {
    let definitions = definitions(config).map_err(Failure::into_error)?;
    let ignored: Vec<_> =
        definitions.ignored().iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let ignored = match ignored.as_slice() {
        [] => String::new(),
        files => {
            format!("; neither definitions nor scripts, and so not used: {}", files.join(", "))
        }
    };
    let formats = definitions.formats().count();
    let scripts = definitions.scripts().count();
    let folder = config.script_directory()?.display();
    if formats + scripts == 0 {
        bail!(
            "there is no format definition (NN-name.toml) or script in {folder} \
             (script_directory){ignored}"
        );
    }
    load_scripts(&definitions, config).map_err(Failure::into_error)?;
    let scripts = if scripts == 0 { String::new() } else { format!(" and {scripts} scripts") };
    Ok(format!("{formats}{scripts} in {folder}{ignored}"))
}

/// Every file in the template folder is a template, and every template that a format names is
/// there.
fn check_templates(config: &Config) -> anyhow::Result<String> {
    let folder = config.template_dir()?;
    let mut wrong = BTreeSet::new();
    let mut count = 0;
    for name in template_names(folder)? {
        match Template::load(folder, &name) {
            Ok(_) => count += 1,
            Err(error) => _ = wrong.insert(format!("{:#}", anyhow::Error::new(error))),
        }
    }
    let mut templates = templates(config).map_err(Failure::into_error)?;
    // What is wrong with the definitions themselves was told above.
    let definitions = definitions(config).ok();
    if let Some(definitions) = &definitions {
        let named = definitions.templates().filter_map(|choice| templates.get(choice).err());
        wrong.extend(named.map(|error| format!("{:#}", anyhow::Error::new(error))));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.into_iter().collect::<Vec<_>>().join("; "));
    }
    // Directives and scripts may name templates in folders below, which are not read here.
    let none = count == 0 && !has_folder(folder)?;
    if none && definitions.is_none_or(|definitions| definitions.use_directives_templates()) {
        bail!("there is no template in {} (template_dir)", folder.display());
    }
    Ok(format!("{count} in {}", folder.display()))
}

/// Whether there are folders in the folder.
fn has_folder(folder: &Path) -> anyhow::Result<bool> {
    let cannot = || format!("cannot read the template folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        if entry.with_context(cannot)?.path().is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files right in the folder, but hidden ones.
fn template_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot read the template folder {}", folder.display());
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

/// A connection on which a person waits.
fn open_database(config: &Config) -> anyhow::Result<Client> {
    connect(
        &config.database()?.event,
        "outbox-generator",
        Duration::from_secs(30),
        Silence::Ends(give_up),
    )
}

fn check_database(config: &Config) -> anyhow::Result<String> {
    let settings = &config.database()?.event;
    let mut client = open_database(config)?;
    let missing = missing_rights(&mut client)?;
    if !missing.is_empty() {
        bail!("{} lacks rights: {}", settings.username, missing.join(" "));
    }
    let claims = Outbox::open(&config.outbox.path).ok().and_then(|outbox| outbox.claims().ok());
    // An outbox that can't be read is told about below.
    let scope = Scope::of(config)?;
    check_scope(&mut client, scope, &claims.unwrap_or_default()).map_err(Failure::into_error)?;
    let shard = scope.shard();
    let which = if shard.is_all() { String::new() } else { format!(", {shard}") };
    Ok(format!("{} as {}{which}", settings.name, settings.username))
}

fn check_outbox(config: &Config) -> anyhow::Result<String> {
    let outbox = Outbox::open(&config.outbox.path)?;
    outbox.check_writable(&["tmp", "new", "sidecar"])?;
    let claims = claims(&outbox).map_err(Failure::into_error)?;
    let directives = claims.directives.len();
    let room = outbox.room()?;
    let room = config.outbox.room_for_mails(room.octets, room.files)?;
    Ok(format!("{} claims {directives} directives; {room}", outbox.root().display()))
}
