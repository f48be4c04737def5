//! How the stream is shown: decided once, from facts.

/// What is known of the terminal; collected by the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TerminalFacts {
    /// stdin is a terminal.
    pub stdin: bool,
    /// stdout is a terminal.
    pub stdout: bool,
    /// stderr is a terminal.
    pub stderr: bool,
    /// `NO_COLOR` is set to something.
    pub no_color: bool,
    /// `TERM` is `dumb` or missing.
    pub dumb: bool,
}

impl TerminalFacts {
    /// Whether a question can be put: someone must see it and be able to answer (facts/ssh.md S53).
    pub fn can_ask(self) -> bool {
        self.stdin && self.stdout
    }

    /// Whether human text on stderr may be coloured.
    pub fn colours(self) -> bool {
        self.stderr && !self.no_color && !self.dumb
    }
}

/// How the stream is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bars at the bottom, lines above them.
    Bars,
    /// Lines alone, for pipes, CI and `--no-progress`.
    Plain,
    /// JSON lines on stdout.
    Json,
}

impl Mode {
    /// Decides by flags and facts: `--json` first, bars only on a terminal that can draw them.
    pub fn choose(json: bool, no_progress: bool, facts: TerminalFacts) -> Self {
        match (json, no_progress, facts.stderr && !facts.dumb) {
            (true, _, _) => Mode::Json,
            (false, false, true) => Mode::Bars,
            (false, _, _) => Mode::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_need_a_terminal_that_can_draw_them() {
        let terminal = TerminalFacts { stdin: true, stdout: true, stderr: true, ..TerminalFacts::default() };
        assert_eq!(Mode::choose(false, false, terminal), Mode::Bars);
        assert_eq!(Mode::choose(false, true, terminal), Mode::Plain);
        assert_eq!(Mode::choose(true, false, terminal), Mode::Json);
        assert_eq!(Mode::choose(false, false, TerminalFacts { dumb: true, ..terminal }), Mode::Plain);
        assert_eq!(Mode::choose(false, false, TerminalFacts { stderr: false, ..terminal }), Mode::Plain);
    }

    #[test]
    fn a_question_needs_a_terminal_on_stdin_and_stdout() {
        let both = TerminalFacts { stdin: true, stdout: true, ..TerminalFacts::default() };
        assert!(both.can_ask());
        assert!(!TerminalFacts { stdin: false, ..both }.can_ask());
        assert!(!TerminalFacts { stdout: false, ..both }.can_ask());
    }

    #[test]
    fn no_color_and_pipes_have_no_colours() {
        let terminal = TerminalFacts { stderr: true, ..TerminalFacts::default() };
        assert!(terminal.colours());
        assert!(!TerminalFacts { no_color: true, ..terminal }.colours());
        assert!(!TerminalFacts::default().colours());
    }
}
