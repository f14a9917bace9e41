//! A PostgreSQL cluster in a folder under /tmp that ends with the test process, however that ends.
//!
//! The server is started by `pg_ctl`, as the system user `postgres` when the tests run as root (it
//! refuses to run as root), otherwise as the user who runs them. It listens on a Unix socket, lets
//! everybody in as whoever they say they are, and syncs nothing: it is not there to survive a power
//! cut.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::database::{self, Database};
use crate::system::free_port;
use crate::watchdog;

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

/// A login role with the rights that the generator gets in production, and no more.
pub const GENERATOR_ROLE: &str = "outbox_generator";

/// A login role with the rights that the deliverer gets in production, and no more.
pub const DELIVERER_ROLE: &str = "outbox_deliverer";

/// A login role with the rights that IntelMQ's output bot gets in production, and no more.
pub const INTELMQ_ROLE: &str = "intelmq";

/// Shuts the server in the folder `$D` down at once and removes the folder. A server that is only
/// just starting may not have written its pid yet, so it is looked for a second time. `kill -QUIT`
/// is PostgreSQL's immediate shutdown.
const STOP: &str = "for round in 1 2; do \
    [ -d $D ] || break; \
    pid=$(head -n 1 $D/data/postmaster.pid 2>/dev/null); \
    [ -n \"$pid\" ] || { sleep 0.5; continue; }; \
    kill -CONT $pid 2>/dev/null; \
    kill -QUIT $pid 2>/dev/null; \
    n=0; while kill -0 $pid 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done; \
    kill -KILL $pid 2>/dev/null; \
    break; \
    done; rm -rf $D";

/// A running (or, between [`Cluster::stop`] and [`Cluster::start`], stopped) PostgreSQL cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    loopback: bool,
    template: Mutex<bool>,
    databases: AtomicU32,
}

