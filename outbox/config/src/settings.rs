//! The settings, as types.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::Level;

use crate::{ConfigError, Rate, Secret, duration, size};

/// A key whose value can't be, and why.
type Wrong = (&'static str, &'static str);

/// The whole configuration. A section that a program needs and does not find is an error of the
/// function that asks for it, since the other program may not need it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The files this came from, in the order read.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    /// The file that was asked for.
    #[serde(skip)]
    pub(crate) given: Option<PathBuf>,
    /// How mails are signed.
    pub openpgp: Option<OpenPgpSettings>,
    /// Where events and directives are.
    pub database: Option<DatabaseSection>,
    /// The folder of mail templates.
    pub template_dir: Option<PathBuf>,
    /// The folder of format definitions.
    pub script_directory: Option<PathBuf>,
    /// The `From` field: an address, with a display name or without.
    pub sender: Option<String>,
    /// The reverse-path of the envelope; `{ticket}` in it is replaced.
    pub envelope_from: Option<String>,
    /// The relays, in the order in which they are asked.
    #[serde(default, deserialize_with = "relays")]
    pub smtp: Vec<SmtpSettings>,
    /// The least severe level that is logged.
    #[serde(default = "default_level", deserialize_with = "level")]
    pub logging_level: Level,
    /// Where the outbox is.
    #[serde(default)]
    pub outbox: OutboxSettings,
    /// How the deliverer goes about its work.
    #[serde(default)]
    pub delivery: DeliverySettings,
    /// Which share of the groups is the generator's, where several hosts work on one database.
    #[serde(default)]
    pub shard: ShardSettings,
    /// Whether a person looks at mails first.
    #[serde(default)]
    pub review: ReviewSettings,
    /// Where the deliverer's numbers go.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// How scripts that decide on mails are run.
    #[serde(default)]
    pub scripts: ScriptSettings,
    /// Of Mailgen's X-ARF scripts; not used.
    #[serde(default, rename = "xarf_schemacache")]
    _xarf_schemacache: Option<String>,
    /// The domain of X-ARF reports' identifications; the sender's if missing.
    pub xarf_reportdomain: Option<String>,
    /// Who reports, in X-ARF.
    #[serde(default)]
    pub xarf: XarfSettings,
}

/// Section `xarf`. What is missing is as `sender` says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XarfSettings {
    /// The name of the organisation that reports.
    pub org: Option<String>,
    /// A mail address where it can be asked.
    pub contact: Option<String>,
    /// Its domain.
    pub domain: Option<String>,
}

/// Section `openpgp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenPgpSettings {
    /// Whether mails are signed.
    pub always_sign: bool,
    /// The GnuPG home folder; GnuPG's default if missing.
    pub gnupg_home: Option<PathBuf>,
    /// The key that signs, best named by its fingerprint.
    pub signing_key: Option<String>,
    /// Whether mails are encrypted, where neither format nor recipient has a rule of its own.
    #[serde(default)]
    pub encrypt: Encrypt,
    /// Whether mails to these recipients are encrypted.
    #[serde(default)]
    pub encrypt_for: EncryptFor,
    /// Whether signature and encryption cover the header as well (RFC 9788).
    #[serde(default)]
    pub protected_headers: bool,
    /// Whether mails carry the key that signs them (Autocrypt).
    #[serde(default)]
    pub autocrypt: bool,
}

impl OpenPgpSettings {
    fn check(&self) -> Result<(), Wrong> {
        if self.autocrypt && !self.always_sign {
            return Err((
                "openpgp.autocrypt",
                "needs openpgp.always_sign: it is the key that signs which mails carry",
            ));
        }
        for (key, list) in self.encrypt_for.lists() {
            if !list.iter().all(|text| can_be_an_address(text)) {
                return Err((
                    key,
                    "must list addresses, with * as a wildcard: \"*@ministry.example\"; other texts \
                     would fit no recipient",
                ));
            }
        }
        Ok(())
    }
}

