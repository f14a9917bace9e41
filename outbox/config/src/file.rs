//! From files to settings: two JSON files, merged section by section and checked key by key.
//!
//! The system's file (or the one given) comes first; the user's `~/.intelmq/intelmq-mailgen.conf`
//! lies over it. Within a section, a key of the user's file replaces the same key of the system's
//! whole, as in Mailgen: a section inside a section is one such key.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Config;

/// The file read when none is given.
const SYSTEM_FILE: &str = "/etc/intelmq/intelmq-mailgen.conf";

/// The user's file, below the home folder.
const USER_FILE: &str = ".intelmq/intelmq-mailgen.conf";

/// Every key that the file may hold.
const KEYS: &[&str] = &[
    "openpgp.always_sign",
    "openpgp.gnupg_home",
    "openpgp.signing_key",
    "openpgp.encrypt",
    "openpgp.encrypt_for.always",
    "openpgp.encrypt_for.if-key",
    "openpgp.encrypt_for.never",
    "openpgp.protected_headers",
    "openpgp.autocrypt",
    "database.event.name",
    "database.event.username",
    "database.event.password",
    "database.event.password_file",
    "database.event.host",
    "database.event.port",
    "database.event.sslmode",
    "database.event.sslrootcert",
    "database.additional_directive_where",
    "template_dir",
    "script_directory",
    "sender",
    "envelope_from",
    "smtp.host",
    "smtp.port",
    "smtp.tls",
    "smtp.ca_file",
    "smtp.username",
    "smtp.password",
    "smtp.password_file",
    "smtp.timeouts.connect",
    "smtp.timeouts.greeting",
    "smtp.timeouts.command",
    "smtp.timeouts.envelope",
    "smtp.timeouts.data",
    "smtp.timeouts.final_dot",
    "smtp.timeouts.quit",
    "logging_level",
    "outbox.path",
    "outbox.min_free",
    "outbox.min_free_inodes",
    "outbox.max_mail_size",
    "delivery.connections",
    "delivery.mails_per_connection",
    "delivery.connection_age",
    "delivery.rate",
    "delivery.minimum_age",
    "delivery.retry_min",
    "delivery.retry_max",
    "delivery.expire_after",
    "delivery.archive_for",
    "delivery.archive_size",
    "delivery.unmarked_limit",
    "delivery.uncertain",
    "shard.index",
    "shard.count",
    "review.hold_new",
    "review.only_recipients",
    "review.redirect_to",
    "metrics.file",
    "metrics.listen",
    "scripts.timeout",
    "scripts.python",
    "scripts.on_exception",
    // Whatever scripts make of what is in it.
    "scripts.config",
    "xarf.org",
    "xarf.contact",
    "xarf.domain",
    "xarf_reportdomain",
    // Of Mailgen's X-ARF scripts, accepted so that its file can stay as it is.
    "xarf_schemacache",
];

