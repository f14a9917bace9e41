//! Bytes to and from the relay, with or without TLS, never past a deadline.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::retry_on_intr,
    net::{RecvFlags, recv},
};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

/// The most that goes into one TLS record (RFC 8446, section 5.1), so that a chunk is readable for the relay either as a
/// whole or not at all.
const RECORD: usize = 16 * 1024;

/// A connected socket, and the TLS session on it if there is one.
pub(super) struct Link {
    socket: TcpStream,
    tls: Option<Session>,
}

struct Session {
    rustls: Box<ClientConnection>,
    /// How many plaintext bytes are encrypted, and not yet completely handed to the kernel.
    queued: usize,
}

impl Link {
    /// Connects to the first of the host's addresses that answers, within `limit` over all of them.
    pub fn connect(host: &str, port: u16, limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let addresses = resolve(host, port, deadline)?;
        let mut last_error = io::Error::other("the name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            // An equal share of what is left, so that an address that swallows packets leaves time for the next.
            let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(address, remaining(deadline)? / shares) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
                    return Ok(Self { socket, tls: None });
                }
                Err(error) => {
                    last_error = io::Error::new(error.kind(), format!("{address}: {error}"));
                }
            }
        }
        Err(last_error)
    }

    /// Whether what we send stays on this machine.
    pub fn is_loopback(&self) -> bool {
        self.socket.peer_addr().is_ok_and(|peer| is_loopback(peer.ip()))
    }

    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Does the TLS handshake.
    pub fn start_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut rustls = Box::new(ClientConnection::new(config, name).map_err(io::Error::other)?);
        while rustls.is_handshaking() {
            rustls.complete_io(&mut Timed { socket: &self.socket, deadline })?;
        }
        self.tls = Some(Session { rustls, queued: 0 });
        Ok(())
    }

    /// Waits for bytes. 0 means that the relay has closed the connection.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let mut socket = Timed { socket: &self.socket, deadline };
        let read = match &mut self.tls {
            None => socket.read(buffer),
            Some(session) => session.read(buffer, &mut socket),
        };
        self.ended(read)
    }

    /// Reads what is there already; `WouldBlock` means nothing, and 0 that the relay has closed the connection.
    pub fn read_arrived(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = Arrived(&self.socket);
        let read = match &mut self.tls {
            None => socket.read(buffer),
            Some(session) => session.read(buffer, &mut socket),
        };
        self.ended(read)
    }

    /// Hands the beginning of `bytes` to the kernel, and tells how much.
    ///
    /// After an error, nothing of `bytes` can be read by the relay. After `TimedOut` the same bytes may be given again,
    /// and only they: with TLS they may be on their way already.
    pub fn write(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
        let mut socket = Timed { socket: &self.socket, deadline };
        let written = match &mut self.tls {
            None => socket.write(bytes),
            Some(session) => session.write(bytes, &mut socket),
        };
        self.ended(written)
    }

    /// Ends our side of a connection that failed. Mostly it is gone. If not, this tells the relay that nothing more
    /// comes: it ends too, and nobody waits for its reply to what it never got.
    fn ended(&self, done: io::Result<usize>) -> io::Result<usize> {
        use ErrorKind::{TimedOut, WouldBlock};
        done.inspect_err(|error| {
            if !matches!(error.kind(), TimedOut | WouldBlock) {
                let _ = self.socket.shutdown(std::net::Shutdown::Write);
            }
        })
    }

    /// Hands all of `bytes` to the kernel.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let handed = self.write(bytes, deadline)?;
            bytes = &bytes[handed..];
        }
        Ok(())
    }

    /// Tells the relay that nothing more will come. Best effort.
    pub fn close(&mut self, deadline: Instant) {
        if let Some(session) = &mut self.tls {
            session.rustls.send_close_notify();
            let _ = session.flush(&mut Timed { socket: &self.socket, deadline });
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Session {
    fn read(&mut self, buffer: &mut [u8], socket: &mut impl Read) -> io::Result<usize> {
        loop {
            match self.rustls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Closed without saying so inside TLS. A reply's code, once it is here, is the relay's all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            self.rustls.read_tls(socket)?;
            self.rustls
                .process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&mut self, bytes: &[u8], socket: &mut impl Write) -> io::Result<usize> {
        if self.queued == 0 {
            self.flush(socket)?;
            self.queued = self.rustls.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        }
        self.flush(socket)?;
        Ok(std::mem::take(&mut self.queued))
    }

    fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.rustls.wants_write() {
            self.rustls.write_tls(socket)?;
        }
        Ok(())
    }
}

/// The socket, as long as there is time. What a read or write may take is set anew before each, so that many small
/// ones take no longer than one.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn retry(
        &mut self,
        mut operation: impl FnMut(&mut Self, Duration) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let remaining = remaining(self.deadline)?;
            match operation(self, remaining) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                result => return result,
            }
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(|this, remaining| {
            this.socket.set_read_timeout(Some(remaining))?;
            this.socket.read(buffer)
        })
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(|this, remaining| {
            this.socket.set_write_timeout(Some(remaining))?;
            this.socket.write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket, for reading what has arrived and no waiting.
struct Arrived<'a>(&'a TcpStream);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = retry_on_intr(|| recv(self.0, &mut *buffer, RecvFlags::DONTWAIT))?;
        Ok(read)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The time until `deadline`, which is never zero: the socket would take that for "no limit".
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        remaining => Ok(remaining),
    }
}

/// Looks a name up. The resolver knows no deadline, so it works on a thread of its own and may be left behind.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found, wait) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().spawn(move || {
        let addresses = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        // Nobody waits any more: then nobody needs it.
        let _ = found.send(addresses);
    })?;
    wait.recv_timeout(remaining(deadline)?)
        .map_err(|_| io::Error::new(ErrorKind::TimedOut, "the name look-up took too long"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_however_written() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }
}
