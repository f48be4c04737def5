//! What to do about the program on a target; pure.

use semver::Version;

use crate::probe::Probe;

/// Our own program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its version.
    pub version: Version,
    /// Its SHA-256 digest in hex.
    pub sha256: String,
    /// The architecture it was built for.
    pub arch: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The same bytes are installed there, or the same version for another architecture.
    UseInstalled,
    /// Ours must go there.
    Push {
        /// A directory to push it below.
        place: String,
        /// What is installed there now.
        replaces: Option<Version>,
    },
    /// A newer one is installed there: upgrading is this machine's turn.
    RefuseNewer {
        /// What is installed there.
        installed: Version,
        /// Ours.
        own: Version,
    },
    /// Ours does not run there.
    RefuseArch {
        /// Its architecture.
        theirs: String,
        /// Ours.
        own: String,
    },
    /// It can be put nowhere.
    NoPlace {
        /// What is wrong with the directories.
        unfit: Vec<String>,
    },
}

/// Decides by what the target said.
pub fn decide(probe: &Probe, own: &Own) -> Decision {
    let installed = probe.installed.as_ref();
    if probe.arch != own.arch {
        // Ours does not run there, but the same version built for that machine speaks the same protocol.
        let same = installed.is_some_and(|installed| installed.version.as_ref() == Some(&own.version));
        return if same {
            Decision::UseInstalled
        } else {
            Decision::RefuseArch { theirs: probe.arch.clone(), own: own.arch.clone() }
        };
    }
    if installed.is_some_and(|installed| installed.sha256 == own.sha256) {
        return Decision::UseInstalled;
    }
    let replaces = installed.and_then(|installed| installed.version.clone());
    // Build metadata does not order versions: such a difference is another build of the same version.
    if let Some(version) = &replaces
        && version.cmp_precedence(&own.version).is_gt()
    {
        return Decision::RefuseNewer { installed: version.clone(), own: own.version.clone() };
    }
    match &probe.place {
        Some(place) => Decision::Push { place: place.clone(), replaces },
        None => Decision::NoPlace { unfit: probe.unfit.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Installed, SudoState};
    use proptest::prelude::*;

    fn own(version: Version) -> Own {
        Own { version, sha256: "ours".into(), arch: "x86_64".into() }
    }

    fn probe(installed: Option<(Version, &str)>) -> Probe {
        Probe {
            arch: "x86_64".into(),
            kernel: "6.8.0".into(),
            user: "alice".into(),
            uid: 1000,
            home: "/home/alice".into(),
            installed: installed
                .map(|(version, sha)| Installed { version: Some(version), sha256: sha.into() }),
            sudo: SudoState::Password,
            place: Some("/run/user/1000".into()),
            unfit: vec![],
        }
    }

    #[test]
    fn the_architecture_is_judged_before_anything_else() {
        let mut other = probe(Some((Version::new(9, 0, 0), "ours")));
        other.arch = "aarch64".into();
        assert!(matches!(decide(&other, &own(Version::new(0, 1, 0))), Decision::RefuseArch { .. }));
        assert_eq!(decide(&other, &own(Version::new(9, 0, 0))), Decision::UseInstalled);
    }

    #[test]
    fn another_build_of_the_same_version_is_pushed_over() {
        let same = probe(Some((Version::new(0, 1, 0), "theirs")));
        assert!(matches!(decide(&same, &own(Version::new(0, 1, 0))), Decision::Push { .. }));
    }

    #[test]
    fn a_release_is_newer_than_its_candidates() {
        let candidate = Version::parse("1.0.0-rc.2").unwrap();
        let there = probe(Some((Version::new(1, 0, 0), "theirs")));
        assert!(matches!(decide(&there, &own(candidate)), Decision::RefuseNewer { .. }));
    }

    fn version() -> impl Strategy<Value = Version> {
        (0..3_u64, 0..3_u64, 0..3_u64, prop_oneof![Just(""), Just("-rc.1"), Just("+build.7")])
            .prop_map(|(a, b, c, rest)| Version::parse(&format!("{a}.{b}.{c}{rest}")).unwrap())
    }

    proptest! {
        #[test]
        fn of_two_machines_at_most_one_refuses(a in version(), b in version()) {
            let refuses = |theirs: &Version, ours: &Version| {
                let decision = decide(&probe(Some((theirs.clone(), "theirs"))), &own(ours.clone()));
                matches!(decision, Decision::RefuseNewer { .. })
            };
            let (there, back) = (refuses(&a, &b), refuses(&b, &a));
            prop_assert!(!(there && back));
            prop_assert_eq!(there || back, a.cmp_precedence(&b).is_ne());
        }

        #[test]
        fn equal_bytes_are_never_pushed(theirs in version(), ours in version()) {
            prop_assert_eq!(decide(&probe(Some((theirs, "ours"))), &own(ours)), Decision::UseInstalled);
        }

        #[test]
        fn an_empty_machine_gets_ours(ours in version()) {
            let pushed = matches!(decide(&probe(None), &own(ours)), Decision::Push { replaces: None, .. });
            prop_assert!(pushed);
        }
    }
}
