//! A relay that does what its script says, for tests: each [`Moment`] of the conversation has a good default, and a
//! script replaces it by an [`Action`] (a refusal, garbage, silence, a lost connection, …).
//!
//! It needs nothing of the code under test.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A step of the conversation at which the relay acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The connection is there.
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// After the reply to STARTTLS, or at once with implicit TLS; only for actions other than saying.
    Handshake,
    /// AUTH itself, with PLAIN's credentials.
    Auth,
    /// LOGIN's user name.
    AuthUser,
    /// LOGIN's password.
    AuthPassword,
    Rset,
    Mail,
    Rcpt,
    Data,
    /// So many bytes of the message have come. Nothing happens by default.
    InMessage(usize),
    FinalDot,
    Quit,
    /// A mail was just answered. Nothing happens by default.
    AfterMail,
}

/// What the relay does at a moment.
#[derive(Clone, Debug)]
pub enum Action {
    /// Says this, byte for byte, and goes on as the reply's code demands.
    Say(Vec<u8>),
    /// Says this and closes the connection.
    SayAndDrop(Vec<u8>),
    /// Says this and neither reads nor speaks any more.
    SayAndHang(Vec<u8>),
    /// Closes the connection.
    Drop,
    /// Resets the connection (RST).
    Reset,
    /// Neither reads nor speaks any more.
    Hang,
    /// Says this over and over, a byte every 20 ms.
    Dribble(Vec<u8>),
}

/// Says `text`.
pub fn say(text: impl AsRef<[u8]>) -> Action {
    Action::Say(text.as_ref().to_vec())
}

/// What a relay offers, and what it does other than usual.
#[derive(Clone, Default)]
pub struct Script {
    offers: Vec<String>,
    tls: Option<Arc<ServerConfig>>,
    implicit: bool,
    login: Option<(String, String)>,
    actions: HashMap<Moment, Vec<Action>>,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers an extension in its replies to EHLO.
    pub fn offers(mut self, extension: &str) -> Self {
        self.offers.push(extension.into());
        self
    }

    /// Offers STARTTLS (until TLS has begun).
    pub fn start_tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Begins with TLS.
    pub fn implicit_tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self.implicit = true;
        self
    }

    /// The login that AUTH takes; any other gets a 535.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// Acts this way when the moment comes; said again, when it comes for the next time.
    pub fn at(mut self, moment: Moment, action: Action) -> Self {
        self.actions.entry(moment).or_default().push(action);
        self
    }
}

/// What one connection has brought.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Every command line, without its CRLF; AUTH's continuation lines too.
    pub commands: Vec<String>,
    /// Every message whose final dot came, as the sender meant it.
    pub messages: Vec<Vec<u8>>,
    /// Whether a command came before the one ahead of it was answered.
    pub pipelined: bool,
    /// Whether it ended with TLS.
    pub encrypted: bool,
}

/// A relay at work. It ends when dropped.
pub struct ScriptedRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    script: Script,
    /// How often each moment has come, over all connections.
    count: Mutex<HashMap<Moment, usize>>,
    sessions: Mutex<Vec<Session>>,
    stop: AtomicBool,
}

impl ScriptedRelay {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(script: Script) -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), script)
    }

    /// Listens on a free port of this address.
    pub fn start_at(address: IpAddr, script: Script) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            script,
            count: Mutex::default(),
            sessions: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let for_listener = Arc::clone(&shared);
        let listener = thread::spawn(move || {
            let mut connections = Vec::new();
            for socket in listener.incoming().map_while(Result::ok) {
                if for_listener.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&for_listener);
                connections.push(thread::spawn(move || serve(socket, &shared)));
            }
            for connection in connections {
                let _ = connection.join();
            }
        });
        Self { address, shared, listener: Some(listener) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What each connection has brought so far.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.sessions.lock().unwrap().clone()
    }

    /// All commands that start with `verb`, over all connections.
    pub fn commands(&self, verb: &str) -> Vec<String> {
        let sessions = self.sessions().into_iter().flat_map(|session| session.commands);
        sessions.filter(|command| command.starts_with(verb)).collect()
    }

    /// All messages whose final dot came, over all connections.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.sessions().into_iter().flat_map(|session| session.messages).collect()
    }
}

