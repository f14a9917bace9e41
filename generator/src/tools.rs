//! What a run works with: sender, formats, templates, key; all found and checked before any mail.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, anyhow};
use outbox::{Claims, Outbox, now};
use outbox_config::{Config, Failure};
use tracing::warn;

use crate::address::{Address, EnvelopeFrom, Mailbox};
use crate::destination::Destinations;
use crate::formats::{Definitions, TemplateChoice};
use crate::openpgp::OpenPgp;
use crate::scripts::Scripts;
use crate::template::{Template, TemplateError};
use crate::xarf::Reporter;

/// Everything that a run needs besides database and outbox.
pub struct Tools {
    /// The `From` field.
    pub sender: Mailbox,
    /// Who reports, in X-ARF.
    pub reporter: Reporter,
    /// The envelope's reverse-path.
    pub envelope_from: EnvelopeFrom,
    /// Where mails may go.
    pub destinations: Destinations,
    /// How large a mail may be, in octets.
    pub max_mail_size: Option<u64>,
    /// The format definitions.
    pub definitions: Definitions,
    /// The scripts among them.
    pub scripts: Scripts,
    /// The templates.
    pub templates: Templates,
    /// The keys, and what they are used for.
    pub openpgp: OpenPgp,
}

impl Tools {
    /// Finds them all. Whatever is wrong is the configuration's fault.
    pub fn load(config: &Config) -> Result<Self, Failure> {
        let without_key = Self::without_key(config)?;
        let openpgp = openpgp(config, &without_key.sender.address)?;
        if let Some(signer) = openpgp.signer()
            && let Some(until) = signer.expires_soon(now())
        {
            let key = signer.fingerprint();
            warn!(
                key,
                %until,
                "the OpenPGP key that signs expires soon; extend it (gpg --quick-set-expire) and \
                 publish it again"
            );
        }
        let tools = Self { openpgp, ..without_key };
        if let Some(to) = tools.destinations.redirect_to() {
            let to: Vec<_> = to.iter().map(Address::as_str).collect();
            let to = to.join(", ");
            warn!(%to, "review.redirect_to is set: no mail goes to its recipients");
        }
        Ok(tools)
    }

    /// Finds all but the key, for who does not sign.
    pub fn without_key(config: &Config) -> Result<Self, Failure> {
        let sender = sender(config)?;
        let envelope_from = envelope_from(config, &sender)?;
        let definitions = definitions(config)?;
        for path in definitions.ignored() {
            let path = path.to_string_lossy();
            warn!(
                %path,
                "neither a format definition (NN-name.toml) nor a script (NN*.py, or NN-name that may \
                 be executed), takes no part"
            );
        }
        Ok(Self {
            reporter: reporter(config, &sender)?,
            destinations: destinations(config, &sender, &envelope_from)?,
            max_mail_size: config.outbox.max_mail_size,
            envelope_from,
            sender,
            scripts: scripts(&definitions, config)?,
            definitions,
            templates: templates(config)?,
            openpgp: OpenPgp::to_look(config.openpgp.as_ref()),
        })
    }
}

/// The configured sender.
pub fn sender(config: &Config) -> Result<Mailbox, Failure> {
    config.sender()?.parse().context("sender in the configuration").map_err(Failure::Configuration)
}

/// The envelope's reverse-path: configured, or the sender.
pub fn envelope_from(config: &Config, sender: &Mailbox) -> Result<EnvelopeFrom, Failure> {
    match &config.envelope_from {
        None => Ok(EnvelopeFrom::from(&sender.address)),
        Some(text) => text
            .parse()
            .context("envelope_from in the configuration")
            .map_err(Failure::Configuration),
    }
}

/// Who reports, in X-ARF: as configured, or the sender.
pub fn reporter(config: &Config, sender: &Mailbox) -> Result<Reporter, Failure> {
    Reporter::new(sender, &config.xarf, config.xarf_reportdomain.as_deref())
        .map_err(|(key, reason)| anyhow!("{key} in the configuration: {reason}"))
        .map_err(Failure::Configuration)
}

/// Where mails may go.
pub fn destinations(
    config: &Config,
    sender: &Mailbox,
    envelope_from: &EnvelopeFrom,
) -> Result<Destinations, Failure> {
    Destinations::new(&config.review, &sender.address, envelope_from)
        .context("review.redirect_to in the configuration")
        .map_err(Failure::Configuration)
}

/// The format definitions.
pub fn definitions(config: &Config) -> Result<Definitions, Failure> {
    Definitions::load(config.script_directory()?)
        .map_err(anyhow::Error::new)
        .map_err(Failure::Configuration)
}

/// The scripts, those in Python loaded.
pub fn scripts(definitions: &Definitions, config: &Config) -> Result<Scripts, Failure> {
    Scripts::load(definitions, config).map_err(anyhow::Error::new).map_err(Failure::Configuration)
}

/// The templates. Their folder must be there; they are read when they are asked for.
pub fn templates(config: &Config) -> Result<Templates, Failure> {
    let folder = config.template_dir()?;
    std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the template folder {}", folder.display()))
        .map_err(Failure::Configuration)?;
    Ok(Templates { folder: folder.to_owned(), read: HashMap::new() })
}

/// What the outbox claims. To be read **before** the database is asked what is pending: the
/// deliverer removes a claim only after the database knows.
pub fn claims(outbox: &Outbox) -> Result<Claims, Failure> {
    outbox.claims().map_err(|error| {
        Failure::Failed(anyhow!(
            "{error}; what it claims is not known, so nothing is written until it is \
             mended or moved away (its directives are then written anew)"
        ))
    })
}

/// The keys. One that can't sign without asking, or an Autocrypt header that can't be, is an error
/// here.
pub fn openpgp(config: &Config, sender: &Address) -> Result<OpenPgp, Failure> {
    OpenPgp::open(config.openpgp()?, sender).map_err(|error| Failure::Configuration(error.into()))
}

/// Templates, each read once.
pub struct Templates {
    folder: PathBuf,
    read: HashMap<String, Rc<Template>>,
}

impl Templates {
    /// The template that a plan chose.
    pub fn get(&mut self, choice: &TemplateChoice) -> Result<Rc<Template>, TemplateError> {
        match choice {
            TemplateChoice::Inline { subject, body } => {
                Template::from_parts(&subject.place(), &subject.text, &body.text).map(Rc::new)
            }
            TemplateChoice::Named(name) => {
                if let Some(template) = self.read.get(name) {
                    return Ok(Rc::clone(template));
                }
                let template = Rc::new(Template::load(&self.folder, name)?);
                self.read.insert(name.clone(), Rc::clone(&template));
                Ok(template)
            }
        }
    }
}
