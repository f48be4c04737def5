//! The dead man: a sync that its target takes back unless somebody says that the machine can still be reached.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, Hostname, SessionId, SetId, SnapshotSet, SubvolumeName, UtcStamp};

/// Asks the target of a sync to take it back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadmanWish {
    /// The sync.
    pub session: SessionId,
    /// The machine that it comes from.
    pub from: Hostname,
    /// How long it may stay unconfirmed once nobody works on it any more.
    pub limit_seconds: u64,
    /// What is gone back to.
    pub pre: SnapshotSet,
}

/// One thing to do about the dead man. All but `Look` need the machine's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadmanOrder {
    /// Only looks.
    Look,
    /// Arms it, before the first change.
    Arm(DeadmanWish),
    /// Lets its time run from now on, and waits: until somebody confirms, or the sync was taken back.
    Count,
    /// The machine can be reached: it is disarmed.
    Confirm,
    /// Takes the sync back at once, for this reason.
    Heal(String),
    /// Somebody came after the sync that armed it: takes that back if its time is over. Otherwise it is confirmed if whoever
    /// comes came from elsewhere, and goes on if not.
    Settle {
        /// Whether whoever comes came from elsewhere.
        from_elsewhere: bool,
    },
    /// That machine was told what became of its syncs.
    Told(Hostname),
}

/// A dead man that is armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// What was asked for.
    pub wish: DeadmanWish,
    /// The boot in which it was armed.
    pub boot_id: String,
    /// When its time is over, in milliseconds since that boot; none while somebody works on the sync.
    pub until_ms: Option<u64>,
    /// Why it could not be taken back when that was tried last, if so.
    #[serde(default)]
    pub failed: Option<String>,
}

/// How a sync was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealedHow {
    /// Path by path, while people work.
    Undone {
        /// So many paths are what they were before it.
        paths: u64,
        /// So many stay as they were found: somebody changed them, or they are out of reach.
        left: u64,
        /// Some of these.
        named: Vec<BytePath>,
    },
    /// Whole subvolumes, from the next start on.
    RolledBack(Vec<SubvolumeName>),
}

/// A sync that was taken back, until its source was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// The sync.
    pub session: SessionId,
    /// The machine that it came from.
    pub from: Hostname,
    /// When it was taken back.
    pub at: UtcStamp,
    /// Why.
    pub why: String,
    /// How.
    pub how: HealedHow,
    /// The set that keeps the state right before.
    pub kept: SetId,
    /// What did not go back with the others, since it lies on another disk.
    #[serde(default)]
    pub on_another_disk: Vec<SubvolumeName>,
}

/// What a machine knows of its dead man, as its state has it (in JSON).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadmanState {
    /// The one that is armed.
    pub armed: Option<Armed>,
    /// What was taken back and not told yet, the oldest first.
    pub healed: Vec<Healed>,
}

impl DeadmanState {
    /// The key of the machine state.
    pub const KEY: &str = "deadman";

    /// Reads what is kept there. What cannot be read says nothing.
    pub fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Returns what was taken back of that sync.
    pub fn healed(&self, session: &SessionId) -> Option<&Healed> {
        self.healed.iter().find(|healed| healed.session == *session)
    }
}

impl Armed {
    /// Says what it waits for.
    pub fn explain(&self) -> String {
        let DeadmanWish { session, from, limit_seconds, .. } = &self.wish;
        if let Some(why) = &self.failed {
            return format!(
                "sync {session} from {from} is not confirmed and could not be taken back so far: {why}; it is tried again and again, \
                 unless a sync from another machine or `pc-switcher rollback confirm` comes before"
            );
        }
        format!(
            "sync {session} from {from} is not confirmed: {limit_seconds} s after its end this machine takes it back, unless a sync \
             from another machine or `pc-switcher rollback confirm` comes before"
        )
    }
}

