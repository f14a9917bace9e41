//! An installation of its own for a test: folder, database, key, outbox and configuration, with the
//! two programs on it.
//!
//! A test says only what is special:
//!
//! ```no_run
//! # use outbox_tests::{events, programs::Programs, scripted_relay::ScriptedRelay, site::Site};
//! # let programs = Programs { generator: "", deliverer: "" };
//! let relay = ScriptedRelay::start();
//! let site = Site::new(programs).relay(relay.port()).build();
//! site.insert(&events::groups(3));
//! site.generator(&["run", "--all"]).expect(0);
//! site.deliverer(&["run", "--once"]).expect(0);
//! assert_eq!(site.pending(), 0);
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::Client;
use postgres::types::FromSqlOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::database::Database;
use crate::events;
use crate::gnupg::Gnupg;
use crate::postgres_cluster::{Cluster, DELIVERER_ROLE, GENERATOR_ROLE};
use crate::programs::{Finished, Programs, Running};
use crate::system::{copy_folder, free_port};
use crate::watchdog;

/// What is to be special about a [`Site`].
#[derive(Debug)]
pub struct Builder {
    programs: Programs,
    database: Option<Database>,
    gnupg: Option<fn(&Path) -> Gnupg>,
    templates: Vec<(String, String)>,
    settings: Vec<(String, Value)>,
    environment: Vec<(&'static str, OsString)>,
}

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `outbox-generator`.
    Generator,
    /// `outbox-deliverer`.
    Deliverer,
}

/// An installation, gone with everything in it when this is dropped.
#[derive(Debug)]
pub struct Site {
    // In this order: the agent ends before its folder is gone.
    gnupg: Option<Gnupg>,
    database: Database,
    folder: TempDir,
    domain: String,
    programs: Programs,
    config: Value,
    environment: Vec<(&'static str, OsString)>,
}

impl Builder {
    /// This database instead of a new one of the shared cluster.
    #[must_use]
    pub fn database(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    /// The relay on this port of 127.0.0.1, instead of one that refuses connections.
    #[must_use]
    pub fn relay(self, port: u16) -> Self {
        self.set("smtp.port", json!(port))
    }

    /// This key instead of a good one.
    #[must_use]
    pub fn key(mut self, make: fn(&Path) -> Gnupg) -> Self {
        self.gnupg = Some(make);
        self
    }

    /// Mails that are not signed, and no GnuPG home at all.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.gnupg = None;
        self
    }

    /// A template beside the project's, or instead of one; or, named `formats/NN-name.toml`, a
    /// format definition.
    #[must_use]
    pub fn template(mut self, name: &str, text: &str) -> Self {
        self.templates.push((name.to_owned(), text.to_owned()));
        self
    }

    /// A value in the configuration file, its key with the sections, as in `delivery.retry_min`.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.settings.push((key.to_owned(), value));
        self
    }

    /// Variables in the environment of the programs, such as a
    /// [`ServiceManager`](crate::service_manager::ServiceManager)'s.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Makes it.
    pub fn build(self) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let folder = TempDir::with_prefix_in("outbox-", "/tmp").expect("failed to make a folder");
        watchdog::removes(folder.path());
        let mut templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
        if !self.templates.is_empty() {
            let own = folder.path().join("templates");
            copy_folder(&templates, &own);
            for (name, text) in &self.templates {
                fs::write(own.join(name), text).expect("failed to write a template");
            }
            templates = own;
        }
        let gnupg = self.gnupg.map(|make| make(&folder.path().join("gnupg")));
        let database = self.database.unwrap_or_else(|| Cluster::shared().database());
        let domain = format!("s{}.cert.example", COUNT.fetch_add(1, Ordering::Relaxed));
        let config = json!({
            "openpgp": match &gnupg {
                Some(gnupg) => json!({
                    "always_sign": true,
                    "gnupg_home": gnupg.home(),
                    "signing_key": gnupg.fingerprint(),
                }),
                None => json!({"always_sign": false}),
            },
            "database": {"event": {
                "name": database.name(),
                "host": database.socket_dir(),
                "port": database.port(),
            }},
            "template_dir": templates,
            "script_directory": templates.join("formats"),
            "sender": format!("CERT Example <noreply@{domain}>"),
            "smtp": {"host": "127.0.0.1", "port": free_port()},
            "outbox": {"path": folder.path().join("outbox")},
            "delivery": {},
            "review": {},
            "metrics": {},
        });
        let (programs, environment) = (self.programs, self.environment);
        let mut site = Site { gnupg, database, folder, domain, programs, config, environment };
        site.write_config();
        for (key, value) in self.settings {
            site.set(&key, value);
        }
        outbox::Outbox::create(&site.outbox()).expect("failed to make the outbox");
        site
    }
}

