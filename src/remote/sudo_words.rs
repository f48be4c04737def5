//! From sudo's words to what can be done about them; pure. sudo runs under a locale that does not translate.

use super::error::ReachError;
use pc_switcher_installer::{sudoers_file, sudoers_line};

/// What the words of a program that ended before it greeted mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// sudo wants a password, or wanted one and did not get the right one.
    PasswordWanted,
    /// The user may not use sudo for this.
    NotAllowed,
    /// There is no sudo.
    NoSudo,
    /// The program itself failed.
    Program,
}

/// Reads the words.
pub(super) fn refusal(lines: &[String]) -> Refusal {
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if has(&[
        "not in the sudoers",
        "may not run sudo",
        "is not allowed to",
        "I'm sorry",
        "not allowed to run sudo",
    ]) {
        Refusal::NotAllowed
    } else if has(&[
        "password is required",
        "authentication is required",
        "terminal is required",
        "incorrect password",
        "no password was provided",
        "Maximum",
        "incorrect authentication",
    ]) {
        Refusal::PasswordWanted
    } else if has(&["sudo: not found", "sudo: No such file", "sudo’: No such file", "sudo': No such file"])
    {
        Refusal::NoSudo
    } else {
        Refusal::Program
    }
}

impl Refusal {
    /// Returns the error for the user; `asked` says whether a person was asked for a password.
    pub(super) fn into_error(
        self,
        hostname: &str,
        user: &str,
        program: &str,
        asked: bool,
        lines: &[String],
    ) -> ReachError {
        let line = sudoers_line(user);
        let file = sudoers_file(user);
        let add = format!("add the line `{line}` on {hostname} with `visudo -f {file}`");
        let words = lines.iter().rev().find(|line| !line.trim().is_empty());
        let words = words.map_or_else(|| "it said nothing".to_owned(), |line| line.trim().to_owned());
        let (why, hint) = match self {
            Refusal::PasswordWanted if asked => ("the password was not accepted".to_owned(), add),
            Refusal::PasswordWanted => (
                "it wants a password and there is no terminal to ask for it".to_owned(),
                format!("{add}, or run this from a terminal"),
            ),
            Refusal::NotAllowed => (words, format!("as an administrator, {add}")),
            Refusal::NoSudo => {
                ("there is no sudo".to_owned(), format!("install sudo on {hostname}, then {add}"))
            }
            Refusal::Program => {
                return ReachError::Program {
                    hostname: hostname.to_owned(),
                    why: format!("the agent `{program}` ended before it greeted: {words}"),
                    hint: None,
                };
            }
        };
        ReachError::Sudo { hostname: hostname.to_owned(), user: user.to_owned(), why, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Refusal {
        refusal(&[line.to_owned()])
    }

    #[test]
    fn words_of_both_sudos_are_understood() {
        assert_eq!(of("sudo: a password is required"), Refusal::PasswordWanted);
        assert_eq!(of("sudo: interactive authentication is required"), Refusal::PasswordWanted);
        assert_eq!(of("sudo: 3 incorrect password attempts"), Refusal::PasswordWanted);
        assert_eq!(of("bob is not in the sudoers file."), Refusal::NotAllowed);
        assert_eq!(of("sudo-rs: I'm sorry bob. I'm afraid I can't do that"), Refusal::NotAllowed);
        assert_eq!(of("env: 'sudo': No such file or directory"), Refusal::NoSudo);
        assert_eq!(of("agent: cannot lock"), Refusal::Program);
    }

    #[test]
    fn a_password_that_was_right_in_the_end_is_not_blamed() {
        let lines = ["Sorry, try again.", "sudo: /x: command not found"].map(str::to_owned);
        assert_eq!(refusal(&lines), Refusal::Program);
    }

    #[test]
    fn without_a_terminal_the_exact_line_is_given() {
        let error = Refusal::PasswordWanted.into_error("desk", "alice", "/x", false, &[]);
        let hint = error.hint().unwrap();
        assert!(hint.contains("alice ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent"), "{hint}");
        assert!(hint.contains("desk"));
        assert_eq!(error.kind(), pc_switcher_contract::ErrorKind::Invalid);
    }
}
