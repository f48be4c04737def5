//! Drives one watched command: feeds it, drains both outputs at once, ends it when it is late or unwanted.
//!
//! Invariant: a command ends with exactly one [`Verdict`] or one error, and its channel is held until then.

use std::time::Duration;

use pc_switcher_contract::{ExecError, OutputLine};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::channel::Channel;
use super::watchdog::{GRACE, NO_PROGRAM, READY};

/// What a command reads.
pub(super) enum Input {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes of this file.
    File(tokio::fs::File, u64),
}

impl Input {
    /// Returns how many bytes will be fed.
    pub(super) fn len(&self) -> u64 {
        match self {
            Input::Bytes(bytes) => bytes.len() as u64,
            Input::File(_, len) => *len,
        }
    }
}

/// One command on its way.
pub(super) struct Job {
    /// The machine's name.
    pub(super) hostname: String,
    /// The command for people.
    pub(super) what: String,
    /// The program, for the error that it does not exist.
    pub(super) program: String,
    /// What the watchdog reads first.
    pub(super) spec: Vec<u8>,
    /// What the command reads.
    pub(super) input: Input,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// Where output goes.
pub(super) enum Taker {
    /// Into memory, up to a limit in bytes.
    Collect(Vec<u8>, usize),
    /// Away as lines; CR ends a line too (ssh.md S21).
    Lines(LineSplitter, mpsc::Sender<OutputLine>, fn(Vec<u8>) -> OutputLine),
}

impl Taker {
    pub(super) async fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Taker::Collect(kept, limit) if kept.len() + bytes.len() > *limit => {
                Err(format!("more than {limit} bytes of output"))
            }
            Taker::Collect(kept, _) => {
                kept.extend_from_slice(bytes);
                Ok(())
            }
            Taker::Lines(splitter, sender, make) => {
                for line in splitter.push(bytes) {
                    // Nobody listens any more: the command goes on, its words are lost.
                    let _ = sender.send(make(line)).await;
                }
                Ok(())
            }
        }
    }

    pub(super) async fn end(&mut self) {
        if let Taker::Lines(splitter, sender, make) = self
            && let Some(line) = splitter.finish()
        {
            let _ = sender.send(make(line)).await;
        }
    }

    /// Returns what was collected.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self {
            Taker::Collect(bytes, _) => bytes,
            Taker::Lines(..) => Vec::new(),
        }
    }
}

/// Cuts a stream into lines at LF, CR and CR LF; a line over 64 KiB is cut there.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    partial: Vec<u8>,
    after_cr: bool,
}

impl LineSplitter {
    const LONGEST: usize = 64 << 10;

    /// Takes bytes and returns the lines that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if second_half => {}
                b'\n' | b'\r' => lines.push(std::mem::take(&mut self.partial)),
                other => {
                    self.partial.push(other);
                    if self.partial.len() == Self::LONGEST {
                        lines.push(std::mem::take(&mut self.partial));
                    }
                }
            }
        }
        lines
    }

    /// Returns what is left without a line end.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By itself, with this code.
    Exited(i32),
    /// It was late and was ended.
    TimedOut,
    /// It was ended on request.
    Stopped,
}

/// A request to end a command: how long it has between TERM and KILL.
pub(super) type Stop = watch::Receiver<Option<Duration>>;

pub(super) async fn stop_requested(stop: &mut Stop) -> Duration {
    loop {
        if let Some(grace) = *stop.borrow_and_update() {
            return grace;
        }
        if stop.changed().await.is_err() {
            return GRACE;
        }
    }
}

/// What became of one output.
struct Copied {
    /// What came instead of the ready mark, if it never came.
    noise: Option<Vec<u8>>,
    /// The last bytes.
    tail: Vec<u8>,
}

/// Copies a stream to its taker, from the ready mark on.
async fn copy(mut from: Box<dyn AsyncRead + Send + Unpin>, to: &mut Taker) -> Result<Copied, String> {
    let mut copied = Copied { noise: Some(Vec::new()), tail: Vec::new() };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let mut bytes = &buffer[..count];
        let rest;
        if let Some(noise) = &mut copied.noise {
            noise.extend_from_slice(bytes);
            let mark = noise.windows(READY.len()).position(|window| window == READY);
            match mark {
                Some(at) => rest = noise.split_off(at + READY.len()),
                None if noise.len() > 1 << 20 => return Err("the login shell prints without end".into()),
                None => continue,
            }
            copied.noise = None;
            bytes = &rest;
        }
        to.take(bytes).await?;
        copied.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(NO_PROGRAM.len())..]);
        let excess = copied.tail.len().saturating_sub(NO_PROGRAM.len());
        copied.tail.drain(..excess);
    }
    to.end().await;
    Ok(copied)
}