impl Site {
    /// An installation with the project's templates and formats, a good key, and a relay that is
    /// away.
    #[expect(clippy::new_ret_no_self, reason = "it begins a builder")]
    pub fn new(programs: Programs) -> Builder {
        Builder {
            programs,
            database: None,
            gnupg: Some(Gnupg::with_key),
            templates: Vec::new(),
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Changes a value in the configuration file, for programs that are started from now on.
    pub fn set(&mut self, key: &str, value: Value) {
        let pointer = format!("/{}", key.replace('.', "/"));
        let (section, name) = pointer.rsplit_once('/').expect("there is a slash");
        let section = self.config.pointer_mut(section).expect("the section is there");
        section[name] = value;
        self.write_config();
    }

    /// Each program logs in to the database with the rights of its own role, unless the test says
    /// whom to be.
    fn write_config(&self) {
        for (program, role) in [("generator", GENERATOR_ROLE), ("deliverer", DELIVERER_ROLE)] {
            let mut config = self.config.clone();
            if let Some(event) =
                config.pointer_mut("/database/event").and_then(Value::as_object_mut)
            {
                event.entry("username").or_insert_with(|| json!(role));
            }
            let text = serde_json::to_string_pretty(&config).expect("it is JSON");
            // A program that starts at this moment reads the old one or the new one, whole.
            let (file, new) = (self.config_file(program), self.folder.path().join("new.conf"));
            let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
            written.expect("failed to write the configuration");
        }
    }

    fn config_file(&self, program: &str) -> PathBuf {
        self.folder.path().join(format!("{program}.conf"))
    }

    /// Runs the generator to its end.
    #[track_caller]
    pub fn generator(&self, arguments: &[&str]) -> Finished {
        self.start_generator(arguments).finish()
    }

    /// Starts the generator.
    pub fn start_generator(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(self.programs.generator, "generator").args(arguments))
    }

    /// Runs the deliverer to its end.
    #[track_caller]
    pub fn deliverer(&self, arguments: &[&str]) -> Finished {
        self.start_deliverer(arguments).finish()
    }

    /// Starts the deliverer.
    pub fn start_deliverer(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(self.programs.deliverer, "deliverer").args(arguments))
    }

