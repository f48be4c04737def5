//! Judgements over boot protection.

use pc_switcher_agent::proto::Counted;

use super::seen::Seen;
use super::{Finding, Gravity};

const CHECK: &str = "boot-protection";

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let finding = |gravity, text: String| Finding::new(seen.hostname(), gravity, CHECK, text);
    let look = match &seen.boot {
        Ok(look) => look,
        Err(why) => {
            return vec![finding(Gravity::Warning, format!("it cannot be told how it stands: {why}"))];
        }
    };
    let wanted = seen.config.as_ref().is_ok_and(|config| config["boot-protection"]["enabled"] == true);
    let count = match &look.counted {
        Counted::Off if wanted => {
            let text = "it is enabled in the config, and starts are not counted: it is not installed, or the disk was too full".to_owned();
            let mut found = vec![finding(Gravity::Warning, text).fix("pc-switcher snapshots auto on")];
            found.extend(
                look.unfit.iter().map(|why| finding(Gravity::Warning, format!("it cannot be: {why}"))),
            );
            return found;
        }
        Counted::Off => return Vec::new(),
        Counted::Garbled => None,
        Counted::So(count) => Some(count),
    };
    let is_ill = count.is_some_and(|count| count.starts > 1 || count.went_to.is_some());
    let state = format!("it is on: {}", look.counted.explain());
    let mut found = vec![match is_ill {
        true => finding(Gravity::Warning, state)
            .fix("pc-switcher rollback status; sudo systemctl start pc-switcher-good looks again whether all is well"),
        false => finding(Gravity::Note, state),
    }];
    let stops = look.unfit.iter().chain(&look.problems);
    found.extend(
        stops.map(|why| finding(Gravity::Warning, format!("as it stands nothing would be put back: {why}"))),
    );
    found
}