impl Drop for ScriptedRelay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Takes a message off the wire: up to its final dot (nothing if there is none), and what follows. Strict: a line ends
/// with CRLF, and with nothing else.
pub fn unstuff(wire: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut message = Vec::new();
    let mut rest = wire;
    loop {
        let end = find_crlf(rest)?;
        let (line, after) = rest.split_at(end + 2);
        rest = after;
        match line {
            b".\r\n" => return Some((message, rest)),
            [b'.', line @ ..] | line => message.extend_from_slice(line),
        }
    }
}

fn find_crlf(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\r\n")
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// While TLS begins.
    Nothing,
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
            Self::Nothing => unreachable!("only while TLS begins"),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Nothing => unreachable!("only while TLS begins"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Nothing => unreachable!("only while TLS begins"),
        }
    }
}

/// The connection is over; how is of no interest.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

struct Conversation<'a> {
    stream: Stream,
    received: Vec<u8>,
    shared: &'a Shared,
    /// Where its session is.
    index: usize,
    /// Whether a sender, and a recipient, were taken for the mail under way.
    sender: bool,
    recipient: bool,
}

fn serve(socket: TcpStream, shared: &Shared) {
    let index = {
        let mut sessions = shared.sessions.lock().unwrap();
        sessions.push(Session::default());
        sessions.len() - 1
    };
    // So that a connection left open by a test ends with it.
    let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = socket.set_nodelay(true);
    let stream = Stream::Plain(socket);
    let mut conversation = Conversation {
        stream,
        received: Vec::new(),
        shared,
        index,
        sender: false,
        recipient: false,
    };
    let _ = conversation.hold();
}

