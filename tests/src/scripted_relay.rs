//! A relay that takes mails, remembers them, and does what a test tells it where a real one might:
//! refuses, falls silent, hangs up, talks nonsense, is away.
//!
//! What it is told can change while it works. The deliverer's own tests have a relay for single
//! connections (`deliverer/src/smtp/scripted.rs`); this one is for what a whole mail goes through.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use crate::mail;
use crate::programs::LIMIT;

/// A step of the conversation at which the relay can do something unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The connection is there.
    Greeting,
    /// `EHLO`.
    Ehlo,
    /// `STARTTLS`.
    StartTls,
    /// TLS is to begin. There is nothing to say here.
    Handshake,
    /// A login.
    Auth,
    /// `MAIL FROM`.
    Mail,
    /// `RCPT TO`.
    Rcpt,
    /// `DATA`.
    Data,
    /// The first line of the message has come, and usually nothing is said.
    Body,
    /// The message has come whole.
    FinalDot,
    /// `QUIT`.
    Quit,
}

/// What it does there.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says this.
    Say(&'static str),
    /// Sends these octets, and no line end behind them.
    Send(Vec<u8>),
    /// Says this and hangs up.
    SayAndHangUp(&'static str),
    /// Hangs up without a word.
    HangUp,
    /// Has the connection broken off (RST).
    Reset,
    /// Sends these octets, which are no answer to anything. It does not have a mail of which it says so.
    Babble(Vec<u8>),
    /// Sends these octets and hangs up.
    SendAndHangUp(Vec<u8>),
    /// Sends this over and over, until the other side hangs up.
    Flood(Vec<u8>),
    /// Shows this server's certificate.
    Show(Arc<ServerConfig>),
    /// Waits for [`ScriptedRelay::go_on`], and then says what is usual.
    Hold,
    /// Says what is usual, an octet at a time with this long between two.
    Dribble(Duration),
    /// Takes so long, and then says what is usual.
    Take(Duration),
}

/// A mail whose final dot came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The reverse-path.
    pub from: String,
    /// The recipients it was taken for.
    pub to: Vec<String>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the relay said that it has it.
    pub confirmed: bool,
    /// Whether it said that it does not.
    pub refused: bool,
}

impl Received {
    /// Its Message-ID.
    pub fn message_id(&self) -> String {
        mail::header(&self.bytes, "Message-ID").expect("a mail has a Message-ID")
    }

    /// Its ticket.
    pub fn ticket(&self) -> String {
        mail::header(&self.bytes, "X-Ticket").expect("a mail has a ticket")
    }
}

#[derive(Debug)]
struct Rule {
    at: At,
    words: String,
    act: Act,
    times: usize,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    received: Vec<Received>,
    connections: usize,
    open: usize,
    most_open: usize,
    commands: Vec<String>,
    flooded: usize,
    held: usize,
    released: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// When TLS begins, and with which certificate.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Never.
    #[default]
    None,
    /// After STARTTLS, which is offered until then.
    StartTls(Arc<ServerConfig>),
    /// At once.
    Implicit(Arc<ServerConfig>),
}

/// A relay at work. It ends when this is dropped.
#[derive(Debug)]
pub struct ScriptedRelay {
    address: SocketAddr,
    offers: &'static [&'static str],
    tls: Tls,
    shared: Arc<Shared>,
    listening: Mutex<Option<Listening>>,
}