/// Whether a mail is encrypted. The last is the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encrypt {
    /// It is not.
    #[default]
    Never,
    /// It is, if there is a key for each of its recipients.
    IfKey,
    /// It is, or it is not sent.
    Always,
}

/// Section `openpgp.encrypt_for`: recipients' addresses, with `*` as a wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct EncryptFor {
    /// Whose mails are encrypted or not sent.
    pub always: Vec<String>,
    /// Whose mails are encrypted if there is a key.
    pub if_key: Vec<String>,
    /// Whose mails are not encrypted.
    pub never: Vec<String>,
}

impl EncryptFor {
    /// The lists by their keys.
    fn lists(&self) -> [(&'static str, &[String]); 3] {
        [
            ("openpgp.encrypt_for.always", &self.always),
            ("openpgp.encrypt_for.if-key", &self.if_key),
            ("openpgp.encrypt_for.never", &self.never),
        ]
    }
}

/// Whether an address can be as this pattern says.
fn can_be_an_address(pattern: &str) -> bool {
    let complete = match pattern.rsplit_once('@') {
        Some((local, domain)) => !local.is_empty() && !domain.is_empty(),
        None => pattern.contains('*'),
    };
    complete && !pattern.contains(char::is_whitespace)
}

/// Section `database`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSection {
    /// How to connect.
    pub event: DatabaseSettings,
    /// An SQL condition that pending directives must meet besides.
    pub additional_directive_where: Option<String>,
}

/// Section `database.event`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// The database's name.
    pub name: String,
    /// The PostgreSQL role to log in as.
    pub username: String,
    /// Its password.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Host name, address, or the folder of the server's Unix socket. Missing: the usual socket.
    pub host: Option<String>,
    /// Port.
    #[serde(default, deserialize_with = "port")]
    pub port: Option<u16>,
    /// Whether the connection is encrypted, and what of the server's certificate is checked.
    #[serde(default)]
    pub sslmode: SslMode,
    /// The authorities that may have signed it, PEM; the system's if missing.
    pub sslrootcert: Option<PathBuf>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server offers it, unchecked.
    #[default]
    Prefer,
    /// TLS; the certificate is checked against `sslrootcert` if that is given.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this host.
    VerifyFull,
}

/// Section `smtp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Host name or address.
    pub host: String,
    /// Port. Missing: 25, 587 or 465 by `tls`.
    #[serde(default, deserialize_with = "port")]
    pub port: Option<u16>,
    /// Missing: `none` for a loopback host, `starttls` for any other.
    pub tls: Option<SmtpTls>,
    /// The authorities that may have signed the relay's certificate, PEM; the system's if missing.
    pub ca_file: Option<PathBuf>,
    /// Who to log in as.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// How long the relay may take for what.
    #[serde(default)]
    pub timeouts: SmtpTimeouts,
}

/// Section `smtp.timeouts`. Each is for a step as a whole, however much comes meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SmtpTimeouts {
    /// To look up the name and to connect, over all of the relay's addresses.
    #[serde(deserialize_with = "duration::deserialize")]
    pub connect: Duration,
    /// For the greeting.
    #[serde(deserialize_with = "duration::deserialize")]
    pub greeting: Duration,
    /// For the reply to each command, and for the TLS handshake.
    #[serde(deserialize_with = "duration::deserialize")]
    pub command: Duration,
    /// For the replies to all commands of a mail's envelope together, beside what each recipient adds.
    #[serde(deserialize_with = "duration::deserialize")]
    pub envelope: Duration,
    /// To take the message, beside what its size allows.
    #[serde(deserialize_with = "duration::deserialize")]
    pub data: Duration,
    /// For the reply to the final dot.
    #[serde(deserialize_with = "duration::deserialize")]
    pub final_dot: Duration,
    /// For QUIT as a whole.
    #[serde(deserialize_with = "duration::deserialize")]
    pub quit: Duration,
}

impl SmtpTimeouts {
    /// How long RFC 5321 (section 4.5.3.2.6) wants the reply to the final dot to be waited for: who gives up sooner
    /// sends mails again that the relay has.
    pub const FINAL_DOT: Duration = Duration::from_secs(600);

