//! The port on which Prometheus asks: as much of HTTP as a scrape needs (RFC 9112), one client after
//! the other.
//!
//! A client has a second for all it has to say, in a request of 8 KiB at most: none can keep the
//! others waiting for long, or fill the memory.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outbox_config::Failure;
use tracing::debug;

use super::Metrics;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a request may be, in octets.
const LONGEST: usize = 8 * 1024;

/// How long to wait before the next client where accepting one failed: with no file descriptors
/// left, it fails at once, over and over.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Listens from now on, until the program ends. Gives the address, with the port that the system
/// chose where none was asked for.
pub(super) fn start(address: SocketAddr, metrics: Metrics) -> Result<SocketAddr, Failure> {
    let bound =
        TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound
        .with_context(|| format!("cannot listen on {address} (metrics.listen)"))
        .map_err(Failure::Unavailable)?;
    thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((client, _)) => {
                    if let Err(error) = serve(client, &metrics) {
                        debug!("somebody who asked for metrics got none: {error}");
                    }
                }
                Err(error) => {
                    debug!("cannot take a connection for metrics: {error}");
                    thread::sleep(ACCEPT_AGAIN);
                }
            }
        }
    });
    Ok(address)
}

fn serve(mut client: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let request = read_head(&mut client, deadline)?;
    let answer = answer(&request, metrics);
    write(&mut client, answer.as_bytes(), deadline)?;
    client.shutdown(std::net::Shutdown::Write)
}

/// Reads until the empty line that ends the head of a request.
fn read_head(client: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
        }
        client.set_read_timeout(Some(remaining(deadline)?))?;
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(head)
}

fn answer(request: &[u8], metrics: &Metrics) -> String {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split(|b| *b == b'?').next();
    let (status, body) = match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", metrics.text()),
        _ => ("404 Not Found", "ask for GET /metrics\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        prometheus::TEXT_FORMAT,
        body.len()
    )
}

fn write(client: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        client.set_write_timeout(Some(remaining(deadline)?))?;
        match client.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// The time until `deadline`, which is never zero: the socket would take that for "no limit".
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        remaining => Ok(remaining),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> SocketAddr {
        start("127.0.0.1:0".parse().unwrap(), Metrics::new()).unwrap()
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A request that was not read to its end is answered by a reset.
        let _ = client.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn only_a_get_of_metrics_is_answered() {
        let address = listen();
        for good in
            ["GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics?a=b HTTP/1.0\r\n\r\n"]
        {
            let answer = ask(address, good);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            assert!(body.contains("\noutbox_database_up 1\n"), "{body}");
        }
        for other in
            ["GET / HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\n\r\n", "\r\n\r\n", "\0 \r\n\r\n"]
        {
            let answer = ask(address, other);
            assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{other:?}: {answer}");
        }
    }

    #[test]
    fn a_client_that_says_nothing_or_too_much_keeps_nobody_waiting() {
        let address = listen();
        let _silent = TcpStream::connect(address).unwrap();
        let mut endless = TcpStream::connect(address).unwrap();
        let flood = thread::spawn(move || while endless.write_all(&[b'x'; 4096]).is_ok() {});
        let began = Instant::now();
        assert!(
            ask(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("outbox_start_time_seconds")
        );
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        flood.join().unwrap();
    }

    #[test]
    fn a_port_in_use_is_told_by_its_key() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = start(taken.local_addr().unwrap(), Metrics::new()).unwrap_err();
        assert!(matches!(failure, Failure::Unavailable(_)));
        assert!(failure.to_string().contains("(metrics.listen)"), "{failure}");
    }
}