#[derive(Debug)]
struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl ScriptedRelay {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::offering(&["PIPELINING", "8BITMIME"])
    }

    /// The same, with these extensions offered.
    pub fn offering(offers: &'static [&'static str]) -> Self {
        Self::encrypting(offers, Tls::None)
    }

    /// The same, with TLS as well.
    pub fn encrypting(offers: &'static [&'static str], tls: Tls) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (shared, listening) = (Arc::default(), Mutex::new(None));
        let relay = Self { address, offers, tls, shared, listening };
        relay.listen(listener);
        relay
    }

    /// What goes into `smtp.port`.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on, every time, at a command (or envelope and message, at [`At::Data`] and
    /// [`At::FinalDot`]) that holds `words`. Of several that fit, the first counts.
    pub fn always(&self, at: At, words: &str, act: Act) {
        self.rule(at, words, act, usize::MAX);
    }

    /// The same, for the next time only.
    pub fn once(&self, at: At, words: &str, act: Act) {
        self.rule(at, words, act, 1);
    }

    fn rule(&self, at: At, words: &str, act: Act, times: usize) {
        self.state().rules.push(Rule { at, words: words.to_owned(), act, times });
    }

    /// From now on, nothing unusual.
    pub fn behave(&self) {
        self.state().rules.clear();
    }

    /// Every mail whose final dot came, in that order.
    pub fn received(&self) -> Vec<Received> {
        self.state().received.clone()
    }

    /// Forgets all that came.
    pub fn forget(&self) {
        let mut state = self.state();
        state.received.clear();
        state.commands.clear();
    }

    /// Every command so far, over all connections.
    pub fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    /// How many octets the other side took of floods.
    pub fn flooded(&self) -> usize {
        self.state().flooded
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// How many connections there are now.
    pub fn open(&self) -> usize {
        self.state().open
    }

    /// How many connections there were at the same time at most.
    pub fn most_open(&self) -> usize {
        self.state().most_open
    }

    /// By Message-ID, all that came with it.
    pub fn by_message_id(&self) -> HashMap<String, Vec<Received>> {
        let mut mails: HashMap<String, Vec<Received>> = HashMap::new();
        for mail in self.received() {
            mails.entry(mail.message_id()).or_default().push(mail);
        }
        mails
    }

    /// Waits until so many final dots came. Panics if that takes too long.
    #[track_caller]
    pub fn wait_for_mails(&self, count: usize) {
        self.wait(&format!("{count} mails came"), |state| state.received.len() >= count);
    }

    /// Waits until the deliverer waits for an answer that is held ([`Act::Hold`]).
    #[track_caller]
    pub fn wait_until_held(&self) {
        self.wait_until_so_many_held(1);
    }

    /// Waits until the deliverer waits for so many answers that are held.
    #[track_caller]
    pub fn wait_until_so_many_held(&self, count: usize) {
        let what = format!("{count} answers are held");
        self.wait(&what, |state| state.held - state.released >= count);
    }

    /// Waits until nobody is connected. Then it has all that a client sent that is gone.
    #[track_caller]
    pub fn wait_until_left(&self) {
        self.wait("nobody is connected", |state| state.open == 0);
    }

    /// Gives the answer that is held.
    pub fn go_on(&self) {
        self.state().released += 1;
        self.shared.changed.notify_all();
    }

    /// Is away: refuses connections, and ends those that are there.
    pub fn go_away(&self) {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Listening { stop, thread }) = listening {
            stop.store(true, Ordering::Relaxed);
            self.shared.changed.notify_all();
            // Wakes the listener.
            let _ = TcpStream::connect(self.address);
            let _ = thread.join();
        }
    }

    /// Is back, on the same port.
    pub fn come_back(&self) {
        self.listen(TcpListener::bind(self.address).expect("the port is still free"));
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.state();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it took too long until {what}: {:?}", state.commands);
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, listener: TcpListener) {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&self.shared);
        let (for_thread, offers, tls) = (Arc::clone(&stop), self.offers, self.tls.clone());
        let thread = spawn(move || {
            let mut connections = Vec::new();
            for socket in listener.incoming().map_while(Result::ok) {
                if for_thread.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&for_thread));
                let tls = tls.clone();
                connections.push(spawn(move || {
                    {
                        let mut state = shared.lock();
                        state.connections += 1;
                        state.open += 1;
                        state.most_open = state.most_open.max(state.open);
                    }
                    // How a connection ends is of no interest.
                    let _ =
                        Conversation::new(socket, Arc::clone(&shared), stop, offers, tls).hold();
                    shared.lock().open -= 1;
                    shared.changed.notify_all();
                }));
            }
            for connection in connections {
                let _ = connection.join();
            }
        });
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        *listening = Some(Listening { stop, thread });
    }
}

impl Drop for ScriptedRelay {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was ordered for this moment.
    fn act(&self, at: At, about: &str) -> Option<Act> {
        let rules = &mut self.lock().rules;
        let rule = rules
            .iter_mut()
            .find(|rule| rule.at == at && rule.times > 0 && about.contains(&rule.words))?;
        rule.times = rule.times.saturating_sub(usize::from(rule.times != usize::MAX));
        Some(rule.act.clone())
    }
}

