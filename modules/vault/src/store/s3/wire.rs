//! The line to a server: found, dialled, written and read in short steps, so that silence and Ctrl+C end any wait.
//!
//! Names are found by `getent`: a static glibc must not be asked for them (`docs/adr/0002-static-glibc.md`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use crate::store::{SILENCE_AT_THE_END, Stop};

/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(100);
/// How long one address may take to answer a call.
const DIAL: Duration = Duration::from_secs(15);
/// More addresses of one name are not tried.
const MOST: usize = 16;

/// When a wait ends.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) stop: Stop,
    /// Whether a stop ends what is under way, or only makes it hurry.
    pub(super) is_stopped: bool,
    /// How long nothing may come or go.
    pub(super) silence: Duration,
}

impl Patience {
    fn check(&self, since: Instant) -> io::Result<()> {
        let is_asked = self.stop.is_asked();
        if is_asked && self.is_stopped {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "stopped on request"));
        }
        let most = if is_asked { self.silence.min(SILENCE_AT_THE_END) } else { self.silence };
        if since.elapsed() < most {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::TimedOut, format!("nothing came or went for {} s", most.as_secs())))
    }
}

/// Finds the addresses of servers.
#[derive(Debug)]
pub(super) struct Names(pub(super) Patience);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(usual);
        let all = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.ask(host)?,
        };
        let mut found = self.empty();
        for address in all.into_iter().take(MOST) {
            found.push(SocketAddr::new(address, port));
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
    }
}

impl Names {
    fn ask(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = Command::new("getent");
        asked.args(["ahosts", host]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = asked.spawn().map_err(|error| {
            io::Error::other(format!("cannot start `getent`, which finds `{host}`: {error}"))
        })?;
        let begun = Instant::now();
        // The answer is a few lines: it never fills the pipe.
        while child.try_wait()?.is_none() {
            if let Err(error) = self.0.check(begun) {
                child.kill().ok();
                child.wait().ok();
                return Err(error);
            }
            std::thread::sleep(TICK / 20);
        }
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut said)?;
        }
        Ok(addresses(&said))
    }
}

/// Reads lines of `ADDRESS KIND NAME`, one per address and kind.
fn addresses(said: &str) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for address in said.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Dialler(pub(super) Patience);

impl Connector<()> for Dialler {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
        for address in details.addrs.iter() {
            match self.dial(*address) {
                Ok(stream) => {
                    let (input, output) =
                        (details.config.input_buffer_size(), details.config.output_buffer_size());
                    let buffers = LazyBuffers::new(input, output);
                    return Ok(Some(Wire { stream, buffers, patience: self.0.clone() }));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed.into())
    }
}

impl Dialler {
    fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let (send, dialled) = channel();
        let thread = std::thread::Builder::new().name("vault-dial".into());
        thread.spawn(move || send.send(TcpStream::connect_timeout(&address, DIAL)))?;
        let begun = Instant::now();
        let stream = loop {
            match dialled.recv_timeout(TICK) {
                Ok(stream) => break stream?,
                Err(RecvTimeoutError::Timeout) => self.0.check(begun)?,
                Err(RecvTimeoutError::Disconnected) => return Err(ErrorKind::ConnectionAborted.into()),
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(stream)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffers: LazyBuffers,
    patience: Patience,
}

/// Whether a step of a wait is over, and nothing else.
fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = &self.buffers.output()[..amount];
        let mut since = Instant::now();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => {
                    rest = &rest[written..];
                    since = Instant::now();
                    // A line that is busy is stopped, too.
                    self.patience.check(since)?;
                }
                Err(error) if is_tick(&error) => self.patience.check(since)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let since = Instant::now();
        self.patience.check(since)?;
        let room = self.buffers.input_append_buf();
        let read = loop {
            match self.stream.read(room) {
                Ok(read) => break read,
                Err(error) if is_tick(&error) => self.patience.check(since)?,
                Err(error) => return Err(error.into()),
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // What comes unasked, and the end, are no answers.
        let silent = |stream: &TcpStream| {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            Ok::<bool, io::Error>(seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
        };
        silent(&self.stream).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_counts_once() {
        let said = "127.0.0.1       STREAM localhost\n127.0.0.1       DGRAM\n::1 STREAM\nodd line\n\n";
        let all: Vec<String> = addresses(said).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["127.0.0.1", "::1"]);
    }

    #[test]
    fn silence_ends_and_a_stop_ends_what_it_may() {
        let stop = Stop::default();
        let patience = |is_stopped, silence| Patience { stop: stop.clone(), is_stopped, silence };
        let long = Duration::from_secs(3600);
        let error = patience(false, Duration::ZERO).check(Instant::now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        patience(true, long).check(Instant::now()).unwrap();
        stop.when(|| true);
        assert_eq!(patience(true, long).check(Instant::now()).unwrap_err().to_string(), "stopped on request");
        patience(false, long).check(Instant::now()).unwrap();
    }
}
