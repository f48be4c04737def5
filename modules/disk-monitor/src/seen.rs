//! What was seen of the file systems of a machine over time, in the machine's own state.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pc_switcher_agent::proto::SpaceReport;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::ExecError;

use crate::forecast::{Pace, Seen, note};

/// Where it lies.
pub const KEY: &str = "space.json";
/// A file system that was not seen for so long is forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What was seen, by the uuid of the file system or the number of its device; each oldest first.
pub type Past = BTreeMap<String, Vec<Seen>>;

/// Reads what was seen of a machine. What cannot be read counts as nothing.
///
/// # Errors
/// If its agent does not answer.
pub async fn recall(agent: &Agent) -> Result<Past, ExecError> {
    let bytes = agent.state_get(KEY).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// Adds how a machine stands now. The agent must hold the machine's lock.
///
/// # Errors
/// If its agent does not answer, or cannot write.
pub async fn remember(agent: &Agent, reports: &[SpaceReport], now: Timestamp) -> Result<(), ExecError> {
    let before = recall(agent).await?;
    let after = with(before.clone(), reports, now);
    if after == before {
        return Ok(());
    }
    agent.state_put(KEY, serde_json::to_vec(&after).ok()).await
}

/// Adds to what was seen: pure.
fn with(mut past: Past, reports: &[SpaceReport], now: Timestamp) -> Past {
    for report in reports {
        note(past.entry(report.fs_uuid.clone()).or_default(), Seen::of(report, now), Pace::DAYS);
    }
    past.retain(|_, seen| seen.last().is_some_and(|last| now.duration_since(last.at) < FORGOTTEN));
    past
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fs_uuid: &str) -> SpaceReport {
        SpaceReport {
            path: "/".into(),
            fs_uuid: fs_uuid.into(),
            fs_type: "btrfs".into(),
            size_bytes: 100,
            data_free_bytes: 0,
            unallocated_bytes: 0,
            metadata_free_bytes: 0,
            metadata_copies: 1,
            available_bytes: 40,
        }
    }

    #[test]
    fn each_file_system_has_a_past_of_its_own_and_those_that_are_gone_for_a_year_are_forgotten() {
        let at = |hours: i64| Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap();
        let past = with(Past::new(), &[report("disk"), report("stick")], at(0));
        let past = with(past, &[report("disk")], at(24));
        assert_eq!((past["disk"].len(), past["stick"].len()), (2, 1));
        let past = with(past, &[report("disk")], at(24 * 366));
        assert_eq!(past.keys().collect::<Vec<_>>(), ["disk"]);
        let text = serde_json::to_vec(&past).unwrap();
        assert_eq!(serde_json::from_slice::<Past>(&text).unwrap(), past);
    }
}
