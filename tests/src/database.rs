//! A database for one test: what it is called, how to connect to it, and how events get into it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use postgres::types::Json;
use postgres::{Client, GenericClient};
use serde_json::Value;

use crate::postgres_cluster::{SUPERUSER, open, run};

/// The database with the project's schema that all others are copied from.
pub(crate) const TEMPLATE: &str = "outbox_template";

/// A database, dropped with everything in it when this value is.
#[derive(Debug)]
pub struct Database {
    name: String,
    socket_dir: PathBuf,
    port: u16,
    dropped_at_end: bool,
}

impl Database {
    pub(crate) fn new(name: String, socket_dir: PathBuf, port: u16) -> Database {
        Database { name, socket_dir, port, dropped_at_end: true }
    }

    pub(crate) fn keeping(name: String, socket_dir: PathBuf, port: u16) -> Database {
        Database { name, socket_dir, port, dropped_at_end: false }
    }

    /// Its name, for a connection string or a configuration file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that holds the server's Unix socket: what goes into `host`.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The server's port, which also is part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection as superuser.
    ///
    /// Panics if there is none to be had, as all methods here do: a test can't go on without.
    pub fn connect(&self) -> Client {
        self.connect_as(SUPERUSER)
    }

    /// A connection with the rights of `role` and no more, for example of
    /// [`GENERATOR_ROLE`](crate::postgres_cluster::GENERATOR_ROLE). A role that may not log in is
    /// taken on with `SET ROLE`.
    pub fn connect_as(&self, role: &str) -> Client {
        self.try_connect_as(role)
            .unwrap_or_else(|error| panic!("failed to connect as {role}: {error:#}"))
    }

    /// Like [`Database::connect_as`], for tests in which the server may be away.
    pub fn try_connect_as(&self, role: &str) -> Result<Client> {
        let mut client = connect(&self.socket_dir, self.port, &self.name, SUPERUSER)?;
        if role == SUPERUSER {
            return Ok(client);
        }
        let may_log_in = client
            .query_opt("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", &[&role])?
            .with_context(|| format!("there is no role {role}"))?
            .get(0);
        if may_log_in {
            return connect(&self.socket_dir, self.port, &self.name, role);
        }
        client.batch_execute(&format!("SET ROLE {}", quoted(role)))?;
        Ok(client)
    }

    /// Stores an event: an object whose keys are columns of `events` and whose values are what JSON
    /// has for them, `extra` being an object itself. Returns the event's id, which the database
    /// chooses unless the object names one.
    pub fn insert_event(&self, event: &Value) -> i64 {
        insert_event(&mut self.connect(), event)
            .unwrap_or_else(|error| panic!("failed to insert {event}: {error:#}"))
    }

    /// Stores events in one transaction, and returns their ids in the same order.
    pub fn insert_events<'a>(&self, events: impl IntoIterator<Item = &'a Value>) -> Vec<i64> {
        let mut client = self.connect();
        let mut transaction = client.transaction().expect("failed to begin a transaction");
        let ids = events
            .into_iter()
            .map(|event| insert_event(&mut transaction, event))
            .collect::<Result<_>>()
            .unwrap_or_else(|error| panic!("failed to insert an event: {error:#}"));
        transaction.commit().expect("failed to commit the events");
        ids
    }

    /// Runs a file of SQL as README.md tells an operator to: through psql, as superuser, to the
    /// first error. psql's words are the error message.
    pub fn load_sql(&self, file: &Path) -> Result<()> {
        run(Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--username", SUPERUSER])
            .arg("--host")
            .arg(&self.socket_dir)
            .args(["--port", &self.port.to_string(), "--dbname", &self.name])
            .arg("--file")
            .arg(file))
    }
}

impl Drop for Database {
    /// A server that is away, stopped by a test or gone before its database, takes the database
    /// along anyway.
    fn drop(&mut self) {
        if !self.dropped_at_end {
            return;
        }
        if let Ok(mut client) = connect(&self.socket_dir, self.port, SUPERUSER, SUPERUSER) {
            let _ = client
                .batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// A file of the project's folder `sql/`.
pub fn sql_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql").join(name)
}

/// A connection through the socket in `socket_dir`.
pub(crate) fn connect(socket_dir: &Path, port: u16, database: &str, role: &str) -> Result<Client> {
    open(postgres::Config::new().host_path(socket_dir).port(port).dbname(database).user(role))
}

/// Inserts one event on a connection, or in a transaction, that the caller holds. Columns that the
/// object does not name keep their default, so it names them in the statement instead of filling
/// the others with NULL.
pub fn insert_event(client: &mut impl GenericClient, event: &Value) -> Result<i64> {
    let columns = event
        .as_object()
        .context("an event is a JSON object")?
        .keys()
        .map(|key| quoted(key))
        .collect::<Vec<_>>();
    let columns = columns.join(", ");
    let statement = format!(
        "INSERT INTO events ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::events, $1) RETURNING id"
    );
    Ok(client.query_one(&statement, &[&Json(event)])?.get(0))
}

/// A name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