    fn check(&self) -> Result<(), Wrong> {
        for (key, timeout) in [
            ("smtp.timeouts.connect", self.connect),
            ("smtp.timeouts.greeting", self.greeting),
            ("smtp.timeouts.command", self.command),
            ("smtp.timeouts.envelope", self.envelope),
            ("smtp.timeouts.data", self.data),
            ("smtp.timeouts.final_dot", self.final_dot),
            ("smtp.timeouts.quit", self.quit),
        ] {
            if timeout.is_zero() {
                return Err((key, "must be longer than zero"));
            }
        }
        Ok(())
    }
}

impl Default for SmtpTimeouts {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            connect: Duration::from_secs(30),
            greeting: 5 * MINUTE,
            command: 5 * MINUTE,
            envelope: 10 * MINUTE,
            data: 3 * MINUTE,
            final_dot: Self::FINAL_DOT,
            quit: Duration::from_secs(5),
        }
    }
}

/// How the connection to the relay is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// Not.
    None,
    /// By STARTTLS (RFC 3207), which must be offered.
    StartTls,
    /// From the first octet (RFC 8314).
    Implicit,
}

impl SmtpSettings {
    /// The host without the brackets that an IPv6 address may stand in.
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether the host is this one, by name or address.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .bare_host()
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// How the connection is encrypted.
    pub fn tls(&self) -> SmtpTls {
        let default = if self.is_loopback() { SmtpTls::None } else { SmtpTls::StartTls };
        self.tls.unwrap_or(default)
    }

    /// The port, as given or usual.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls() {
            SmtpTls::None => 25,
            SmtpTls::StartTls => 587,
            SmtpTls::Implicit => 465,
        })
    }

    /// Name and password to log in with, if any is configured. One without the other is an error.
    pub fn login(&self) -> Result<Option<(&str, Secret)>, ConfigError> {
        let password = password(
            self.password.as_ref(),
            self.password_file.as_deref(),
            "smtp.password_file",
            "OUTBOX_SMTP_PASSWORD",
            &format!("the relay {}", self.host),
        )?;
        // There may be several.
        let files = || format!("the configuration of the relay {}", self.host);
        let lacks = |key, why| ConfigError::Missing { files: files(), key, why };
        match (&self.username, password) {
            (Some(name), Some(password)) => Ok(Some((name, password))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(lacks("smtp.password", "smtp.username is there, and a login needs both"))
            }
            (None, Some(_)) => {
                Err(lacks("smtp.username", "a password is there, and a login needs both"))
            }
        }
    }
}

impl DatabaseSettings {
    /// The password, wherever it comes from.
    pub fn password(&self) -> Result<Option<Secret>, ConfigError> {
        password(
            self.password.as_ref(),
            self.password_file.as_deref(),
            "database.event.password_file",
            "OUTBOX_DATABASE_PASSWORD",
            "the database",
        )
    }
}

/// The password of the file named, else the one given, else that of the environment. A file
/// named without a folder is a systemd credential.
fn password(
    given: Option<&Secret>,
    file: Option<&Path>,
    key: &str,
    variable: &str,
    whose: &str,
) -> Result<Option<Secret>, ConfigError> {
    let Some(file) = file else {
        return Ok(given.cloned().or_else(|| std::env::var(variable).ok().map(Secret::new)));
    };
    let path = match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(folder) if file.components().count() == 1 => Path::new(&folder).join(file),
        _ => file.to_owned(),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n'])))),
        Err(error) => Err(ConfigError::Key {
            file: path,
            key: key.to_owned(),
            reason: format!("cannot read the password for {whose}: {error}"),
        }),
    }
}

/// Section `outbox`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxSettings {
    /// The folder.
    pub path: PathBuf,
    /// How much of its file system must be free for mails to be written, in octets.
    #[serde(deserialize_with = "size::deserialize")]
    pub min_free: u64,
    /// How many files more its file system must have room for.
    pub min_free_inodes: u64,
    /// How large a mail may be, in octets. No limit if missing.
    #[serde(deserialize_with = "size::deserialize_option")]
    pub max_mail_size: Option<u64>,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            path: "/var/spool/intelmq-outbox".into(),
            min_free: 100 << 20,
            min_free_inodes: 1000,
            max_mail_size: None,
        }
    }
}

