//! Stands between a program and its database, on a Unix socket, and breaks a connection at a chosen
//! point of what is said, or never says a word.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::spawn;

use tempfile::TempDir;

use crate::database::Database;
use crate::watchdog;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection breaks before the server hears it.
    Unheard,
    /// The server does it and answers, and the connection breaks before the program hears that.
    Unanswered,
    /// From this request on the program hears nothing more, and the connection stays.
    Silence,
}

/// A proxy before a database. It takes connections as long as the test lasts.
#[derive(Debug)]
pub struct DatabaseProxy {
    folder: TempDir,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// At the how manieth request from now on, and what.
    cut: Option<(usize, Cut)>,
    seen: usize,
}

impl DatabaseProxy {
    /// A proxy before this database, which breaks nothing yet. Its socket has the same port.
    ///
    /// Panics if it can't listen.
    pub fn before(database: &Database) -> Self {
        let socket = format!(".s.PGSQL.{}", database.port());
        let server = database.socket_dir().join(&socket);
        let folder =
            TempDir::with_prefix_in("outbox-proxy-", "/tmp").expect("failed to make a folder");
        watchdog::removes(folder.path());
        let listener = UnixListener::bind(folder.path().join(&socket)).expect("failed to listen");
        let plan = Arc::<Mutex<Plan>>::default();
        let shared = Arc::clone(&plan);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, plan) = (server.clone(), Arc::clone(&shared));
                // A connection that can't be served ends, as the program will tell.
                spawn(move || serve(client, &server, &plan));
            }
        });
        Self { folder, plan }
    }

    /// The folder of its socket: what goes into `host`.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Cuts at the `number`th request from now on, the login counting as one.
    pub fn cut(&self, number: usize, cut: Cut) {
        *self.plan() = Plan { cut: Some((number, cut)), seen: 0 };
    }

    /// Whether that happened. From now on nothing is cut.
    pub fn was_cut(&self) -> bool {
        std::mem::take(&mut *self.plan()).cut.is_none()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers of a server, as they come.
#[derive(Default)]
struct Answers {
    state: Mutex<(usize, bool)>,
    came: Condvar,
}

fn serve(mut client: UnixStream, server: &Path, plan: &Mutex<Plan>) -> io::Result<()> {
    let mut server = UnixStream::connect(server)?;
    let answers = Arc::<Answers>::default();
    {
        let (server, client) = (server.try_clone()?, client.try_clone()?);
        let answers = Arc::clone(&answers);
        spawn(move || answers.pass_on(server, client));
    }
    let mut requests = 0;
    while let Ok(request) = request(&mut client, requests == 0) {
        requests += 1;
        let cut = {
            let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.seen += 1;
            let (seen, due) = (plan.seen, plan.cut);
            due.filter(|(number, _)| *number == seen).map(|(_, cut)| {
                plan.cut = None;
                cut
            })
        };
        match cut {
            None => server.write_all(&request)?,
            Some(Cut::Unheard) => break,
            Some(Cut::Unanswered) => {
                answers.withhold();
                server.write_all(&request)?;
                answers.wait_for(requests);
                break;
            }
            Some(Cut::Silence) => {
                answers.withhold();
                server.write_all(&request)?;
            }
        }
    }
    // Either may have ended already.
    let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
    Ok(())
}

/// All messages up to one that the server answers as a whole: the login, a query, or the `Sync` behind
/// the messages of the extended protocol.
fn request(client: &mut UnixStream, login: bool) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let kind = message(client, login, &mut request)?;
        // A goodbye has no answer and ends it.
        if login || matches!(kind, b'Q' | b'S' | b'X') {
            return Ok(request);
        }
    }
}

/// Adds one message to `to`, and says of which kind it is. The first of a connection has none.
fn message(from: &mut UnixStream, bare: bool, to: &mut Vec<u8>) -> io::Result<u8> {
    let mut head = [0; 5];
    let head = if bare { &mut head[1..] } else { &mut head[..] };
    from.read_exact(head)?;
    let kind = if bare { 0 } else { head[0] };
    let length = u32::from_be_bytes(head[head.len() - 4..].try_into().expect("four octets"));
    to.extend_from_slice(head);
    let begin = to.len();
    to.resize(begin + length as usize - 4, 0);
    from.read_exact(&mut to[begin..])?;
    Ok(kind)
}

impl Answers {
    /// Passes on what the server says, until it is to be withheld.
    fn pass_on(&self, mut server: UnixStream, mut client: UnixStream) {
        let mut said = Vec::new();
        while let Ok(kind) = message(&mut server, false, &mut said) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.1 && client.write_all(&said).is_err() {
                break;
            }
            said.clear();
            // "Ready for the next query": the answer is whole.
            state.0 += usize::from(kind == b'Z');
            self.came.notify_all();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = usize::MAX;
        self.came.notify_all();
        if !state.1 {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn withhold(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
    }

    /// Waits until so many requests are answered, or the server is gone.
    fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.came.wait_while(state, |(answered, _)| *answered < count);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }
}
