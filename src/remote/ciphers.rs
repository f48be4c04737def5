//! Which cipher comes first; pure. None is ever taken away.

/// AES-GCM is fastest where both processors know AES (facts/sync-engine.md, part 4).
const AES_FIRST: &str = "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com";

/// Without AES in the processor this takes a fraction of the time. Newer versions of ssh do not put it first by themselves.
const CHACHA_FIRST: &str = "Ciphers=^chacha20-poly1305@openssh.com";

/// What is known of the ciphers of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ciphers {
    /// Whether the user's configuration leaves them to us.
    pub(super) is_left: bool,
    /// Whether our processor knows AES.
    pub(super) ours: bool,
    /// Whether the other one does, as of the last contact.
    pub(super) theirs: Option<bool>,
}

impl Ciphers {
    /// Returns the option for ssh, if there is one. A machine that was never met is taken to have what nearly all have.
    pub(super) fn option(self) -> Option<&'static str> {
        let both = self.ours && self.theirs != Some(false);
        self.is_left.then_some(if both { AES_FIRST } else { CHACHA_FIRST })
    }
}

/// Whether `/proc/cpuinfo` names AES instructions.
pub(super) fn has_aes(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags") || line.starts_with("Features"))
        .any(|line| line.split_whitespace().any(|flag| flag == "aes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_is_told_by_the_flags_of_either_architecture() {
        assert!(has_aes("model name : x\nflags\t\t: fpu aes sse\n"));
        assert!(has_aes("Features\t: fp asimd aes\n"));
        assert!(!has_aes("flags : fpu vaes\nmodel name : aes\n"));
    }

    #[test]
    fn aes_comes_first_unless_a_processor_is_known_not_to_have_it() {
        let option = |is_left, ours, theirs| Ciphers { is_left, ours, theirs }.option();
        for theirs in [Some(true), None] {
            assert_eq!(option(true, true, theirs), Some(AES_FIRST));
        }
        for (ours, theirs) in [(true, Some(false)), (false, Some(true)), (false, None), (false, Some(false))]
        {
            assert_eq!(option(true, ours, theirs), Some(CHACHA_FIRST));
        }
    }

    #[test]
    fn what_the_user_configured_is_not_touched_and_nothing_is_taken_away() {
        for (ours, theirs) in [(true, Some(true)), (false, Some(false)), (true, None)] {
            assert_eq!(Ciphers { is_left: false, ours, theirs }.option(), None);
            let option = Ciphers { is_left: true, ours, theirs }.option().unwrap();
            assert!(option.starts_with("Ciphers=^"), "{option}");
        }
    }
}