/// What is wrong with the configuration. The texts name file and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file at all.
    #[error("no configuration found: neither {} nor {} is there", system.display(), user.display())]
    NotFound {
        /// The system's file.
        system: PathBuf,
        /// The user's file.
        user: PathBuf,
    },
    /// A file can't be read.
    #[error("cannot read the configuration {}: {cause}", file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{}:{}:{}: not valid JSON: {cause}", file.display(), cause.line(), cause.column())]
    Json {
        /// Which one.
        file: PathBuf,
        /// What the parser said.
        cause: serde_json::Error,
    },
    /// A key is not known, or its value is not as it must be.
    #[error("{}: {key}: {reason}", file.display())]
    Key {
        /// In which file.
        file: PathBuf,
        /// The key with its sections, dots between.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A key is missing that a program needs.
    #[error("{files}: {key} is missing: {why}")]
    Missing {
        /// The files that were read.
        files: String,
        /// The key with its sections.
        key: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
}

impl Config {
    /// Reads the configuration: `given` or else the system's file, with the user's over it.
    ///
    /// A `given` file must be there. Of the other two, one is enough.
    pub fn load(given: Option<&Path>) -> Result<Self, ConfigError> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        Self::load_from(given, Path::new(SYSTEM_FILE), &home.join(USER_FILE))
    }

    /// Reads the same files again.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        Self::load(self.given.as_deref())
    }

    pub(crate) fn load_from(
        given: Option<&Path>,
        system: &Path,
        user: &Path,
    ) -> Result<Self, ConfigError> {
        let base = given.unwrap_or(system);
        let mut files = Vec::new();
        for file in [base, user] {
            if file.exists() || Some(file) == given {
                files.push((file.to_owned(), read(file)?));
            }
        }
        if files.is_empty() {
            return Err(ConfigError::NotFound { system: base.to_owned(), user: user.to_owned() });
        }
        let merged = files.iter().fold(Map::new(), |merged, (_, file)| merge(merged, file));
        let mut config: Self = serde_path_to_error::deserialize(Value::Object(merged.clone()))
            .map_err(|error| {
                key_error(&files, error.path().to_string(), error.inner().to_string())
            })?;
        config
            .check()
            .map_err(|(key, reason)| key_error(&files, key.to_owned(), reason.to_owned()))?;
        config.scripts.keep(merged);
        config.files = files.into_iter().map(|(file, _)| file).collect();
        config.given = given.map(Path::to_owned);
        Ok(config)
    }
}

/// Reads one file and checks its keys, while it is known which file that is.
fn read(file: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = fs::read_to_string(file)
        .map_err(|cause| ConfigError::Unreadable { file: file.to_owned(), cause })?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|cause| ConfigError::Json { file: file.to_owned(), cause })?;
    let Value::Object(map) = value else {
        let reason = "must hold a JSON object: { \"openpgp\": { … }, … }".to_owned();
        return Err(ConfigError::Key { file: file.to_owned(), key: "the file".into(), reason });
    };
    check_keys(file, "", &map)?;
    Ok(map)
}

fn check_keys(file: &Path, section: &str, map: &Map<String, Value>) -> Result<(), ConfigError> {
    for (name, value) in map {
        let key = format!("{section}{name}");
        if KEYS.contains(&key.as_str()) {
            continue;
        }
        let inside = format!("{key}.");
        let error = |reason| ConfigError::Key { file: file.to_owned(), key: key.clone(), reason };
        match value {
            _ if !KEYS.iter().any(|known| known.starts_with(&inside)) => {
                return Err(error(format!("unknown key; did you mean {}?", nearest(&key))));
            }
            Value::Object(map) => check_keys(file, &inside, map)?,
            // Several relays: each of them is such a section.
            Value::Array(relays) if key == "smtp" && !relays.is_empty() => {
                for relay in relays {
                    let Value::Object(relay) = relay else {
                        return Err(error("must be a list of sections: [ { … }, { … } ]".into()));
                    };
                    check_keys(file, &inside, relay)?;
                }
            }
            Value::Array(_) if key == "smtp" => {
                return Err(error("must name at least one relay".into()));
            }
            _ => return Err(error("must be a section: { … }".into())),
        }
    }
    Ok(())
}

/// The known key that is written most alike, in its own section or, moved there, in another.
fn nearest(key: &str) -> &'static str {
    let name = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let likeness = |known: &str| {
        let whole = strsim::jaro_winkler(known, key);
        let moved = strsim::jaro_winkler(&name(known), &name(key)) - 0.05;
        whole.max(moved)
    };
    KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).expect("there are keys")
}

/// Mailgen's rule: within a section, the later file's keys replace the earlier's.
fn merge(mut base: Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(section)), Value::Object(replacing)) => {
                section.extend(replacing.clone());
            }
            _ => _ = base.insert(key.clone(), value.clone()),
        }
    }
    base
}

