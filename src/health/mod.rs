//! Whether a machine works as it did: looked at before and after something that may break it.
//!
//! What was broken before is nobody's fault; what could be looked at before and cannot any more is broken.

mod look;
mod scripts;

use std::fmt;

use crate::config::HealthCheck;

pub use look::{Place, look};
pub use scripts::HEALTH_DIR;

/// How much a check counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Without it the machine counts as broken.
    Required,
    /// It is said, no more.
    Wanted,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is well.
    Green,
    /// It is not, with the reason.
    Red(String),
    /// There is nothing of the kind on this machine.
    Absent,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What was looked at.
    pub name: String,
    /// How much it counts.
    pub weight: Weight,
    /// What was found.
    pub state: State,
}

impl Checked {
    fn required(name: impl Into<String>, state: State) -> Self {
        Self { name: name.into(), weight: Weight::Required, state }
    }
}

/// Something that is broken now and was not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How much it counts.
    pub weight: Weight,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

/// Makes the shipped checks count that are required, and the others only be named. Own ones say so themselves.
pub fn weigh(checked: Vec<Checked>, required: &[HealthCheck]) -> Vec<Checked> {
    let weigh = |checked: Checked| {
        let is_required = shipped(&checked.name).is_none_or(|check| required.contains(&check));
        let weight = if is_required { checked.weight } else { Weight::Wanted };
        Checked { weight, ..checked }
    };
    checked.into_iter().map(weigh).collect()
}

/// Returns which of the shipped checks has this name.
pub fn shipped(name: &str) -> Option<HealthCheck> {
    Some(match name {
        "packages" => HealthCheck::Packages,
        "sshd's configuration" => HealthCheck::SshdConfig,
        "ssh" => HealthCheck::Ssh,
        "home" => HealthCheck::Home,
        "disk space" => HealthCheck::DiskSpace,
        _ if name == "units" || name.starts_with("unit ") => HealthCheck::Units,
        _ => return None,
    })
}

/// Returns what broke between two looks.
pub fn broken(before: &[Checked], after: &[Checked]) -> Vec<Finding> {
    let gone = before
        .iter()
        .filter(|checked| checked.state == State::Green && !after.iter().any(|now| now.name == checked.name));
    let gone = gone.map(|checked| Finding {
        name: checked.name.clone(),
        weight: checked.weight,
        why: "the check is gone".into(),
    });
    let then = |name: &str| before.iter().find(|checked| checked.name == name).map(|checked| &checked.state);
    let finding = |checked: &Checked| {
        let why = match (then(&checked.name), &checked.state) {
            (Some(State::Red(_)), _) | (_, State::Green) | (None | Some(State::Absent), State::Absent) => {
                return None;
            }
            (_, State::Red(why)) => why.clone(),
            (Some(State::Green), State::Absent) => "it cannot be looked at any more".to_owned(),
        };
        Some(Finding { name: checked.name.clone(), weight: checked.weight, why })
    };
    after.iter().filter_map(finding).chain(gone).collect()
}

/// Returns what is red, whoever did it.
pub fn red(checked: &[Checked]) -> Vec<Finding> {
    let finding = |checked: &Checked| match &checked.state {
        State::Red(why) => {
            Some(Finding { name: checked.name.clone(), weight: checked.weight, why: why.clone() })
        }
        State::Green | State::Absent => None,
    };
    checked.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_checks_count_as_the_config_says_and_own_ones_as_their_directory_says() {
        let red = |name: &str| Checked::required(name, State::Red("why".into()));
        let own = Checked { weight: Weight::Wanted, ..red("wanted.d/mine") };
        let all = vec![red("ssh"), red("unit web.service"), red("required.d/mine"), own];
        let weights: Vec<Weight> =
            weigh(all, &[HealthCheck::Ssh]).into_iter().map(|checked| checked.weight).collect();
        assert_eq!(weights, [Weight::Required, Weight::Wanted, Weight::Required, Weight::Wanted]);
    }

    #[test]
    fn only_what_broke_in_between_is_blamed() {
        let red = |why: &str| State::Red(why.into());
        let all = |states: [State; 4]| -> Vec<Checked> {
            let names = ["a", "b", "c", "d"];
            names.into_iter().zip(states).map(|(name, state)| Checked::required(name, state)).collect()
        };
        let before = all([State::Green, red("old"), State::Absent, State::Green]);
        let after = all([red("new"), red("older"), State::Absent, State::Absent]);
        let said: Vec<String> = broken(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a: new", "d: it cannot be looked at any more"]);
        assert_eq!(broken(&before, &before), []);
        let said: Vec<String> = broken(&before, &after[1..]).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["d: it cannot be looked at any more", "a: the check is gone"]);
        assert_eq!(super::red(&before).iter().map(ToString::to_string).collect::<Vec<_>>(), ["b: old"]);
        let mut with_unit = before.clone();
        with_unit.push(Checked::required("unit web.service", red("it failed")));
        assert_eq!(broken(&before, &with_unit).len(), 1, "what was not there before is new");
        assert_eq!(broken(&with_unit, &with_unit), []);
    }
}
