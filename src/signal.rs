//! Signals become messages.
//!
//! The first asks for an orderly end, the second skips the waits, the third ends at once. SIGTERM and SIGHUP count
//! like Ctrl+C. What a count means is decided by a pure function; [`Interrupts`] only counts.
//!
//! SIGPIPE stays ignored, as Rust's runtime sets it: a reader of our output that goes away (`| head`) must not kill a
//! sync in the middle of a change. Writers get an error and fall silent; only commands that do nothing but print may
//! end quietly on it. Children get the default disposition back from the standard library.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an interruption asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Escalation {
    /// Cancel: modules get their grace period, then cleanup.
    Cancel,
    /// Skip the waits of cleanup.
    SkipWaits,
    /// Exit at once with 130, after giving the terminal back.
    ExitNow,
}

impl Escalation {
    /// Returns what the `count`-th interruption asks for; counting starts at 1.
    pub fn of(count: u32) -> Self {
        match count {
            0 | 1 => Escalation::Cancel,
            2 => Escalation::SkipWaits,
            _ => Escalation::ExitNow,
        }
    }
}

/// Which signal interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl+C.
    Int,
    /// SIGTERM, for example at shutdown.
    Term,
    /// SIGHUP: the terminal is gone.
    Hup,
}

impl Interrupt {
    /// Returns what the user did, for a log line.
    pub fn as_str(self) -> &'static str {
        match self {
            Interrupt::Int => "Ctrl+C",
            Interrupt::Term => "SIGTERM",
            Interrupt::Hup => "SIGHUP",
        }
    }
}

/// The interruptions of this process, counted over its whole life.
pub struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
    count: u32,
}

impl Interrupts {
    /// Starts listening; from here on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system refuses the handlers. Must be called within a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
            count: 0,
        })
    }

    /// Waits for the next interruption. Cancel safe: one branch of the orchestrator's `select!`.
    pub async fn next(&mut self) -> (Interrupt, Escalation) {
        let which = tokio::select! {
            Some(()) = self.int.recv() => Interrupt::Int,
            Some(()) = self.term.recv() => Interrupt::Term,
            Some(()) = self.hup.recv() => Interrupt::Hup,
            else => std::future::pending().await,
        };
        self.count = self.count.saturating_add(1);
        (which, Escalation::of(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interruptions_escalate_and_more_change_nothing() {
        use Escalation::{Cancel, ExitNow, SkipWaits};
        assert_eq!(
            [1, 2, 3, 4, u32::MAX].map(Escalation::of),
            [Cancel, SkipWaits, ExitNow, ExitNow, ExitNow]
        );
        assert!(Cancel < SkipWaits && SkipWaits < ExitNow);
    }
}
