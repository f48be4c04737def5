//! The states of a connection (rows D701 to D714), as a pure function.

use thiserror::Error;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Nothing runs.
    Disconnected,
    /// ssh runs and may be asking questions.
    Connecting,
    /// Channels can be opened.
    Connected,
    /// It is being closed.
    Disconnecting,
    /// It failed: it never came about, or it was lost.
    Error,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionStep {
    /// Somebody wants it.
    Connect,
    /// The master answers.
    Established,
    /// Somebody wants its end.
    Disconnect,
    /// The master is gone, as wanted.
    Closed,
    /// The master is gone, unwanted, or never answered.
    Failed,
}

/// A step that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a connection that is {from:?} cannot do {step:?}")]
pub struct IllegalStep {
    /// The state.
    pub from: ConnectionState,
    /// The step.
    pub step: ConnectionStep,
}

impl ConnectionState {
    /// Returns the state after `step`.
    ///
    /// # Errors
    /// If this state does not allow it.
    pub fn next(self, step: ConnectionStep) -> Result<ConnectionState, IllegalStep> {
        use ConnectionState as S;
        use ConnectionStep as T;
        Ok(match (self, step) {
            (S::Disconnected | S::Error, T::Connect) => S::Connecting,
            (S::Connecting, T::Established) => S::Connected,
            (S::Connecting | S::Connected, T::Disconnect) => S::Disconnecting,
            (S::Disconnecting, T::Closed) | (S::Error, T::Disconnect) => S::Disconnected,
            (S::Connecting | S::Connected | S::Disconnecting, T::Failed) => S::Error,
            (from, step) => return Err(IllegalStep { from, step }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionState as S;
    use ConnectionStep as T;

    const STATES: [S; 5] = [S::Disconnected, S::Connecting, S::Connected, S::Disconnecting, S::Error];
    const STEPS: [T; 5] = [T::Connect, T::Established, T::Disconnect, T::Closed, T::Failed];

    #[test]
    fn a_connection_goes_round_and_comes_back() {
        let mut state = S::Disconnected;
        for step in [T::Connect, T::Established, T::Disconnect, T::Closed] {
            state = state.next(step).unwrap();
        }
        assert_eq!(state, S::Disconnected);
    }

    #[test]
    fn a_failed_connection_can_be_tried_again_or_put_away() {
        for from in [S::Connecting, S::Connected, S::Disconnecting] {
            assert_eq!(from.next(T::Failed), Ok(S::Error));
        }
        assert_eq!(S::Error.next(T::Connect), Ok(S::Connecting));
        assert_eq!(S::Error.next(T::Disconnect), Ok(S::Disconnected));
    }

    #[test]
    fn only_ten_steps_are_legal_and_none_leads_to_itself() {
        let legal: Vec<_> = STATES
            .iter()
            .flat_map(|from| STEPS.iter().filter_map(|step| from.next(*step).ok().map(|to| (*from, to))))
            .collect();
        assert_eq!(legal.len(), 10);
        assert!(legal.iter().all(|(from, to)| from != to));
    }

    #[test]
    fn nothing_is_connected_without_having_been_connecting() {
        for from in STATES {
            for step in STEPS {
                if from.next(step) == Ok(S::Connected) {
                    assert_eq!(from, S::Connecting);
                }
            }
        }
    }
}
