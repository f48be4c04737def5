//! Everything a person sees: plain lines, bars, questions.
//!
//! [`Screen`] is the one owner of the terminal: it alone writes, and who must write beside it (a question, ssh's own
//! prompts) pauses it first. Of a `sync`, everything human goes to stderr and the final report to stdout; with `--json`
//! stdout holds JSON lines and nothing else. Foreign text is shown as it is, never as markup.

mod bars;
mod console;
mod gates;
mod json;
mod meter;
mod mode;
mod plain;
mod prompt;
mod screen;
mod secret;

pub use self::console::{Asked, Console, FdConsole};
pub use self::gates::Gates;
pub use self::mode::{Mode, TerminalFacts};
pub use self::prompt::Prompter;
pub use self::screen::{Outputs, Pause, Screen, ScreenHandle, ScreenOptions};
pub use self::secret::Secret;
