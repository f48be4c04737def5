//! A program on another machine, over a connection of its own, behind a socket that any thread reads and writes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use openssh::Session;
use pc_switcher_contract::{ErrorKind, ExecError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::channels::Channels;
use super::env::RemoteEnv;
use super::error::ReachError;
use super::master::Master;
use super::watchdog;

/// What a program complains is kept up to this.
const KEPT: usize = 4 << 10;
/// How long the program may take to end when nobody asks it anything any more, and ssh to say why it did.
const PATIENCE: Duration = Duration::from_secs(2);

/// A program, running elsewhere. It ends with the socket.
pub struct Piped {
    /// What it reads and writes.
    pub socket: UnixStream,
    /// Why it ended.
    pub ending: Ending,
}

/// Why a program elsewhere ended, once it has.
#[derive(Clone, Default)]
pub struct Ending(Arc<(Mutex<Option<Told>>, Condvar)>);

/// What sort of ending it was, and in whose words.
type Told = (ErrorKind, String);

impl Ending {
    /// Returns why, and waits a moment for it: [`ErrorKind::Unreachable`] if ssh ended, not the program.
    pub fn why(&self) -> Option<(ErrorKind, String)> {
        let (told, news) = &*self.0;
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = news.wait_timeout_while(told, 2 * PATIENCE, |told| told.is_none());
        waited.map_or(None, |(told, _)| told.clone())
    }

    fn tell(&self, why: Told) {
        let (told, news) = &*self.0;
        told.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        news.notify_all();
    }
}

/// Logs in to `target` and starts a program there.
///
/// # Errors
/// Why there is no connection. That there is no such program is what its ending tells.
pub async fn start(
    target: &OsStr,
    argv: &[&OsStr],
    env: &RemoteEnv,
    cancel: &CancellationToken,
) -> Result<Piped, ReachError> {
    let master = Master::start(target, env, cancel).await?;
    let session = Arc::new(Session::resume_mux(master.socket().into(), None));
    let typed = target.to_string_lossy().into_owned();
    let channels = Channels::new(session, 1, typed.clone(), Arc::clone(&env.log));
    let mut line = "exec".to_owned();
    for word in argv {
        line.push(' ');
        line.push_str(&String::from_utf8_lossy(&watchdog::quote(word)));
    }
    let opened = tokio::select! {
        opened = channels.open(line) => opened,
        why = master.lost() => Err(ExecError::Transport { hostname: typed.clone(), why }),
        () = cancel.cancelled() => Err(ExecError::Cancelled),
    };
    let paired = |error: io::Error| ExecError::Spawn {
        hostname: typed.clone(),
        program: "ssh".into(),
        why: error.to_string(),
    };
    let sockets = UnixStream::pair().and_then(|(ours, theirs)| {
        theirs.set_nonblocking(true)?;
        Ok((ours, tokio::net::UnixStream::from_std(theirs)?))
    });
    match (opened, sockets.map_err(paired)) {
        (Ok(channel), Ok((socket, theirs))) => {
            let ending = Ending::default();
            tokio::spawn(pump(channel, theirs, master, ending.clone()));
            Ok(Piped { socket, ending })
        }
        (Err(error), _) | (_, Err(error)) => {
            master.close().await;
            Err(error.into())
        }
    }
}

/// Carries bytes both ways until one side ends, says why, and closes everything.
async fn pump(channel: Channel, socket: tokio::net::UnixStream, master: Master, ending: Ending) {
    let Channel { mut stdin, mut stdout, stderr, exit } = channel;
    let (mut from, mut to) = socket.into_split();
    let mut words = Vec::new();
    {
        let up = async {
            let _ = copy(&mut from, &mut stdin).await;
            // The program reads the end of its input and ends.
            let _ = stdin.shutdown().await;
        };
        let down = async { tokio::join!(copy(&mut stdout, &mut to), last_words(stderr, &mut words)) };
        tokio::pin!(down);
        tokio::select! {
            _ = &mut down => {}
            _ = master.lost() => {}
            () = up => drop(timeout(PATIENCE, &mut down).await),
        }
    }
    drop((stdin, stdout));
    let ended = tokio::select! {
        biased;
        why = master.lost() => (ErrorKind::Unreachable, why),
        code = timeout(PATIENCE, exit) => match code {
            Ok(Ok(code)) => (ErrorKind::Invalid, said(&words, code)),
            Ok(Err(error)) => (ErrorKind::Unreachable, error.to_string()),
            Err(_) => (ErrorKind::Unreachable, "it does not end".into()),
        },
    };
    ending.tell(ended);
    drop((from, to));
    master.close().await;
}

/// Reads what a program complains to the end, and keeps the last of it.
async fn last_words(mut from: Box<dyn AsyncRead + Send + Unpin>, words: &mut Vec<u8>) {
    let mut chunk = [0; 1024];
    while let Ok(count) = from.read(&mut chunk).await {
        if count == 0 {
            return;
        }
        words.extend_from_slice(&chunk[..count]);
        let excess = words.len().saturating_sub(KEPT);
        words.drain(..excess);
    }
}

/// Returns the last line of what a program complained, or with which code it ended.
fn said(words: &[u8], code: i32) -> String {
    let text = String::from_utf8_lossy(words);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let last = last.map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    last.unwrap_or_else(|| format!("it ended with exit code {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_what_counts() {
        assert_eq!(
            said(b"motd\nsh: 1: exec: pc-switcher: not found\n\n", 127),
            "sh: 1: exec: pc-switcher: not found"
        );
        assert_eq!(said(b" \n", 127), "it ended with exit code 127");
    }

    #[test]
    fn an_ending_is_told_once_and_to_everybody() {
        let ending = Ending::default();
        let waits = std::thread::spawn({
            let ending = ending.clone();
            move || ending.why()
        });
        ending.tell((ErrorKind::Invalid, "first".into()));
        ending.tell((ErrorKind::Unreachable, "second".into()));
        assert_eq!(waits.join().unwrap(), Some((ErrorKind::Invalid, "first".into())));
        assert_eq!(ending.why(), Some((ErrorKind::Invalid, "first".into())));
    }
}