/// Section `delivery`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliverySettings {
    /// How many connections to a relay there are at most at the same time.
    pub connections: NonZeroUsize,
    /// How many mails go over one connection before it is closed.
    pub mails_per_connection: NonZeroU32,
    /// After how long a connection is closed, once its mail is through.
    #[serde(deserialize_with = "duration::deserialize")]
    pub connection_age: Duration,
    /// How many mails are offered to the relays at most, in how long a time; no limit if missing.
    pub rate: Option<Rate>,
    /// How old a mail must be before it is relayed: the time a person has to look at it.
    #[serde(deserialize_with = "duration::deserialize")]
    pub minimum_age: Duration,
    /// How long to wait after the first temporary refusal; doubled after each further one.
    #[serde(deserialize_with = "duration::deserialize")]
    pub retry_min: Duration,
    /// How long to wait at most.
    #[serde(deserialize_with = "duration::deserialize")]
    pub retry_max: Duration,
    /// How long after its first attempt a mail is given up, and held.
    #[serde(deserialize_with = "duration::deserialize")]
    pub expire_after: Duration,
    /// How long relayed mails stay in the archive; zero keeps none.
    #[serde(deserialize_with = "duration::deserialize")]
    pub archive_for: Duration,
    /// How large the archive may become, in octets; the oldest mails go first. No limit if missing.
    #[serde(deserialize_with = "size::deserialize_option")]
    pub archive_size: Option<u64>,
    /// How many mails may be relayed while the database does not take their marks.
    pub unmarked_limit: usize,
    /// What to do with a mail that the relay may have taken without saying so.
    pub uncertain: Uncertain,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self {
            connections: NonZeroUsize::new(4).expect("4 is not zero"),
            mails_per_connection: NonZeroU32::new(100).expect("100 is not zero"),
            connection_age: Duration::from_secs(300),
            rate: None,
            minimum_age: Duration::ZERO,
            retry_min: Duration::from_secs(300),
            retry_max: hours(4),
            expire_after: hours(5 * 24),
            archive_for: hours(30 * 24),
            archive_size: None,
            unmarked_limit: 1000,
            uncertain: Uncertain::Resend,
        }
    }
}

/// What to do with a mail that the relay may have taken without saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uncertain {
    /// Send it again: the same bytes with the same Message-ID.
    Resend,
    /// Hold it for a person.
    Hold,
}

/// Section `shard`. Both keys or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardSettings {
    /// Which of the shares, from 0.
    pub index: u32,
    /// How many shares there are.
    pub count: u32,
}

impl ShardSettings {
    /// More hosts are none; the limit keeps a slip of the pen from leaving groups to nobody.
    const MOST: u32 = 1024;

    fn check(self) -> Result<(), Wrong> {
        if !(1..=Self::MOST).contains(&self.count) {
            return Err((
                "shard.count",
                "must be a number from 1 to 1024: how many hosts there are",
            ));
        }
        if self.index >= self.count {
            return Err((
                "shard.index",
                "must be less than shard.count: with a count of 4, the hosts are 0, 1, 2 and 3",
            ));
        }
        Ok(())
    }
}

impl Default for ShardSettings {
    /// One share: all of it.
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

/// Section `review`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReviewSettings {
    /// Whether every new mail is held until a person releases it.
    pub hold_new: bool,
    /// Patterns of addresses, with `*`, to which alone mails are written; any if missing.
    pub only_recipients: Option<Vec<String>>,
    /// An address, or more with commas between, that all mails go to instead of their recipients.
    pub redirect_to: Option<String>,
}