/// A socket, and TLS on it once that has begun.
struct Stream {
    socket: TcpStream,
    tls: Option<ServerConnection>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => rustls::Stream::new(tls, &mut self.socket).read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(tls) => rustls::Stream::new(tls, &mut self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => rustls::Stream::new(tls, &mut self.socket).flush(),
        }
    }
}

struct Conversation {
    stream: BufReader<Stream>,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    offers: &'static [&'static str],
    tls: Tls,
    from: Option<String>,
    to: Vec<String>,
}

/// The connection is over.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Conversation {
    fn new(
        socket: TcpStream,
        shared: Arc<Shared>,
        stop: Arc<AtomicBool>,
        offers: &'static [&'static str],
        tls: Tls,
    ) -> Self {
        // So that a connection that nobody speaks on ends with the relay.
        let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
        let _ = socket.set_nodelay(true);
        let stream = BufReader::new(Stream { socket, tls: None });
        Self { stream, shared, stop, offers, tls, from: None, to: Vec::new() }
    }

    fn hold(&mut self) -> Result<(), Over> {
        if let Tls::Implicit(config) = &self.tls {
            self.begin_tls(Arc::clone(config))?;
        }
        self.answer(At::Greeting, "", "220 scripted.example ESMTP")?;
        loop {
            let command = String::from_utf8_lossy(&self.line()?).trim_end().to_owned();
            self.shared.lock().commands.push(command.clone());
            let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let offers = self.offers();
                    self.answer(At::Ehlo, &command, &offers)?;
                }
                "HELO" => self.say("250 scripted.example")?,
                "STARTTLS" => {
                    let Tls::StartTls(config) = self.tls.clone() else { return Err(Over) };
                    if self.answer(At::StartTls, &command, "220 2.0.0 go ahead")? {
                        self.begin_tls(config)?;
                    }
                }
                "AUTH" => {
                    self.answer(At::Auth, &command, "235 2.7.0 welcome")?;
                }
                "MAIL" => {
                    if self.answer(At::Mail, &command, "250 2.1.0 sender ok")? {
                        (self.from, self.to) = (Some(path(&command)), Vec::new());
                    }
                }
                "RCPT" if self.from.is_some() => {
                    if self.answer(At::Rcpt, &command, "250 2.1.5 recipient ok")? {
                        self.to.push(path(&command));
                    }
                }
                "DATA" if !self.to.is_empty() => self.data()?,
                "RSET" => {
                    self.from = None;
                    self.to.clear();
                    self.say("250 2.0.0 ok")?;
                }
                "QUIT" => return self.answer(At::Quit, &command, "221 2.0.0 bye").map(drop),
                "RCPT" | "DATA" => self.say("503 5.5.1 what comes first?")?,
                _ => self.say("502 5.5.1 what?")?,
            }
        }
    }

    fn offers(&self) -> String {
        let encrypts = matches!(self.tls, Tls::StartTls(_)) && self.stream.get_ref().tls.is_none();
        let mut lines = vec!["250-scripted.example"];
        lines.extend(self.offers);
        lines.extend(encrypts.then_some("STARTTLS"));
        lines.join("\r\n250-") + "\r\n250 HELP"
    }

    fn begin_tls(&mut self, mut config: Arc<ServerConfig>) -> Result<(), Over> {
        match self.shared.act(At::Handshake, "") {
            None => {}
            Some(Act::Show(other)) => config = other,
            Some(act) => {
                // Earlier it would be an answer to STARTTLS.
                self.wait_for_octets()?;
                self.perform(act, "")?;
            }
        }
        let mut tls = ServerConnection::new(config).map_err(|_| Over)?;
        let stream = self.stream.get_mut();
        while tls.is_handshaking() && !self.stop.load(Ordering::Relaxed) {
            match tls.complete_io(&mut stream.socket) {
                Err(error) if !is_no_news(&error) => return Err(Over),
                _ => {}
            }
        }
        stream.tls = Some(tls);
        Ok(())
    }

    /// Waits until something is there, and leaves it there.
    fn wait_for_octets(&self) -> Result<(), Over> {
        let socket = &self.stream.get_ref().socket;
        while !self.stop.load(Ordering::Relaxed) {
            match socket.peek(&mut [0]) {
                Err(error) if is_no_news(&error) => {}
                Ok(1..) => return Ok(()),
                Ok(0) | Err(_) => break,
            }
        }
        Err(Over)
    }

    fn data(&mut self) -> Result<(), Over> {
        let from = self.from.take().unwrap_or_default();
        let to = std::mem::take(&mut self.to);
        let envelope = format!("{from} {}", to.join(" "));
        if !self.answer(At::Data, &envelope, "354 go ahead")? {
            return Ok(());
        }
        let mut bytes = Vec::new();
        loop {
            let first = bytes.is_empty();
            // Strict: a line ends with CRLF (RFC 5321, 2.3.8).
            let line = self.line()?;
            match line.as_slice() {
                b".\r\n" => break,
                [b'.', rest @ ..] | rest => bytes.extend_from_slice(rest),
            }
            if first {
                self.answer(At::Body, &envelope, "")?;
            }
        }
        let about = format!("{envelope} {}", String::from_utf8_lossy(&bytes));
        let number = {
            let mut state = self.shared.lock();
            state.received.push(Received { from, to, bytes, confirmed: false, refused: false });
            self.shared.changed.notify_all();
            state.received.len() - 1
        };
        let confirmed = self.answer(At::FinalDot, &about, "250 2.0.0 queued")?;
        let received = &mut self.shared.lock().received[number];
        (received.confirmed, received.refused) = (confirmed, !confirmed);
        Ok(())
    }

    /// Says what is usual, or does what was ordered. Whether it said yes.
    fn answer(&mut self, at: At, about: &str, usually: &str) -> Result<bool, Over> {
        if let Some(act) = self.shared.act(at, about) {
            return self.perform(act, usually);
        }
        self.say(usually)?;
        Ok(is_yes(usually))
    }

    fn perform(&mut self, act: Act, usually: &str) -> Result<bool, Over> {
        let words = match act {
            Act::Say(words) => words,
            Act::Send(octets) => {
                self.send(&octets)?;
                return Ok(is_yes(&String::from_utf8_lossy(&octets)));
            }
            Act::SayAndHangUp(words) => {
                self.say(words)?;
                return Err(Over);
            }
            Act::HangUp => return Err(Over),
            Act::Reset => {
                let socket = &self.stream.get_ref().socket;
                let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                return Err(Over);
            }
            Act::Babble(octets) => {
                self.send(&octets)?;
                return Ok(false);
            }
            Act::SendAndHangUp(octets) => {
                self.send(&octets)?;
                return Err(Over);
            }
            Act::Flood(octets) => loop {
                self.send(&octets)?;
                self.shared.lock().flooded += octets.len();
            },
            Act::Show(_) => panic!("a certificate is shown at the handshake"),
            Act::Dribble(pause) => {
                for octet in format!("{usually}\r\n").bytes() {
                    self.send(&[octet])?;
                    std::thread::sleep(pause);
                }
                return Ok(is_yes(usually));
            }
            Act::Hold => {
                let mut state = self.shared.lock();
                state.held += 1;
                let mine = state.held;
                self.shared.changed.notify_all();
                while state.released < mine {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(Over);
                    }
                    let wait = self.shared.changed.wait_timeout(state, Duration::from_millis(50));
                    state = wait.unwrap_or_else(PoisonError::into_inner).0;
                }
                usually
            }
            Act::Take(time) => {
                std::thread::sleep(time);
                usually
            }
        };
        self.say(words)?;
        Ok(is_yes(words))
    }

    /// Says this on a line of its own, if it is anything.
    fn say(&mut self, words: &str) -> Result<(), Over> {
        if words.is_empty() { Ok(()) } else { self.send(format!("{words}\r\n").as_bytes()) }
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Over> {
        let stream = self.stream.get_mut();
        stream.write_all(octets)?;
        Ok(stream.flush()?)
    }

    fn line(&mut self) -> Result<Vec<u8>, Over> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Over);
            }
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) => return Err(Over),
                Ok(_) => {}
                Err(error) if is_no_news(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(line)
    }
}

/// Whether nothing has come so far.
fn is_no_news(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether a reply is a positive one.
fn is_yes(reply: &str) -> bool {
    reply.starts_with(['2', '3'])
}

/// What stands between the brackets of a command.
fn path(command: &str) -> String {
    let inside = command.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map(|(path, _)| path.to_owned()).unwrap_or_default()
}