impl Conversation<'_> {
    fn hold(&mut self) -> Result<(), Over> {
        if self.shared.script.implicit {
            self.begin_tls()?;
        }
        self.act(Moment::Greeting, "220 scripted.example ESMTP\r\n")?;
        loop {
            let command = self.line()?;
            let verb = command.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let offers = self.offers();
                    self.act(Moment::Ehlo, &offers)?;
                }
                "HELO" => drop(self.act(Moment::Helo, "250 scripted.example\r\n")?),
                "STARTTLS" => {
                    if self.act(Moment::StartTls, "220 go ahead\r\n")?.starts_with(b"220") {
                        self.begin_tls()?;
                    }
                }
                "AUTH" => self.auth(&command)?,
                "RSET" => {
                    self.act(Moment::Rset, "250 reset\r\n")?;
                    (self.sender, self.recipient) = (false, false);
                }
                "MAIL" => {
                    self.sender = self.act(Moment::Mail, "250 sender ok\r\n")?.starts_with(b"2");
                }
                "RCPT" => {
                    let usually =
                        if self.sender { "250 recipient ok\r\n" } else { "503 MAIL first\r\n" };
                    self.recipient |= self.act(Moment::Rcpt, usually)?.starts_with(b"2");
                }
                "DATA" => {
                    let usually = if self.recipient {
                        "354 go ahead\r\n"
                    } else {
                        "554 no valid recipients\r\n"
                    };
                    if self.act(Moment::Data, usually)?.starts_with(b"354") {
                        self.message()?;
                        self.act(Moment::FinalDot, "250 2.0.0 queued\r\n")?;
                        self.act(Moment::AfterMail, "")?;
                        (self.sender, self.recipient) = (false, false);
                    }
                }
                "QUIT" => {
                    self.act(Moment::Quit, "221 bye\r\n")?;
                    return Ok(());
                }
                _ => self.stream.write(b"500 what?\r\n")?,
            }
        }
    }

    fn offers(&self) -> String {
        let encrypted = matches!(self.stream, Stream::Tls(_));
        let mut lines = vec!["scripted.example".to_owned()];
        lines.extend(self.shared.script.offers.iter().cloned());
        if self.shared.script.tls.is_some() && !encrypted {
            lines.push("STARTTLS".into());
        }
        let last = lines.len() - 1;
        let mut reply = String::new();
        for (number, line) in lines.iter().enumerate() {
            reply += if number == last { "250 " } else { "250-" };
            reply += line;
            reply += "\r\n";
        }
        reply
    }

    fn auth(&mut self, command: &str) -> Result<(), Over> {
        let words: Vec<&str> = command.split(' ').collect();
        let (user, password) = self.shared.script.login.clone().unwrap_or_default();
        let given = match words[..] {
            ["AUTH", "PLAIN", response] => response == base64(&format!("\0{user}\0{password}")),
            ["AUTH", "LOGIN"] => {
                if !self.act(Moment::Auth, "334 VXNlcm5hbWU6\r\n")?.starts_with(b"334") {
                    return Ok(());
                }
                let given_user = self.line()?;
                if !self.act(Moment::AuthUser, "334 UGFzc3dvcmQ6\r\n")?.starts_with(b"334") {
                    return Ok(());
                }
                let given_password = self.line()?;
                given_user == base64(&user) && given_password == base64(&password)
            }
            _ => false,
        };
        let verdict = if given { "235 welcome\r\n" } else { "535 5.7.8 wrong\r\n" };
        let moment =
            if words[1..].first() == Some(&"LOGIN") { Moment::AuthPassword } else { Moment::Auth };
        self.act(moment, verdict)?;
        Ok(())
    }

    fn message(&mut self) -> Result<(), Over> {
        // Only where a whole line has come is it worth looking for the end.
        let mut checked = 0;
        loop {
            let stop = self.shared.script.actions.keys().find_map(|moment| match moment {
                Moment::InMessage(bytes) if self.received.len() >= *bytes => Some(*moment),
                _ => None,
            });
            if let Some(moment) = stop {
                self.act(moment, "")?;
            }
            let ends = self.received.starts_with(b".\r\n")
                || self.received[checked..].windows(5).any(|end| end == b"\r\n.\r\n");
            if ends && let Some((message, rest)) = unstuff(&self.received) {
                self.received = rest.to_vec();
                self.record(|session| session.messages.push(message));
                return Ok(());
            }
            checked = self.received.len().saturating_sub(4);
            self.receive()?;
        }
    }

    fn begin_tls(&mut self) -> Result<(), Over> {
        self.act(Moment::Handshake, "")?;
        let config = self.shared.script.tls.clone().ok_or(Over)?;
        let mut session = ServerConnection::new(config).map_err(|_| Over)?;
        let Stream::Plain(mut socket) = std::mem::replace(&mut self.stream, Stream::Nothing) else {
            return Err(Over);
        };
        while session.is_handshaking() && !self.shared.stop.load(Ordering::Relaxed) {
            match session.complete_io(&mut socket) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(Over),
                _ => {}
            }
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(session, socket)));
        self.record(|session| session.encrypted = true);
        Ok(())
    }

    fn line(&mut self) -> Result<String, Over> {
        let end = loop {
            if let Some(end) = find_crlf(&self.received) {
                break end;
            }
            self.receive()?;
        };
        let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 2);
        let more = !self.received.is_empty();
        self.record(|session| {
            session.commands.push(line.clone());
            session.pipelined |= more;
        });
        Ok(line)
    }

    fn receive(&mut self) -> Result<(), Over> {
        let mut buffer = vec![0; 64 * 1024];
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(length) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Over),
            }
        }
        Err(Over)
    }

    /// Does what the script says, or else says `usually`; gives what was said.
    fn act(&mut self, moment: Moment, usually: &str) -> Result<Vec<u8>, Over> {
        let nth = {
            let mut count = self.shared.count.lock().unwrap();
            let nth = count.entry(moment).or_default();
            *nth += 1;
            *nth - 1
        };
        let action = self.shared.script.actions.get(&moment).and_then(|actions| actions.get(nth));
        match action.cloned().unwrap_or_else(|| say(usually)) {
            Action::Say(text) => {
                self.stream.write(&text)?;
                return Ok(text);
            }
            Action::SayAndDrop(text) => self.stream.write(&text)?,
            Action::SayAndHang(text) => {
                self.stream.write(&text)?;
                self.hang();
            }
            Action::Drop => {}
            Action::Reset => {
                let _ = rustix::net::sockopt::set_socket_linger(
                    self.stream.socket(),
                    Some(Duration::ZERO),
                );
            }
            Action::Hang => self.hang(),
            Action::Dribble(text) => {
                for byte in text.iter().cycle() {
                    if self.shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    self.stream.write(&[*byte])?;
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Err(Over)
    }

    fn hang(&self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn record(&self, change: impl FnOnce(&mut Session)) {
        change(&mut self.shared.sessions.lock().unwrap()[self.index]);
    }
}

/// RFC 4648, section 4.
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            encoded.push(if digit <= chunk.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    encoded
}