/// Section `scripts`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptSettings {
    /// How long a script may take for a group.
    #[serde(deserialize_with = "duration::deserialize")]
    pub timeout: Duration,
    /// The Python interpreter that runs Mailgen's scripts.
    pub python: PathBuf,
    /// What becomes of a group when a Python script ends with an exception.
    pub on_exception: OnException,
    /// The scripts' own settings, whatever they are.
    pub config: Map<String, Value>,
    /// The whole configuration as it was read, but for passwords.
    #[serde(skip)]
    pub(crate) whole: Map<String, Value>,
}

/// What becomes of a group when a Python script ends with an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnException {
    /// It fails.
    Fail,
    /// The next rule is asked, as Mailgen does.
    Next,
}

impl Default for ScriptSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            python: "python3".into(),
            on_exception: OnException::Fail,
            config: Map::new(),
            whole: Map::new(),
        }
    }
}

/// Scripts' own settings may have passwords in them.
impl std::fmt::Debug for ScriptSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { timeout, python, on_exception, .. } = self;
        f.debug_struct("ScriptSettings")
            .field("timeout", timeout)
            .field("python", python)
            .field("on_exception", on_exception)
            .finish_non_exhaustive()
    }
}

impl ScriptSettings {
    /// What scripts see as the configuration: all of it without passwords, with their own settings
    /// over it.
    pub fn given_to_scripts(&self) -> Value {
        let mut given = self.whole.clone();
        given.extend(self.config.clone());
        Value::Object(given)
    }

    /// Keeps the configuration for scripts.
    pub(crate) fn keep(&mut self, mut whole: Map<String, Value>) {
        whole.remove("scripts");
        let mut whole = Value::Object(whole);
        remove_passwords(&mut whole);
        if let Value::Object(whole) = whole {
            self.whole = whole;
        }
    }
}

fn remove_passwords(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("password");
            map.values_mut().for_each(remove_passwords);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_passwords),
        _ => {}
    }
}

/// Section `metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// The file that Prometheus's node exporter reads.
    pub file: Option<PathBuf>,
    /// The loopback address and port on which Prometheus itself may ask.
    pub listen: Option<SocketAddr>,
}

/// One relay as a section, or several as a list of sections.
fn relays<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<SmtpSettings>, D::Error> {
    struct Relays;

    impl<'de> serde::de::Visitor<'de> for Relays {
        type Value = Vec<SmtpSettings>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a section { … }, or a list of sections")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            let relay = serde::de::value::MapAccessDeserializer::new(map);
            Ok(vec![SmtpSettings::deserialize(relay)?])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list))
        }
    }

    from.deserialize_any(Relays)
}

