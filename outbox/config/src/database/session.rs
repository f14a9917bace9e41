//! A session with PostgreSQL in which a program does not wait for ever.
//!
//! The server ends a statement that takes too long, and the kernel notices a host that is gone. Neither
//! helps where a server is frozen, or takes a connection and never says a word. A login has a thread of
//! its own, which is left alone then. In a session that says nothing, nothing can be done any more, not
//! even end it; so somebody watches it ([`Silence`]).

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator as _;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::types::ToSql;
use postgres::{Row, Socket, Statement};

use super::error::{Error, Kind};

/// How long the way into the database may take, from the first packet to the end of the login.
const LOGIN: Duration = Duration::from_secs(20);

/// How many logins may be left alone without an answer before no other is tried.
const UNANSWERED: usize = 8;

/// How many descriptors a session needs at most.
const DESCRIPTORS: usize = 6;

/// What becomes of a server that says nothing any more.
#[derive(Clone, Copy)]
pub enum Silence {
    /// A person or a timer waits for this program, which can be ended at any point: this is called, and
    /// has to end it.
    Ends(GiveUp),
    /// The thread alone waits, and others notice.
    IsNoticed,
}

/// Ends the program: told which database it is, and how long that said nothing.
pub type GiveUp = fn(&str, Duration) -> !;

/// A session. Each statement is waited for.
pub struct Client {
    inner: postgres::Client,
    watch: Watch,
    role: String,
}

/// A transaction, rolled back when it is dropped.
pub struct Transaction<'a> {
    inner: postgres::Transaction<'a>,
    watch: &'a Watch,
    role: &'a str,
}

/// The parameters of a statement.
type Parameters<'p> = &'p [&'p (dyn ToSql + Sync)];

impl Client {
    /// Connects to `place` and logs in. An answer that takes longer than `patience` counts as none.
    pub(super) fn open<T>(
        config: &postgres::Config,
        tls: T,
        place: &str,
        patience: Duration,
        silence: Silence,
    ) -> Result<Self, Error>
    where
        T: MakeTlsConnect<Socket> + 'static + Send,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let role = config.get_user().unwrap_or_default().to_owned();
        // The crate panics where it can't have what it needs to begin with.
        let descriptors: Result<Vec<File>, _> =
            (0..DESCRIPTORS).map(|_| File::open("/dev/null")).collect();
        drop(descriptors.map_err(|error| Error::new(Kind::System(error), &role))?);
        let inner = log_in(config.clone(), tls).map_err(|kind| Error::new(kind, &role))?;
        Ok(Self { inner, watch: Watch::new(place, patience, silence), role })
    }

    /// Whether it has ended: the server is asked.
    pub fn has_ended(&mut self) -> bool {
        self.inner.is_closed() || self.inner.is_valid(LOGIN).is_err()
    }

    /// Whether it has ended, as far as is known here.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Begins a transaction.
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        self.begin(false)
    }

    /// Begins a transaction that can change nothing.
    pub fn read_only_transaction(&mut self) -> Result<Transaction<'_>, Error> {
        self.begin(true)
    }

    fn begin(&mut self, read_only: bool) -> Result<Transaction<'_>, Error> {
        let _waiting = self.watch.begin();
        let begun = self.inner.build_transaction().read_only(read_only).start();
        let inner = begun.map_err(told(&self.role))?;
        Ok(Transaction { inner, watch: &self.watch, role: &self.role })
    }

    /// All rows of a query.
    pub fn query(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let _waiting = self.watch.begin();
        self.inner.query(statement, parameters).map_err(told(&self.role))
    }

    /// Has a statement understood, without running it.
    pub fn prepare(&mut self, statement: &str) -> Result<Statement, Error> {
        let _waiting = self.watch.begin();
        self.inner.prepare(statement).map_err(told(&self.role))
    }
}

impl Transaction<'_> {
    /// All rows of a query.
    pub fn query(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let _waiting = self.watch.begin();
        self.inner.query(statement, parameters).map_err(told(self.role))
    }

    /// The one row of a query. Any other number is an error.
    pub fn query_one(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
        let _waiting = self.watch.begin();
        self.inner.query_one(statement, parameters).map_err(told(self.role))
    }

    /// What `each` makes of the rows of a query, which are not kept.
    pub fn query_map<T>(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
        mut each: impl FnMut(&Row) -> T,
    ) -> Result<Vec<T>, Error> {
        let _waiting = self.watch.begin();
        let rows = self.inner.query_raw(statement, parameters.iter().copied());
        rows.and_then(|rows| rows.map(|row| Ok(each(&row))).collect()).map_err(told(self.role))
    }

    /// Runs a statement, and says how many rows it was about.
    pub fn execute(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        let _waiting = self.watch.begin();
        self.inner.execute(statement, parameters).map_err(told(self.role))
    }

    /// Makes it durable.
    pub fn commit(self) -> Result<(), Error> {
        let _waiting = self.watch.begin();
        self.inner.commit().map_err(told(self.role))
    }
}