impl Cluster {
    /// The one cluster that the tests of this process share, started on first use. Whoever wants to
    /// stop it takes [`Cluster::private`] instead.
    ///
    /// Panics if it can't be started.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::private)
    }

    /// A cluster for one test, reachable through its Unix socket only, which the test may stop,
    /// start and kill.
    ///
    /// Panics if it can't be started.
    pub fn private() -> Cluster {
        Cluster::create(false).expect("failed to start a PostgreSQL cluster")
    }

    /// Like [`Cluster::private`], listening on 127.0.0.1 as well, on [`Cluster::port`].
    ///
    /// Panics if it can't be started.
    pub fn private_on_loopback() -> Cluster {
        Cluster::create(true).expect("failed to start a PostgreSQL cluster")
    }

    fn create(loopback: bool) -> Result<Cluster> {
        // The path of a Unix socket has room for 107 bytes, so not below a deep TMPDIR or target
        // folder.
        let folder = TempDir::with_prefix_in("outbox-pg-", "/tmp")?;
        // Programs under test may run as other users and must get to the socket.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        if rustix::process::geteuid().is_root() {
            let owner = system_user_postgres()?;
            std::os::unix::fs::chown(folder.path(), Some(owner.0), Some(owner.1))?;
        }

        watchdog::at_end(&stop(folder.path()));
        let cluster = Cluster {
            folder: folder.keep(),
            port: if loopback { free_port() } else { 5432 },
            loopback,
            template: Mutex::new(false),
            databases: AtomicU32::new(0),
        };

        run(server_command("initdb")?.arg("--pgdata").arg(cluster.data()).args([
            "--username",
            SUPERUSER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
        ]))?;
        cluster.try_start()?;
        Ok(cluster)
    }

    /// The folder that holds the server's Unix socket: what goes into `host` of a connection
    /// string.
    pub fn socket_dir(&self) -> &Path {
        &self.folder
    }

    /// The port, which also is part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's log, for the message of a failing test.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts a cluster that was stopped or killed, and returns when it takes connections.
    pub fn start(&self) {
        self.try_start().expect("failed to start the PostgreSQL cluster again");
    }

    fn try_start(&self) -> Result<()> {
        let options = format!(
            "-k {} -p {} -c listen_addresses={} -c max_connections=200 -c fsync=off \
             -c full_page_writes=off -c shared_buffers=32MB -c timezone=UTC",
            self.folder.display(),
            self.port,
            if self.loopback { "127.0.0.1" } else { "''" },
        );
        // After a kill the server's children hold its shared memory until they notice; a start
        // before that fails.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let started = run(self
                .pg_ctl("start")?
                .arg("-l")
                .arg(self.folder.join("log"))
                .arg("-o")
                .arg(&options));
            match started {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(200)),
                Err(error) => return Err(error.context(self.log())),
            }
        }
    }

    /// Stops the server in good order: open connections are ended, what was committed is kept.
    pub fn stop(&self) {
        self.pg_ctl("stop")
            .and_then(|mut command| run(command.args(["-m", "fast"])))
            .expect("failed to stop the PostgreSQL cluster");
    }

    /// Stops the server and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Kills the server with SIGKILL, as the kernel does when memory runs out. [`Cluster::start`]
    /// brings it back.
    pub fn kill(&self) {
        let pid = self.pid();
        kill_process(pid, Signal::KILL).expect("failed to kill the server");
        while is_running(pid) {
            sleep(Duration::from_millis(20));
        }
    }

    /// A new database with `sql/events.sql` and `sql/notifications.sql` in it, dropped when the
    /// value is.
    pub fn database(&self) -> Database {
        self.ensure_template().expect("failed to prepare the template database");
        self.new_database(Some(database::TEMPLATE))
    }

    /// A new database with nothing in it, dropped when the value is.
    pub fn empty_database(&self) -> Database {
        self.new_database(None)
    }

    /// A new database like [`Cluster::database`] in another encoding than UTF-8, dropped when the value
    /// is.
    pub fn database_encoded(&self, encoding: &str) -> Database {
        self.ensure_template().expect("failed to make the roles");
        let database = self.new_database(Some(&format!("template0 ENCODING '{encoding}'")));
        for file in ["events.sql", "notifications.sql"] {
            database.load_sql(&database::sql_file(file)).expect("failed to make the tables");
        }
        database
    }

    /// A new database as an installation of Mailgen has it, with `sql/events.sql` and `mailgen.sql`
    /// in it, dropped when the value is.
    pub fn mailgen_database(&self) -> Database {
        self.ensure_template().expect("failed to make the roles");
        let database = self.empty_database();
        database.load_sql(&database::sql_file("events.sql")).expect("failed to make the events");
        let made = database.connect().batch_execute(include_str!("mailgen.sql"));
        made.expect("failed to make Mailgen's tables");
        database
    }

    fn new_database(&self, template: Option<&str>) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let template = template.unwrap_or("template0");
        self.connect(SUPERUSER, SUPERUSER)
            .and_then(|mut client| {
                Ok(client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))?)
            })
            .expect("failed to create a database");
        Database::new(name, self.folder.clone(), self.port)
    }

    /// Loading the schema takes a third of a second, copying a database with it a few hundredths.
    fn ensure_template(&self) -> Result<()> {
        let mut ready = self.template.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *ready {
            return Ok(());
        }
        let mut client = self.connect(SUPERUSER, SUPERUSER)?;
        client.batch_execute(&format!("CREATE DATABASE {}", database::TEMPLATE))?;
        let template =
            Database::keeping(database::TEMPLATE.to_owned(), self.folder.clone(), self.port);
        template.load_sql(&database::sql_file("events.sql"))?;
        template.load_sql(&database::sql_file("notifications.sql"))?;
        client.batch_execute(&format!(
            "CREATE ROLE {GENERATOR_ROLE} LOGIN IN ROLE eventdb_send_notifications;
             CREATE ROLE {DELIVERER_ROLE} LOGIN IN ROLE eventdb_send_notifications;
             CREATE ROLE {INTELMQ_ROLE} LOGIN IN ROLE eventdb_insert;"
        ))?;
        *ready = true;
        Ok(())
    }

    /// The server's main process, from the file it leaves in its data folder.
    pub(crate) fn pid(&self) -> Pid {
        let file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(file).expect("failed to find the server");
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.and_then(Pid::from_raw).expect("postmaster.pid holds no pid")
    }

    fn connect(&self, database: &str, role: &str) -> Result<Client> {
        database::connect(&self.folder, self.port, database, role)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn pg_ctl(&self, action: &str) -> Result<Command> {
        let mut command = server_command("pg_ctl")?;
        command.arg(action).arg("--pgdata").arg(self.data()).args(["--wait", "--timeout", "60"]);
        Ok(command)
    }
}