impl Config {
    /// What can be wrong with values that have the right types.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        let wrong = |key, reason| Err((key, reason));
        if !self.outbox.path.is_absolute() {
            return wrong("outbox.path", "must be an absolute path: both programs must find it");
        }
        let delivery = &self.delivery;
        if delivery.retry_min.is_zero() {
            return wrong("delivery.retry_min", "must be longer than zero");
        }
        if delivery.retry_max < delivery.retry_min {
            return wrong("delivery.retry_max", "must not be shorter than delivery.retry_min");
        }
        if self.scripts.timeout.is_zero() {
            return wrong("scripts.timeout", "must be longer than zero");
        }
        if delivery.unmarked_limit == 0 {
            return wrong("delivery.unmarked_limit", "must be at least 1");
        }
        self.shard.check()?;
        if self.review.only_recipients.as_ref().is_some_and(Vec::is_empty) {
            return wrong("review.only_recipients", "is empty, so that no mail could be written");
        }
        if let Some(address) = self.metrics.listen
            && !address.ip().is_loopback()
        {
            return wrong(
                "metrics.listen",
                "must be a loopback address, as in \"127.0.0.1:9753\": whoever can ask needs no \
                 password",
            );
        }
        if let Some(openpgp) = &self.openpgp {
            openpgp.check()?;
        }
        for relay in &self.smtp {
            relay.timeouts.check()?;
        }
        let in_clear = |smtp: &SmtpSettings| {
            smtp.username.is_some() && smtp.tls() == SmtpTls::None && !smtp.is_loopback()
        };
        if self.smtp.iter().any(in_clear) {
            return wrong(
                "smtp.tls",
                "with a username must be \"starttls\" or \"implicit\", unless the host is a loopback \
                 one: the password would go over the network in clear",
            );
        }
        Ok(())
    }

    /// The value of a key that may be missing in the file but not here.
    fn need<'a, T>(
        &self,
        value: Option<&'a T>,
        key: &'static str,
        why: &'static str,
    ) -> Result<&'a T, ConfigError> {
        let names = self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        value.ok_or_else(|| ConfigError::Missing { files: names.join(", "), key, why })
    }

    /// Section `openpgp`.
    pub fn openpgp(&self) -> Result<&OpenPgpSettings, ConfigError> {
        self.need(self.openpgp.as_ref(), "openpgp", "it says whether and how mails are signed")
    }

    /// Section `database`.
    pub fn database(&self) -> Result<&DatabaseSection, ConfigError> {
        self.need(self.database.as_ref(), "database.event", "it says where the directives are")
    }

    /// The folder of mail templates.
    pub fn template_dir(&self) -> Result<&Path, ConfigError> {
        let dir = self.template_dir.as_ref();
        self.need(dir, "template_dir", "mails are made from templates").map(PathBuf::as_path)
    }

    /// The folder of format definitions.
    pub fn script_directory(&self) -> Result<&Path, ConfigError> {
        let dir = self.script_directory.as_ref();
        self.need(dir, "script_directory", "format definitions say what becomes a mail")
            .map(PathBuf::as_path)
    }

    /// The `From` field.
    pub fn sender(&self) -> Result<&str, ConfigError> {
        self.need(self.sender.as_ref(), "sender", "every mail has a From field").map(String::as_str)
    }

    /// Section `smtp`: one relay or more, in the order in which they are asked.
    pub fn smtp(&self) -> Result<&[SmtpSettings], ConfigError> {
        let relays = Some(&self.smtp).filter(|relays| !relays.is_empty());
        self.need(relays, "smtp.host", "it says which relay takes the mails").map(Vec::as_slice)
    }
}

fn default_level() -> Level {
    Level::INFO
}

/// A port: a number, or text of digits, which Mailgen takes as well.
fn port<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }

    let wrong = || serde::de::Error::custom("must be a number up to 65535");
    match Option::<Port>::deserialize(from).map_err(|_error| wrong())? {
        None => Ok(None),
        Some(Port::Number(port)) => Ok(Some(port)),
        Some(Port::Text(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_error| wrong())
        }
        Some(Port::Text(_)) => Err(wrong()),
    }
}

