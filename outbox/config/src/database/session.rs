//! A session with PostgreSQL in which nothing is waited for for ever.
//!
//! The server ends a statement that takes too long, and the kernel notices a host that is gone. Neither
//! helps where a server is frozen, or takes a connection and never says a word. So there is a deadline
//! here as well; a session that missed one is closed, and nothing in it waits again.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Socket, Statement};

use super::error::{Error, Kind};

/// How long the way into the database may take, from the first packet to the end of the login.
const LOGIN: Duration = Duration::from_secs(20);

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A session. Each statement is waited for.
pub struct Client {
    // In this order: the server is told goodbye once this is gone.
    client: tokio_postgres::Client,
    session: Session,
}

/// A transaction, rolled back when it is dropped.
pub struct Transaction<'a> {
    /// Gone with its end.
    transaction: Option<tokio_postgres::Transaction<'a>>,
    session: &'a Session,
}

/// Works for a session while something is waited for.
struct Session {
    runtime: Runtime,
    connection: JoinHandle<()>,
    /// How long an answer may take.
    patience: Duration,
    role: String,
}

/// The parameters of a statement.
type Parameters<'p> = &'p [&'p (dyn ToSql + Sync)];

impl Client {
    /// Connects and logs in.
    pub(super) fn open<T>(
        config: &tokio_postgres::Config,
        tls: T,
        patience: Duration,
    ) -> Result<Self, Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let role = config.get_user().unwrap_or_default().to_owned();
        let error = |kind| Error::new(kind, &role);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|system| error(Kind::System(system)))?;
        let (client, connection) = runtime
            .block_on(async { timeout(LOGIN, config.connect(tls)).await })
            .map_err(|_| error(Kind::Silent(LOGIN)))?
            .map_err(|server| error(Kind::Server(server)))?;
        // What ends a connection is told by the statement that waits for it.
        let connection = runtime.spawn(async { drop(connection.await) });
        Ok(Self { client, session: Session { runtime, connection, patience, role } })
    }

    /// Whether it has ended, as far as is known here.
    pub fn is_closed(&self) -> bool {
        // Lets it see what came while nothing was waited for.
        self.session.runtime.block_on(async { sleep(Duration::from_millis(1)).await });
        self.client.is_closed()
    }

    /// Begins a transaction.
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let begin = self.client.transaction();
        let transaction = Some(self.session.wait(begin)?);
        Ok(Transaction { transaction, session: &self.session })
    }

    /// Begins a transaction that can change nothing.
    pub fn read_only_transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let begin = self.client.build_transaction().read_only(true).start();
        let transaction = Some(self.session.wait(begin)?);
        Ok(Transaction { transaction, session: &self.session })
    }

    /// All rows of a query.
    pub fn query(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        self.session.wait(self.client.query(statement, parameters))
    }

    /// Has a statement understood, without running it.
    pub fn prepare(&mut self, statement: &str) -> Result<Statement, Error> {
        self.session.wait(self.client.prepare(statement))
    }
}

impl<'a> Transaction<'a> {
    fn open(&self) -> &tokio_postgres::Transaction<'a> {
        self.transaction.as_ref().expect("it ends with this value")
    }

    /// All rows of a query.
    pub fn query(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        self.session.wait(self.open().query(statement, parameters))
    }

    /// The one row of a query. Any other number is an error.
    pub fn query_one(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
        self.session.wait(self.open().query_one(statement, parameters))
    }

    /// What `each` makes of the rows of a query, which are not kept.
    pub fn query_map<T>(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
        mut each: impl FnMut(&Row) -> T,
    ) -> Result<Vec<T>, Error> {
        self.session.wait(async {
            let parameters = parameters.iter().copied();
            let mut rows = pin!(self.open().query_raw(statement, parameters).await?);
            let mut made = Vec::new();
            while let Some(row) = rows.try_next().await? {
                made.push(each(&row));
            }
            Ok(made)
        })
    }

    /// Runs a statement, and says how many rows it was about.
    pub fn execute(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        self.session.wait(self.open().execute(statement, parameters))
    }

    /// Makes it durable.
    pub fn commit(mut self) -> Result<(), Error> {
        let transaction = self.transaction.take().expect("it ends with this value");
        self.session.wait(transaction.commit())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            // If that can't be said, the end of the session says it.
            let _ = self.session.wait(transaction.rollback());
        }
    }
}

impl Session {
    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let waited = self.runtime.block_on(async { timeout(self.patience, answer).await });
        let kind = match waited {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Kind::Server(error),
            Err(_) => {
                self.connection.abort();
                self.runtime.block_on(yield_now());
                Kind::Silent(self.patience)
            }
        };
        Err(Error::new(kind, &self.role))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let connection = &mut self.connection;
        let _ = self.runtime.block_on(async { timeout(GOODBYE, connection).await });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::spawn;
    use std::time::Instant;

    use tokio_postgres::{Config, NoTls};

    use super::*;

    /// A server that lets us in, and answers nothing but the first so many requests.
    fn freezing_after(requests: usize) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            for number in 0..=requests {
                if stream.read(&mut request).unwrap_or(0) == 0 {
                    return;
                }
                // That the login is fine or a command was done, and that it is ready for the next.
                let done: &[u8] =
                    if number == 0 { b"R\0\0\0\x08\0\0\0\0" } else { b"C\0\0\0\x0aBEGIN\0" };
                stream.write_all(&[done, b"Z\0\0\0\x05I"].concat()).unwrap();
            }
            while stream.read(&mut request).is_ok_and(|read| read > 0) {}
        });
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user("outbox").dbname("events");
        config
    }

    #[test]
    fn a_frozen_server_is_given_up_and_its_session_waits_for_nothing_more() {
        let patience = Duration::from_millis(300);
        let mut client = Client::open(&freezing_after(1), NoTls, patience).unwrap();
        let mut transaction = client.transaction().unwrap();
        let error = transaction.query("SELECT", &[]).unwrap_err();
        assert!(error.code().is_none());
        assert_eq!(error.to_string(), "the server said nothing for 0 seconds: it seems frozen");
        let begin = Instant::now();
        assert!(transaction.execute("SELECT", &[]).is_err());
        assert!(transaction.commit().is_err());
        assert!(client.is_closed());
        drop(client);
        // Each would have waited as long.
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_session_that_the_server_ended_while_it_was_idle_is_known_as_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::new();
        let port = listener.local_addr().unwrap().port();
        config.host("127.0.0.1").port(port).user("outbox").dbname("events");
        let server = spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
            stream
        });
        let client = Client::open(&config, NoTls, Duration::from_secs(60)).unwrap();
        let stream = server.join().unwrap();
        assert!(!client.is_closed());
        drop(stream);
        while !client.is_closed() {}
    }
}