impl Healed {
    /// Says what was done, and why.
    pub fn explain(&self) -> String {
        let Self { session, from, at, why, how, kept, on_another_disk } = self;
        let done = match how {
            HealedHow::Undone { paths, left: 0, .. } => {
                in_words(*paths, "path is what it was before", "paths are what they were before")
            }
            HealedHow::Undone { paths, left, named } => {
                let names: Vec<String> = named.iter().map(|path| format!("`{path}`")).collect();
                format!(
                    "{}, {} as found: {}",
                    in_words(*paths, "path is what it was before", "paths are what they were before"),
                    in_words(*left, "stays", "stay"),
                    names.join(", ")
                )
            }
            HealedHow::RolledBack(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                let stays = explain_on_another_disk(on_another_disk).map(|said| format!("; {said}"));
                let names = names.join(", ");
                format!("{names} went back as a whole, start the machine anew{}", stays.unwrap_or_default())
            }
        };
        format!(
            "sync {session} from {from} was taken back at {at}, since {why}; {done} (set {kept} keeps the state right before)"
        )
    }
}

/// Says that these did not go back with others since they lie on another disk; `None` if there are none.
pub fn explain_on_another_disk(names: &[SubvolumeName]) -> Option<String> {
    let (lie, said) = match names {
        [] => return None,
        [_] => ("lies", "stays as it is"),
        _ => ("lie", "stay as they are"),
    };
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    Some(format!("{} {lie} on another disk and {said}", names.join(", ")))
}

fn in_words(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healed(how: HealedHow) -> Healed {
        Healed {
            session: "abc12345".parse().unwrap(),
            from: "laptop".parse().unwrap(),
            at: "20251115T120000Z".parse().unwrap(),
            why: "nobody confirmed it within 120 s".into(),
            how,
            kept: "20251115T120000Z-0a1b2c3d-prerollback".parse().unwrap(),
            on_another_disk: Vec::new(),
        }
    }

    #[test]
    fn what_was_taken_back_is_said_with_what_stays() {
        let said = healed(HealedHow::Undone { paths: 3, left: 1, named: vec!["/home/a".into()] }).explain();
        assert!(said.contains("sync abc12345 from laptop was taken back"), "{said}");
        assert!(said.contains("3 paths are what they were before, 1 stays as found: `/home/a`"), "{said}");
        let said = healed(HealedHow::Undone { paths: 1, left: 0, named: vec![] }).explain();
        assert!(said.contains("; 1 path is what it was before (set"), "{said}");
    }

    #[test]
    fn what_could_not_be_taken_back_is_said_with_the_reason() {
        let text = r#"{"armed": {"wish": {"session": "abc12345", "from": "laptop", "limit_seconds": 120, "pre": {
            "hostname": "desk", "kind": "pre-sync", "stamp": "20251115T120000Z", "session": "abc12345", "consistent": true,
            "members": []}}, "boot_id": "one", "until_ms": null}}"#;
        let mut armed = DeadmanState::read(text.as_bytes()).armed.expect("of an older version");
        assert!(armed.explain().contains("120 s after its end this machine takes it back"));
        armed.failed = Some("the disk is full".into());
        let said = armed.explain();
        assert!(
            said.contains("could not be taken back so far: the disk is full; it is tried again"),
            "{said}"
        );
    }

    #[test]
    fn what_lies_on_another_disk_is_said_to_stay() {
        let mut went = healed(HealedHow::RolledBack(vec!["@".parse().unwrap()]));
        assert!(!went.explain().contains("another disk"), "{}", went.explain());
        let mut written = serde_json::to_value(&went).unwrap();
        written.as_object_mut().unwrap().remove("on_another_disk");
        assert_eq!(serde_json::from_value::<Healed>(written).unwrap(), went, "of an older version");
        went.on_another_disk = vec!["@home".parse().unwrap()];
        let said = went.explain();
        assert!(
            said.contains("start the machine anew; `@home` lies on another disk and stays as it is ("),
            "{said}"
        );
        went.on_another_disk.push("@srv".parse().unwrap());
        assert!(went.explain().contains("`@home`, `@srv` lie on another disk and stay as they are"));
    }

    #[test]
    fn it_reads_what_it_wrote_and_what_is_none_says_nothing() {
        let how = HealedHow::RolledBack(vec!["@home".parse().unwrap()]);
        let state = DeadmanState { armed: None, healed: vec![healed(how)] };
        assert_eq!(DeadmanState::read(&serde_json::to_vec(&state).unwrap()), state);
        assert!(state.healed(&"abc12345".parse().unwrap()).is_some());
        for bad in ["", "{", "[]", "{\"armed\":1}"] {
            assert_eq!(DeadmanState::read(bad.as_bytes()), DeadmanState::default(), "{bad}");
        }
    }
}