/// Names the file that a wrong value came from: the last that has the key, or else its section.
fn key_error(files: &[(PathBuf, Map<String, Value>)], key: String, reason: String) -> ConfigError {
    let mut pointer = format!("/{}", key.replace('[', "/").replace(']', "").replace('.', "/"));
    let holder = loop {
        let holds =
            |map: &Map<String, Value>| Value::Object(map.clone()).pointer(&pointer).is_some();
        if let Some((file, _)) = files.iter().rev().find(|(_, map)| holds(map)) {
            break file;
        }
        match pointer.rfind('/') {
            Some(end) if end > 0 => pointer.truncate(end),
            _ => break &files[0].0,
        }
    };
    ConfigError::Key { file: holder.clone(), key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key, with a value that differs from its default.
    const FULL: &str = r#"{
        "openpgp": { "always_sign": true, "gnupg_home": "/g", "signing_key": "5F50",
                     "encrypt": "if-key",
                     "encrypt_for": { "always": ["*@a.example"], "if-key": ["b@b.example"],
                                      "never": ["*c*"] },
                     "protected_headers": true, "autocrypt": true },
        "database": {
            "event": { "name": "eventdb", "username": "mailgen", "password": "pgpass0",
                       "password_file": "/p", "host": "db.cert.example", "port": 5433,
                       "sslmode": "verify-full", "sslrootcert": "/ca" },
            "additional_directive_where": "d3.template_name = 'x'"
        },
        "template_dir": "/t", "script_directory": "/s",
        "sender": "CERT Example <noreply@cert.example>",
        "envelope_from": "bounce+{ticket}@cert.example",
        "smtp": { "host": "mail.cert.example", "port": 465, "tls": "implicit", "ca_file": "/ca",
                  "username": "u", "password": "smtppass0", "password_file": "/p",
                  "timeouts": { "connect": "1s", "greeting": "2s", "command": "3s", "envelope": "4s",
                                "data": "5s", "final_dot": "6s", "quit": "7s" } },
        "logging_level": "DEBUG",
        "outbox": { "path": "/o", "min_free": "1G", "min_free_inodes": 7, "max_mail_size": "9M" },
        "delivery": { "connections": 2, "mails_per_connection": 3, "connection_age": "1m",
                      "rate": "120/m", "minimum_age": "2m",
                      "retry_min": "1m", "retry_max": "2h", "expire_after": "3d",
                      "archive_for": "4d", "archive_size": "2G", "unmarked_limit": 5,
                      "uncertain": "hold" },
        "review": { "hold_new": true, "only_recipients": ["*@isp.example"],
                    "redirect_to": "test@cert.example" },
        "metrics": { "file": "/m.prom", "listen": "127.0.0.1:9753" },
        "scripts": { "timeout": "5s", "python": "/p", "on_exception": "next", "config": { "own": { "password": "apipass0" } } },
        "xarf": { "org": "CERT", "contact": "reports@cert.example", "domain": "cert.example" },
        "shard": { "index": 1, "count": 2 },
        "xarf_schemacache": "/x", "xarf_reportdomain": "cert.example"
    }"#;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new(system: Option<&str>, user: Option<&str>) -> Self {
            let files = Self { folder: tempfile::tempdir().unwrap() };
            for (name, text) in [("system", system), ("user", user)] {
                if let Some(text) = text {
                    fs::write(files.folder.path().join(name), text).unwrap();
                }
            }
            files
        }

        fn load(&self) -> Result<Config, ConfigError> {
            let folder = self.folder.path();
            Config::load_from(None, &folder.join("system"), &folder.join("user"))
        }

        fn error(&self) -> String {
            self.load().unwrap_err().to_string()
        }
    }

    fn leaves(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) if !KEYS.contains(&prefix.trim_end_matches('.')) => {
                for (key, value) in map {
                    leaves(&format!("{prefix}{key}."), value, found);
                }
            }
            _ => found.push(prefix.trim_end_matches('.').to_owned()),
        }
    }

    #[test]
    fn every_known_key_is_read_and_every_key_that_is_read_is_known() {
        let mut found = Vec::new();
        leaves("", &serde_json::from_str(FULL).unwrap(), &mut found);
        let mut known: Vec<String> = KEYS.iter().map(ToString::to_string).collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
        Files::new(Some(FULL), None).load().unwrap();
    }

    #[test]
    fn no_password_shows_in_a_debug_print() {
        let config = Files::new(Some(FULL), None).load().unwrap();
        let debug = format!("{config:?}");
        assert!(!debug.contains("pgpass0") && !debug.contains("smtppass0"), "{debug}");
        assert!(!debug.contains("apipass0"), "{debug}");
    }

    #[test]
    fn scripts_see_their_own_settings_over_all_others_and_no_password_but_their_own() {
        let files = Files::new(
            Some(FULL),
            Some(
                r#"{ "smtp": [{ "host": "h", "password": "smtppass0" }],
                     "scripts": { "config": { "sender": "own", "token": "t" } } }"#,
            ),
        );
        let given = files.load().unwrap().scripts.given_to_scripts();
        assert_eq!(given["sender"], "own");
        assert_eq!(given["token"], "t");
        assert_eq!(given["template_dir"], "/t");
        assert_eq!(given["database"]["event"]["username"], "mailgen");
        assert_eq!(given["smtp"], serde_json::json!([{ "host": "h" }]));
        assert!(given.get("scripts").is_none());
        assert!(!given.to_string().contains("pass0"), "{given}");
    }

    #[test]
    fn the_users_file_lies_over_the_systems_section_by_section() {
        let files = Files::new(
            Some(FULL),
            Some(r#"{ "openpgp": { "signing_key": "AAAA" }, "sender": "me@cert.example" }"#),
        );
        let config = files.load().unwrap();
        let openpgp = config.openpgp.unwrap();
        assert_eq!(openpgp.signing_key.as_deref(), Some("AAAA"));
        assert_eq!(openpgp.gnupg_home, Some("/g".into()));
        assert_eq!(config.sender.as_deref(), Some("me@cert.example"));
        // One key of the section `database`, so replaced whole.
        let files = Files::new(
            Some(FULL),
            Some(r#"{"database": {"event": {"name": "other", "username": "u"}}}"#),
        );
        let database = files.load().unwrap().database.unwrap();
        assert_eq!(database.event.name, "other");
        assert_eq!(database.event.host, None);
        assert!(database.additional_directive_where.is_some());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_the_nearest_known_one() {
        let cases = [
            (
                r#"{"openpgp": {"allways_sign": true}}"#,
                "openpgp.allways_sign",
                "openpgp.always_sign",
            ),
            (r#"{"gnupg_home": "/g"}"#, "gnupg_home", "openpgp.gnupg_home"),
            (r#"{"templatedir": "/g"}"#, "templatedir", "template_dir"),
            (
                r#"{"database": {"event": {"user": "x"}}}"#,
                "database.event.user",
                "database.event.username",
            ),
        ];
        for (text, key, nearest) in cases {
            let error = Files::new(None, Some(text)).error();
            assert!(error.contains("/user: "), "{error}");
            assert!(
                error.contains(&format!("{key}: unknown key; did you mean {nearest}?")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_named_with_its_file_and_key() {
        let error = Files::new(Some(FULL), Some(r#"{"outbox": {"path": 7}}"#)).error();
        assert!(error.contains("/user: outbox.path: ") && error.contains("string"), "{error}");
        let error = Files::new(Some(r#"{"delivery": {"retry_min": "5 min"}}"#), None).error();
        assert!(error.contains("delivery.retry_min: ") && error.contains("15m"), "{error}");
        let error = Files::new(Some(r#"{"smtp": 7}"#), None).error();
        assert!(error.contains("smtp: must be a section"), "{error}");
        let error = Files::new(Some(r#"{"smtp": {"host": "h", "tls": "ssl"}}"#), None).error();
        assert!(error.contains("smtp.tls") && error.contains("starttls"), "{error}");
    }

    #[test]
    fn several_relays_are_a_list_in_which_each_is_checked() {
        let load = |text| Files::new(None, Some(text)).load();
        let config = load(r#"{"smtp": [{"host": "a"}, {"host": "b", "port": 26}]}"#).unwrap();
        let hosts: Vec<_> = config.smtp().unwrap().iter().map(|relay| &*relay.host).collect();
        assert_eq!(hosts, ["a", "b"]);
        assert_eq!(load(r#"{"smtp": {"host": "a"}}"#).unwrap().smtp().unwrap().len(), 1);
        for (text, words) in [
            (r#"{"smtp": []}"#, "smtp: must name at least one relay"),
            (r#"{"smtp": ["a"]}"#, "smtp: must be a list of sections"),
            (r#"{"smtp": [{"host": "a"}, {"hots": "b"}]}"#, "smtp.hots: unknown key; did you mean"),
            (r#"{"smtp": [{"host": "a"}, {"host": "b", "tls": "x"}]}"#, "/user: smtp[1].tls: "),
            (r#"{"smtp": "a"}"#, "smtp: must be a section"),
            (r#"{"outbox": [{"path": "/o"}]}"#, "outbox: must be a section"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(load("{}").unwrap().smtp().unwrap_err().to_string().contains("smtp.host"));
    }

    #[test]
    fn numbers_are_told_to_the_machine_that_asks_and_to_no_other() {
        let error = Files::new(None, Some(r#"{"metrics": {"listen": "0.0.0.0:9753"}}"#)).error();
        assert!(error.contains("metrics.listen: must be a loopback address"), "{error}");
    }

    #[test]
    fn a_value_of_a_wrong_type_never_shows_a_password() {
        let error =
            Files::new(Some(r#"{"smtp": {"host": "h", "password": 1234567}}"#), None).error();
        assert!(!error.contains("1234567"), "{error}");
        assert!(error.contains("smtp.password"), "{error}");
    }

    #[test]
    fn a_value_that_can_not_be_is_named_with_the_file_that_has_it() {
        let user = Some(r#"{"sender": "me@cert.example", "outbox": {"min_free": "1G"}}"#);
        for (system, words) in [
            (r#"{"outbox": {"path": "spool"}}"#, "/system: outbox.path: must be"),
            (r#"{"delivery": {"retry_min": "9d"}}"#, "/system: delivery.retry_max: must not"),
            (
                r#"{"smtp": [{"host": "192.0.2.1", "tls": "none", "username": "u"}]}"#,
                "/system: smtp.tls: with a username",
            ),
        ] {
            let error = Files::new(Some(system), user).error();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_outbox_that_depends_on_the_working_folder_is_refused() {
        let error = Files::new(Some(r#"{"outbox": {"path": "spool"}}"#), None).error();
        assert!(error.contains("outbox.path: must be an absolute path"), "{error}");
    }

    #[test]
    fn broken_json_is_named_with_line_and_column() {
        let error = Files::new(Some("{\n  \"sender\": oops\n}"), None).error();
        assert!(error.contains("/system:2:"), "{error}");
        assert!(Files::new(Some("[]"), None).error().contains("JSON object"));
    }

    #[test]
    fn no_file_at_all_is_an_error_that_says_where_it_looked() {
        let error = Files::new(None, None).error();
        assert!(error.contains("/system") && error.contains("/user"), "{error}");
        let missing = Config::load_from(Some(Path::new("/nowhere.conf")), "".as_ref(), "".as_ref());
        assert!(missing.unwrap_err().to_string().contains("/nowhere.conf"));
    }

    /// The text of docs/configuration.md.
    const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

    #[test]
    fn the_documentation_tells_every_key_and_no_other() {
        for key in KEYS {
            assert!(DOCUMENTATION.contains(&format!("`{key}`")), "`{key}` is not told");
        }
        let first_cells = DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("| `"));
        let told = first_cells.filter_map(|line| line.split_once("` |")).map(|(key, _)| key);
        for key in told.filter(|key| key.contains('.') && !key.contains(' ')) {
            assert!(KEYS.contains(&key), "`{key}` is told and not known");
        }
    }

    #[test]
    fn the_example_in_the_documentation_is_read() {
        let (_, example) = DOCUMENTATION.split_once("## A full example\n").unwrap();
        let config = Files::new(Some(example), None).load().unwrap();
        assert!(config.openpgp.is_some() && config.database.is_some() && !config.smtp.is_empty());
    }
}
