//! Where installed files lie, and the line that lets a user start the agent.

/// What sudoers names and users type, on every machine.
pub const STABLE_PATH: &str = "/usr/local/bin/pc-switcher";

/// Holds one folder per version.
pub const LIB_DIR: &str = "/usr/local/lib/pc-switcher";

/// Returns the file that holds the line of `user`. Sudo leaves out files with a dot or a tilde at the end.
pub fn sudoers_file(user: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_$".contains(c) { c } else { '+' };
    format!("/etc/sudoers.d/pc-switcher-{}", user.chars().map(plain).collect::<String>())
}

/// Returns the path of an installed version.
pub fn versioned_path(version: &str) -> String {
    format!("{LIB_DIR}/{version}/pc-switcher")
}

/// Returns the line that lets `user` start the agent without a password. The grant equals root.
pub fn sudoers_line(user: &str) -> String {
    let mut name = String::with_capacity(user.len());
    for c in user.chars() {
        // The characters that sudoers would read as its own.
        if c.is_ascii() && !c.is_ascii_alphanumeric() && !"-_.".contains(c) {
            name.push('\\');
        }
        name.push(c);
    }
    format!("{name} ALL=(root) NOPASSWD: {STABLE_PATH} agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_a_name_that_sudo_reads() {
        assert_eq!(sudoers_file("alice"), "/etc/sudoers.d/pc-switcher-alice");
        assert_eq!(sudoers_file(r"DOM\a.b~"), "/etc/sudoers.d/pc-switcher-DOM+a+b+");
    }

    #[test]
    fn the_line_names_the_one_command() {
        assert_eq!(sudoers_line("alice"), "alice ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent");
        assert_eq!(
            sudoers_line(r"DOM\bob smith"),
            r"DOM\\bob\ smith ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent"
        );
    }
}