impl Drop for Cluster {
    /// What the watchdog would do.
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", &stop(&self.folder)]).stdin(Stdio::null()).status();
    }
}

/// [`STOP`] for this folder.
fn stop(folder: &Path) -> String {
    STOP.replace("$D", &folder.display().to_string())
}

/// Opens a connection, with a limit on how long that may take.
pub(crate) fn open(config: &mut postgres::Config) -> Result<Client> {
    Ok(config.connect_timeout(Duration::from_secs(10)).connect(NoTls)?)
}

/// A command of PostgreSQL's server package, to be run as the user whom the server will accept.
fn server_command(name: &str) -> Result<Command> {
    let program = server_binary(name)?;
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", SUPERUSER, "--regid", SUPERUSER, "--init-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    // The user postgres may not be allowed to read the folder that the tests were started in.
    command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C");
    Ok(command)
}

/// Debian keeps the server's programs out of PATH, one folder a version: the newest is taken.
fn server_binary(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name)))
        })
        .filter(|(_, program)| program.is_file())
        .collect();
    versions.sort();
    if let Some((_, program)) = versions.pop() {
        return Ok(program);
    }
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| {
            format!(
                "found no {name}: install PostgreSQL's server (Debian: apt-get install postgresql)"
            )
        })
}

/// Whether a process is there and more than a zombie: in a container whose first process reaps
/// nobody, one stays for ever.
pub(crate) fn is_running(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .is_some_and(|zombie| !zombie)
}

/// User and group id of the system user `postgres`.
fn system_user_postgres() -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).context(
        "PostgreSQL refuses to run as root, and there is no system user postgres to run it",
    )?;
    let fields: Vec<&str> = line.split(':').collect();
    ensure!(fields.len() >= 4, "the line of postgres in /etc/passwd is too short");
    Ok((fields[2].parse()?, fields[3].parse()?))
}

/// Runs a command to its end; its output is the error message if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to run {}", Path::new(&program as &OsStr).display()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{command:?} failed ({})\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_stopped_killed_and_started_again_and_keeps_what_it_holds() {
        let cluster = Cluster::private();
        let database = cluster.database();
        database.connect().batch_execute("CREATE TABLE kept (n int)").unwrap();
        let stands = || database.connect().batch_execute("INSERT INTO kept VALUES (1)").unwrap();

        cluster.stop();
        assert!(database.try_connect_as(GENERATOR_ROLE).is_err(), "the server is away");
        cluster.start();
        stands();
        cluster.kill();
        assert!(database.try_connect_as(GENERATOR_ROLE).is_err(), "the server is away");
        cluster.start();
        stands();
        cluster.restart();
        stands();

        let folder = cluster.socket_dir().to_owned();
        drop(cluster);
        assert!(!folder.exists());
    }

    #[test]
    fn a_cluster_is_reached_over_tcp_only_where_that_was_asked_for() {
        let quiet = Cluster::private();
        let listen = |cluster: &Cluster| -> String {
            let mut client = cluster.connect(SUPERUSER, SUPERUSER).unwrap();
            client.query_one("SHOW listen_addresses", &[]).unwrap().get(0)
        };
        assert_eq!(listen(&quiet), "");
        let loud = Cluster::private_on_loopback();
        let database = loud.database();
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(loud.port()).dbname(database.name()).user(GENERATOR_ROLE);
        open(&mut config).unwrap().batch_execute("SELECT FROM directives").unwrap();
    }

    #[test]
    fn a_database_is_gone_when_its_value_is() {
        let cluster = Cluster::shared();
        let database = cluster.database();
        let held_open = database.connect();
        let name = database.name().to_owned();
        drop(database);
        let left = cluster
            .connect(SUPERUSER, SUPERUSER)
            .unwrap()
            .query("SELECT FROM pg_database WHERE datname = $1", &[&name])
            .unwrap();
        assert!(left.is_empty());
        drop(held_open);
    }
}