fn log_in<T>(config: postgres::Config, tls: T) -> Result<postgres::Client, Kind>
where
    T: MakeTlsConnect<Socket> + 'static + Send,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    // A server that is mute for days gets so many connections and no more.
    if UNDER_WAY.fetch_add(1, Ordering::SeqCst) >= UNANSWERED {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        return Err(Kind::Silent(LOGIN));
    }
    let (answer, answered) = channel();
    thread::spawn(move || {
        let connected = config.connect(tls);
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        // Too late for who asked: the session ends here.
        let _ = answer.send(connected);
    });
    match answered.recv_timeout(LOGIN) {
        Ok(connected) => connected.map_err(Kind::Server),
        Err(_) => Err(Kind::Silent(LOGIN)),
    }
}

fn told(role: &str) -> impl Fn(postgres::Error) -> Error {
    move |error| Error::new(Kind::Server(error), role)
}

/// Sees to it that an answer comes in time.
struct Watch {
    shared: Option<Arc<Shared>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Since when an answer is waited for.
    waiting: Option<Instant>,
    over: bool,
}

/// Something is waited for until this is dropped.
struct Waiting<'a>(Option<&'a Shared>);

impl Watch {
    fn new(place: &str, patience: Duration, silence: Silence) -> Self {
        let Silence::Ends(end) = silence else { return Self { shared: None } };
        let shared = Arc::new(Shared::default());
        let (watched, place) = (Arc::clone(&shared), place.to_owned());
        thread::spawn(move || watched.watch(&place, patience, end));
        Self { shared: Some(shared) }
    }

    fn begin(&self) -> Waiting<'_> {
        if let Some(shared) = &self.shared {
            shared.lock().waiting = Some(Instant::now());
        }
        Waiting(self.shared.as_deref())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().over = true;
            shared.changed.notify_all();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.lock().waiting = None;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks every few seconds: nobody minds some more of them, and to be woken for each statement
    /// would cost more than many statements do.
    fn watch(&self, place: &str, patience: Duration, end: GiveUp) {
        const LOOK: Duration = Duration::from_secs(1);
        let mut state = self.lock();
        while !state.over {
            if state.waiting.is_some_and(|since| since.elapsed() > patience) {
                end(place, patience);
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Sender, channel};

    use postgres::{Config, NoTls};

    use super::*;

    /// A server that lets us in, and hands its end of the connection over.
    fn server(hand_over: Sender<TcpStream>) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            // That the login is fine, and that it is ready.
            stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
            hand_over.send(stream).unwrap();
        });
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user("outbox").dbname("events");
        config
    }

    /// Keeps its thread from going on. A test has no other way to see the end of a program.
    fn end(place: &str, patience: Duration) -> ! {
        ENDED.lock().unwrap().push((place.to_owned(), patience));
        loop {
            thread::park();
        }
    }

    static ENDED: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

    #[test]
    fn a_server_that_says_nothing_any_more_ends_the_program() {
        let patience = Duration::from_millis(300);
        let (hand_over, taken) = channel();
        let config = server(hand_over);
        let client = Client::open(&config, NoTls, "here", patience, Silence::Ends(end));
        let frozen = taken.recv().unwrap();
        let asked = thread::spawn(move || client.unwrap().query("SELECT", &[]).is_err());
        while ENDED.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        assert_eq!(*ENDED.lock().unwrap(), [("here".to_owned(), patience)]);
        assert!(!asked.is_finished());
        drop(frozen);
    }

    #[test]
    fn a_session_that_the_server_ended_while_it_was_idle_is_known_as_ended() {
        let (hand_over, taken) = channel();
        let patience = Duration::from_secs(60);
        let mut client =
            Client::open(&server(hand_over), NoTls, "here", patience, Silence::IsNoticed).unwrap();
        assert!(!client.is_closed());
        drop(taken.recv().unwrap());
        assert!(client.has_ended());
    }
}