/// Python's level names, as Mailgen's file has them.
fn level<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Level, D::Error> {
    let name = String::deserialize(from)?;
    match name.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(Level::DEBUG),
        "INFO" => Ok(Level::INFO),
        "WARNING" | "WARN" => Ok(Level::WARN),
        "ERROR" | "CRITICAL" | "FATAL" => Ok(Level::ERROR),
        _ => Err(serde::de::Error::custom(format!(
            "{name:?} is no level: write DEBUG, INFO, WARNING, ERROR or CRITICAL"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn smtp(text: &str) -> SmtpSettings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn without_tls_given_only_a_loopback_relay_is_spoken_to_in_clear() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"] {
            let smtp = smtp(&format!(r#"{{"host": "{host}"}}"#));
            assert_eq!((smtp.tls(), smtp.port()), (SmtpTls::None, 25), "{host}");
        }
        for host in ["mail.cert.example", "192.0.2.1", "localhost.cert.example"] {
            let smtp = smtp(&format!(r#"{{"host": "{host}"}}"#));
            assert_eq!((smtp.tls(), smtp.port()), (SmtpTls::StartTls, 587), "{host}");
        }
        assert_eq!(smtp(r#"{"host": "h", "tls": "implicit"}"#).port(), 465);
        assert_eq!(smtp(r#"{"host": "h", "port": 26}"#).port(), 26);
        assert_eq!(smtp(r#"{"host": "h", "port": null}"#).port(), 587);
    }

    #[test]
    fn a_port_may_be_text_of_digits_as_in_mailgens_file() {
        assert_eq!(smtp(r#"{"host": "h", "port": "26"}"#).port(), 26);
        let database = r#"{"name": "n", "username": "u", "port": "5433"}"#;
        assert_eq!(serde_json::from_str::<DatabaseSettings>(database).unwrap().port, Some(5433));
        for port in [
            r#""""#,
            r#""smtp""#,
            r#"" 25""#,
            r#""+25""#,
            r#""65536""#,
            "65536",
            "-1",
            "25.0",
            "[25]",
            "true",
        ] {
            let text = format!(r#"{{"host": "h", "port": {port}}}"#);
            let error = serde_json::from_str::<SmtpSettings>(&text).unwrap_err().to_string();
            assert!(error.starts_with("must be a number up to 65535"), "{port}: {error}");
        }
    }

    #[test]
    fn a_password_in_clear_over_the_network_is_refused() {
        let text = r#"{"smtp": {"host": "192.0.2.1", "tls": "none", "username": "u"}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.check().unwrap_err().0, "smtp.tls");
    }

    #[test]
    fn a_rule_for_encryption_that_could_fit_nobody_is_refused() {
        let wrong = |list: &str, text: &str| {
            let json = json!({"openpgp": {"always_sign": true, "encrypt_for": {list: [text]}}});
            let config: Config = serde_json::from_value(json).unwrap();
            config.check().err().map(|(key, _)| key)
        };
        for good in ["*", "*@ministry.example", "*.example", "a@*", "abuse@isp.example"] {
            assert_eq!(wrong("always", good), None, "{good}");
        }
        for bad in ["", "ministry.example", "@ministry.example", "a@", "a@b.example ", "C <a@b.c>"]
        {
            assert_eq!(wrong("always", bad), Some("openpgp.encrypt_for.always"), "{bad}");
        }
        assert_eq!(wrong("if-key", "x"), Some("openpgp.encrypt_for.if-key"));
        assert_eq!(wrong("never", "x"), Some("openpgp.encrypt_for.never"));
    }

    #[test]
    fn autocrypt_needs_a_key_that_signs() {
        let text = r#"{"openpgp": {"always_sign": false, "autocrypt": true}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.check().unwrap_err().0, "openpgp.autocrypt");
    }

    #[test]
    fn a_relay_has_some_time_for_each_step() {
        let timeouts = smtp(r#"{"host": "h", "timeouts": {"command": "90s"}}"#).timeouts;
        let default = SmtpTimeouts::default();
        assert_eq!(timeouts, SmtpTimeouts { command: Duration::from_secs(90), ..default });
        let text = r#"{"smtp": [{"host": "a"}, {"host": "b", "timeouts": {"quit": "0s"}}]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.check().unwrap_err().0, "smtp.timeouts.quit");
    }

    #[test]
    fn a_login_needs_name_and_password() {
        let login = |text: &str| smtp(text).login().map(|login| login.is_some());
        let error = login(r#"{"host": "b.example", "username": "u"}"#).unwrap_err().to_string();
        assert!(error.contains("relay b.example: smtp.password is missing"), "{error}");
        assert!(!login(r#"{"host": "h"}"#).unwrap());
        assert!(login(r#"{"host": "h", "username": "u", "password": "p"}"#).unwrap());
        assert!(login(r#"{"host": "h", "username": "u"}"#).is_err());
        assert!(login(r#"{"host": "h", "password": "p"}"#).is_err());
    }

    #[test]
    fn a_password_file_goes_before_the_password_and_loses_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "from file\n").unwrap();
        let given = Secret::new("given");
        let read =
            |file| password(Some(&given), file, "smtp.password_file", "OUTBOX_NO_SUCH", "it");
        assert_eq!(read(Some(&file)).unwrap().unwrap().expose(), "from file");
        assert_eq!(read(None).unwrap().unwrap().expose(), "given");
        let error = read(Some(&folder.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("smtp.password_file"), "{error}");
    }
}
