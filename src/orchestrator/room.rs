//! The red line while a run goes on: where space gets short the brackets make room, and only if that is not enough it stops.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pc_switcher_contract::{ErrorKind, Module, ModuleContext, ModuleError, Outcome, Room, Threshold};

use super::plan::RunPlan;

/// How long room may be made while nobody watches: a fast link must not fill the reserve meanwhile.
const LIMIT: Duration = Duration::from_secs(20);

/// What may make room.
pub type Brackets = Vec<(Arc<dyn Module>, ModuleContext)>;

/// Returns the instances that make room, each with its context.
pub fn brackets(plan: &RunPlan, context: impl Fn(&dyn Module) -> ModuleContext) -> Brackets {
    plan.pre.iter().map(|module| (Arc::clone(module), context(module.as_ref()))).collect()
}

/// Lets the brackets remove what they can spare.
///
/// # Errors
/// If one of them could not look.
pub async fn make(brackets: &Brackets, wanted: Threshold) -> Result<Room, ModuleError> {
    let mut made = Room::Nothing;
    for (module, ctx) in brackets {
        made = made.max(module.make_room(ctx, wanted).await?);
    }
    Ok(made)
}

/// Runs a monitor until it ends. If that is for want of space, room is made up to the reserve and it goes on, as long as each time
/// something went and it was enough: what nothing can be removed for ends the run.
///
/// # Errors
/// What the monitor ended with.
pub async fn attend<'a>(
    mut monitor: impl FnMut() -> BoxFuture<'a, Result<Outcome, ModuleError>>,
    reserve: impl Fn() -> Option<Threshold>,
    mut make_room: impl FnMut(Threshold) -> BoxFuture<'a, Result<Room, ModuleError>>,
) -> Result<(), ModuleError> {
    loop {
        let Err(error) = monitor().await else { return Ok(()) };
        let Some(reserve) = reserve().filter(|_| error.kind == ErrorKind::DiskSpace) else {
            return Err(error);
        };
        match tokio::time::timeout(LIMIT, make_room(reserve)).await {
            Ok(Ok(Room::Enough)) => {}
            Ok(Ok(Room::Nothing | Room::Some) | Err(_)) | Err(_) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    fn short() -> ModuleError {
        ModuleError::new(ErrorKind::DiskSpace, "the reserve is used up")
    }

    /// Runs a monitor that finds so many shortages one after the other, each answered with one of `rooms`.
    async fn run(mut shortages: Vec<ModuleError>, rooms: &[Room]) -> (Result<(), ModuleError>, usize) {
        let mut asked = 0;
        let ended = attend(
            || {
                let watched = match shortages.is_empty() {
                    true => Ok(Outcome::Done("watched".into())),
                    false => Err(shortages.remove(0)),
                };
                Box::pin(ready(watched))
            },
            || Some(Threshold::Bytes(1)),
            |_| {
                asked += 1;
                Box::pin(ready(Ok(rooms[asked - 1])))
            },
        )
        .await;
        (ended, asked)
    }

    #[tokio::test]
    async fn a_run_goes_on_as_long_as_each_shortage_is_mended_and_stops_at_the_first_that_is_not() {
        let (ended, asked) = run(vec![short(), short()], &[Room::Enough, Room::Enough]).await;
        assert_eq!((ended.is_ok(), asked), (true, 2));
        for not_enough in [Room::Nothing, Room::Some] {
            let (ended, asked) = run(vec![short(), short()], &[Room::Enough, not_enough]).await;
            assert_eq!((ended.unwrap_err().kind, asked), (ErrorKind::DiskSpace, 2));
        }
    }

    #[tokio::test]
    async fn for_anything_else_than_want_of_space_nothing_is_removed() {
        let (ended, asked) = run(vec![ModuleError::failed("no answer")], &[]).await;
        assert_eq!((ended.is_err(), asked), (true, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_takes_too_long_ends_the_run() {
        let ended = attend(
            || Box::pin(ready(Err(short()))),
            || Some(Threshold::Bytes(1)),
            |_| Box::pin(std::future::pending()),
        )
        .await;
        assert_eq!(ended.unwrap_err().kind, ErrorKind::DiskSpace);
    }
}
