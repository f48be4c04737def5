//! What lies in cold storage: found out when it is read, and fetched when that is wanted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::answer::{Answer, Verdict, Wrong};
use super::client::{Client, Request};
use crate::error::Result;
use crate::store::cold::{Depth, Fetching, Thaw, Tier};

/// The class whose objects move by themselves, and lie in one of its own tiers.
const MOVING: &str = "INTELLIGENT_TIERING";

/// What turned out to be cold, by its keys.
#[derive(Default)]
pub(super) struct Cold(Mutex<HashMap<String, Known>>);

/// What is known of something that turned out to be cold.
#[derive(PartialEq)]
enum Known {
    /// Nobody asks for it again.
    Cold,
    /// It may be there by now.
    Fetched,
}

impl Cold {
    fn keys(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.keys().contains_key(key)
    }

    pub(super) fn has_any(&self) -> bool {
        !self.keys().is_empty()
    }

    /// Whether it cannot be read yet.
    pub(super) fn holds_back(&self, key: &str) -> bool {
        self.keys().get(key) == Some(&Known::Cold)
    }

    /// Learns from an answer to who wanted to read.
    pub(super) fn learn(&self, key: &str, answer: &Answer) {
        if answer.verdict() == Verdict::Wrong(Wrong::Frozen) {
            self.keys().insert(key.to_owned(), Known::Cold);
        }
    }

    /// Returns what the server would say if it were asked.
    pub(super) fn answer() -> Answer {
        let body = b"<Error><Code>InvalidObjectState</Code></Error>".to_vec();
        Answer { status: 403, body, ..Answer::default() }
    }

    /// Has an object fetched, unless it is there or on its way. `what` it is goes on with the name.
    pub(super) fn thaw(&self, client: &Client, key: &str, what: &str, order: Thaw) -> Result<Fetching> {
        let (head, _) =
            client.call(&Request { method: "HEAD", key, is_stopped: true, ..Request::default() })?;
        if head.verdict() != Verdict::Good {
            return Err(client.explain(&format!("look for {what}"), &head));
        }
        let fetching = match (depth(&head), head.restore.as_deref()) {
            (None, _) => Fetching::Readable,
            (Some(depth), Some(told)) if told.contains("ongoing-request=\"true\"") => {
                Fetching::UnderWay(depth)
            }
            (Some(_), Some(_)) => Fetching::Readable,
            (Some(depth), None) => ask(client, key, what, (depth, &head), order)?,
        };
        match fetching {
            Fetching::Readable => {
                self.keys().get_mut(key).into_iter().for_each(|known| *known = Known::Fetched);
            }
            _ => drop(self.keys().insert(key.to_owned(), Known::Cold)),
        }
        Ok(fetching)
    }
}

/// Returns how deep something lies by what is said of it; `None` if it can be read.
fn depth(head: &Answer) -> Option<Depth> {
    let told = head.archive_status.as_deref().or(head.storage_class.as_deref());
    Depth::of(told.unwrap_or_default())
}

fn ask(
    client: &Client,
    key: &str,
    what: &str,
    (depth, head): (Depth, &Answer),
    order: Thaw,
) -> Result<Fetching> {
    let tier = match order.tier {
        Tier::Bulk => "Bulk",
        Tier::Standard => "Standard",
        Tier::Expedited => "Expedited",
    };
    // What moves by itself comes back for good.
    let is_moving = head.storage_class.as_deref() == Some(MOVING);
    let days = if is_moving { String::new() } else { format!("<Days>{}</Days>", order.days) };
    let body = format!(
        "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{days}<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
    );
    let query = vec![("restore", String::new())];
    let (answer, _) = client.call(&Request {
        method: "POST",
        key,
        query,
        body: body.as_bytes(),
        is_stopped: true,
        ..Request::default()
    })?;
    let code = answer.problem().code;
    match (answer.verdict(), code.as_str()) {
        (Verdict::Good, _) => Ok(Fetching::Asked(depth)),
        (_, "RestoreAlreadyInProgress") => Ok(Fetching::UnderWay(depth)),
        (_, "ObjectAlreadyInActiveTierError") => Ok(Fetching::Readable),
        (Verdict::Wrong(Wrong::Forbidden), _) => {
            let error = client.explain(&format!("have {what} fetched"), &answer);
            Err(ModuleError::new(ErrorKind::Invalid, error.message).hint(
                "the credentials need `s3:RestoreObject` on the packs (`data/*`); or let somebody fetch them who may: `aws s3api restore-object`",
            ))
        }
        _ => {
            let error = client.explain(&format!("have {what} fetched"), &answer);
            Err(match order.tier {
                Tier::Standard => error,
                _ => ModuleError::new(error.kind, error.message)
                    .hint("not every class and every provider knows each tier: try `--thaw-tier standard`"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_by_itself_tells_how_deep_it_lies() {
        let head = |class: Option<&str>, status: Option<&str>| {
            let [storage_class, archive_status] = [class, status].map(|told| told.map(str::to_owned));
            depth(&Answer { storage_class, archive_status, ..Answer::default() })
        };
        assert_eq!(head(None, None), None);
        assert_eq!(head(Some("STANDARD_IA"), None), None);
        assert_eq!(head(Some("GLACIER"), None), Some(Depth::Archive));
        assert_eq!(head(Some(MOVING), None), None);
        assert_eq!(head(Some(MOVING), Some("DEEP_ARCHIVE_ACCESS")), Some(Depth::Deep));
    }
}