/// Sends everything that the watchdog reads before it waits for words. Returns whether it took all of it.
///
/// # Errors
/// If the input is not there as promised.
async fn feed(stdin: &mut (impl AsyncWrite + Unpin), spec: &[u8], input: Input) -> Result<bool, String> {
    if stdin.write_all(spec).await.is_err() {
        return Ok(false);
    }
    match input {
        Input::Bytes(bytes) => {
            if stdin.write_all(&bytes).await.is_err() {
                return Ok(false);
            }
        }
        Input::File(mut file, mut left) => {
            let mut buffer = vec![0; 256 << 10];
            while left > 0 {
                let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = file.read(&mut buffer[..want]).await.map_err(|error| error.to_string())?;
                if count == 0 {
                    return Err("the file became shorter while it was sent".into());
                }
                if stdin.write_all(&buffer[..count]).await.is_err() {
                    return Ok(false);
                }
                left -= count as u64;
            }
        }
    }
    Ok(stdin.write_all(b"\n").await.is_ok() && stdin.flush().await.is_ok())
}

/// Why a command does not run to its end.
enum Cut {
    /// It was late.
    Late,
    /// Somebody wants it to end, with so much time between TERM and KILL.
    Unwanted(Duration),
    /// Its input failed.
    Input(String),
}

/// Runs a job on a fresh channel to its end.
///
/// # Errors
/// If there is no answer: the channel broke, the program does not exist, or it wrote more than was allowed.
pub(super) async fn drive(
    channel: Channel,
    job: Job,
    mut stop: Stop,
    stdout: &mut Taker,
    stderr: &mut Taker,
) -> Result<Verdict, ExecError> {
    let Channel { mut stdin, stdout: out, stderr: err, exit } = channel;
    let (hostname, what) = (job.hostname, job.what);
    let failed = |why: String| ExecError::Failed { hostname: hostname.clone(), what: what.clone(), why };
    let mut fed = None;
    let mut reading = Box::pin(async { tokio::try_join!(copy(out, stdout), copy(err, stderr)) });
    let cut = {
        let mut feeding = Box::pin(feed(&mut stdin, &job.spec, job.input));
        let mut late = Box::pin(sleep(job.limit));
        loop {
            tokio::select! {
                read = &mut reading => break Ok(read),
                result = &mut feeding, if fed.is_none() => match result {
                    Ok(whole) => fed = Some(whole),
                    Err(why) => break Err(Cut::Input(why)),
                },
                () = &mut late => break Err(Cut::Late),
                grace = stop_requested(&mut stop) => break Err(Cut::Unwanted(grace)),
            }
        }
    };
    let (out, err) = match cut {
        Ok(read) => read.map_err(&failed)?,
        Err(cut) => {
            let grace = if let Cut::Unwanted(grace) = cut { grace } else { GRACE };
            // The watchdog hears words once it has passed on the whole input; otherwise the end of the stream says it.
            let mut over = false;
            if fed == Some(true) && stdin.write_all(b"TERM\n").await.is_ok() {
                over = timeout(grace, &mut reading).await.is_ok();
            }
            if !over {
                if fed == Some(true) {
                    let _ = stdin.write_all(b"KILL\n").await;
                }
                drop(stdin);
                let _ = timeout(GRACE + Duration::from_secs(3), reading).await;
            }
            return match cut {
                Cut::Late => Ok(Verdict::TimedOut),
                Cut::Unwanted(_) => Ok(Verdict::Stopped),
                Cut::Input(why) => Err(failed(why)),
            };
        }
    };
    drop(reading);
    drop(stdin);
    let code = exit.await?;
    if let (Some(mut noise), Some(more)) = (out.noise, err.noise) {
        noise.extend_from_slice(&more);
        let words = String::from_utf8_lossy(&noise).trim().to_owned();
        let words = if words.is_empty() { "nothing".into() } else { format!("{words:?}") };
        return Err(failed(format!("the login shell did not start it (exit {code}) and said {words}")));
    }
    if code == 127 && err.tail == NO_PROGRAM {
        return Err(ExecError::Spawn {
            hostname,
            program: job.program,
            why: "there is no such program".into(),
        });
    }
    Ok(Verdict::Exited(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriage_returns_end_lines_and_crlf_ends_one() {
        let mut splitter = LineSplitter::default();
        let mut lines = splitter.push(b"10%\r20%\r\nnext\r");
        lines.extend(splitter.push(b"\n\nlast"));
        lines.extend(splitter.finish());
        let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert_eq!(lines, ["10%", "20%", "next", "", "last"]);
    }

    #[tokio::test]
    async fn noise_of_a_login_shell_is_skipped_even_in_pieces() {
        let (mut write, read) = tokio::io::duplex(64);
        let writing = async move {
            for piece in ["Welcome!\npc-switch", "er-ready\nda", "ta"] {
                write.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut taker = Taker::Collect(Vec::new(), 100);
        let (copied, ()) = tokio::join!(copy(Box::new(read), &mut taker), writing);
        assert!(copied.unwrap().noise.is_none());
        assert_eq!(taker.into_bytes(), b"data");
    }
}