    /// Runs a program that is killed (SIGKILL) right before it calls the system in this way for the
    /// `number`th time: then it has no exit code. Calls of other threads than the first are not
    /// counted.
    #[track_caller]
    pub fn killed_before(
        &self,
        program: Program,
        arguments: &[&str],
        call: &str,
        number: u32,
    ) -> Finished {
        let (trace, inject) =
            (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
        self.start_under_strace(program, arguments, &["-e", &trace, "-e", &inject]).finish()
    }

    /// Starts a program whose first thread is watched, and meddled with, as these options of strace
    /// say.
    pub fn start_under_strace(
        &self,
        program: Program,
        arguments: &[&str],
        options: &[&str],
    ) -> Running {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null"]).args(options);
        self.start_under(strace, program, arguments)
    }

    /// Starts a program by another one, whose last arguments are the program and its own.
    pub fn start_under(
        &self,
        mut starter: Command,
        program: Program,
        arguments: &[&str],
    ) -> Running {
        let command = match program {
            Program::Generator => self.command(self.programs.generator, "generator"),
            Program::Deliverer => self.command(self.programs.deliverer, "deliverer"),
        };
        starter
            .arg(command.get_program())
            .args(command.get_args())
            .args(arguments)
            .current_dir("/");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => starter.env(name, value),
                None => starter.env_remove(name),
            };
        }
        Running::start(&mut starter)
    }

    /// The configuration file of a program.
    pub fn config_of(&self, program: Program) -> PathBuf {
        self.config_file(match program {
            Program::Generator => "generator",
            Program::Deliverer => "deliverer",
        })
    }

    fn command(&self, program: &str, name: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.config_file(name))
            .current_dir("/")
            // No configuration, key or password of whoever runs the tests.
            .env("HOME", self.folder.path());
        for variable in [
            "GNUPGHOME",
            "OUTBOX_SMTP_PASSWORD",
            "OUTBOX_DATABASE_PASSWORD",
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
        ] {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A shell script that runs the deliverer with this site's configuration.
    pub fn deliverer_script(&self) -> String {
        self.script(self.programs.deliverer, "deliverer")
    }

    /// A shell script that runs the generator with this site's configuration.
    pub fn generator_script(&self) -> String {
        self.script(self.programs.generator, "generator")
    }

    fn script(&self, program: &str, name: &str) -> String {
        let config = self.config_file(name);
        format!("#!/bin/sh\nexec {program} --config {} \"$@\"\n", config.display())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Its key, and where it is.
    pub fn gnupg(&self) -> &Gnupg {
        self.gnupg.as_ref().expect("mails of this site are signed")
    }

    /// The domain of its sender, which no other site of this process has.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    // ---- Database ----

    /// Stores events.
    pub fn insert<'a>(&self, events: impl IntoIterator<Item = &'a Value>) -> Vec<i64> {
        self.database.insert_events(events)
    }

    /// Stores the project's sample events, with directives of an hour ago: some formats wait until no
    /// more of them come.
    pub fn insert_samples(&self) {
        self.insert(&events::sample());
        self.sql("UPDATE directives SET inserted_at = inserted_at - interval '1 hour'");
    }

    /// The first column of a query's result.
    #[track_caller]
    pub fn column<T: FromSqlOwned>(&self, query: &str) -> Vec<T> {
        let rows = self.database.connect().query(query, &[]);
        rows.unwrap_or_else(|error| panic!("{query}: {error}"))
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// Runs statements as superuser.
    #[track_caller]
    pub fn sql(&self, statements: &str) {
        let done = self.database.connect().batch_execute(statements);
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Begins a transaction with this statement, such as a `SELECT … FOR UPDATE`. What it locks is
    /// held until the connection is dropped.
    #[track_caller]
    pub fn hold(&self, statement: &str) -> Client {
        let mut client = self.database.connect();
        let done = client.batch_execute(&format!("BEGIN; {statement}"));
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        client
    }

    /// Whether a program waits in the database for this type of event, such as `Lock`.
    pub fn waits(&self, program: Program, event: &str) -> bool {
        let program = match program {
            Program::Generator => "outbox-generator",
            Program::Deliverer => "outbox-deliverer",
        };
        let waiting = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = '{program}' AND wait_event_type = '{event}'"
        );
        !self.column::<i32>(&waiting).is_empty()
    }

    /// How many directives are not marked `sent`.
    pub fn pending(&self) -> i64 {
        self.column("SELECT count(*) FROM directives WHERE sent_id IS NULL")[0]
    }

    /// The tickets in `sent`.
    pub fn sent_tickets(&self) -> Vec<String> {
        self.column("SELECT intelmq_ticket FROM sent ORDER BY intelmq_ticket")
    }

    // ---- Outbox ----

    /// The outbox's folder.
    pub fn outbox(&self) -> PathBuf {
        self.config["outbox"]["path"].as_str().expect("it is a path").into()
    }

    /// Every file in the outbox, ordered, each mail id shortened to the number of its ticket, the
    /// first of the day being 1: `cur/#1:2,F`, `sidecar/#1.json`. How often a program changed a mail's
    /// flags, which stands behind the id, is left out.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let root = self.outbox();
        walk(&root, &mut files);
        let mut files: Vec<String> = files
            .iter()
            .map(|path| path.strip_prefix(&root).expect("it is below").display().to_string())
            // What a deliverer says of itself is about no mail, and stays when it is killed, half
            // written too.
            .filter(|path| !path.starts_with("delivery/.service.json"))
            .map(|path| short(&path))
            .collect();
        files.sort();
        files
    }

    /// The sidecars, the oldest mail's first.
    pub fn sidecars(&self) -> Vec<Value> {
        self.json_files("sidecar")
    }

    /// The delivery records, the oldest mail's first.
    pub fn records(&self) -> Vec<Value> {
        self.json_files("delivery")
    }

    fn json_files(&self, folder: &str) -> Vec<Value> {
        self.listed(folder)
            .into_iter()
            .filter_map(|path| {
                // One that a program at work has just removed is none.
                let text = fs::read(&path).ok()?;
                let parsed = serde_json::from_slice(&text);
                Some(parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
            })
            .collect()
    }

    /// The files of one of the outbox's folders, such as `new` or `sent/cur`, ordered.
    pub fn listed(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.outbox().join(folder)).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files
            .retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] != b'.'));
        files.sort();
        files
    }

    /// The one mail in the outbox with this recipient, wherever it lies.
    #[track_caller]
    pub fn mail_to(&self, recipient: &str) -> PathBuf {
        let sidecar = self.sidecar_to(recipient);
        let id = sidecar["id"].as_str().expect("a sidecar has an id");
        let here = ["new", "cur"].iter().flat_map(|folder| self.listed(folder));
        let mut here = here.filter(|path| path.display().to_string().contains(id));
        here.next().unwrap_or_else(|| panic!("{id} is not in {:?}", self.files()))
    }

    /// The one sidecar with this recipient.
    #[track_caller]
    pub fn sidecar_to(&self, recipient: &str) -> Value {
        let mut sidecars = self.sidecars();
        sidecars.retain(|sidecar| sidecar["envelope"]["to"] == json!([recipient]));
        assert_eq!(sidecars.len(), 1, "sidecars of {recipient}");
        sidecars.remove(0)
    }

    /// Moves a mail into `cur/` with these flags, as mutt does.
    #[track_caller]
    pub fn flag(&self, mail: &Path, flags: &str) {
        let name = mail.file_name().expect("it is a file").to_string_lossy();
        let id = name.split(':').next().expect("there is a name");
        let to = self.outbox().join("cur").join(format!("{id}:2,{flags}"));
        fs::rename(mail, to).expect("failed to flag a mail");
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// `new/1764028800.M1P2Q3.20261125-10000042.host` → `new/#42`.
fn short(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let number =
        name.split('.').nth(2).and_then(|ticket| ticket.split_once('-')?.1.parse::<u32>().ok());
    let Some(number) = number else { return path.to_owned() };
    let end = name.find(':').or_else(|| name.rfind(".json")).map_or("", |at| &name[at..]);
    format!("{folder}/#{}{end}", number - 10_000_000)
}
