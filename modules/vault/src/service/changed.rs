//! Mass change: most of the files that were there have another content, as after a program that encrypts them.
//!
//! Nobody can tell it from what a person did on purpose, so the backup is made as always, and the one before it stays until somebody says
//! that it may go.

use std::path::Path;

use super::gone::MANY;
use super::{BackupReport, Service};
use crate::error::Result;

impl Service {
    /// Notes in which tracked directories most files got another content since this version, if they are many.
    pub(super) fn note_changed(&mut self, last_version: i64, report: &mut BackupReport) -> Result<()> {
        // Of a first backup nothing was there before.
        if last_version == 0 {
            return Ok(());
        }
        for directory in self.catalogue.directories()? {
            let (changed, all) = self.catalogue.count_changed(&directory, last_version, MANY)?;
            if changed < MANY || changed <= all - changed {
                continue;
            }
            self.catalogue.note_change(&directory.path, changed, (self.around.clock)())?;
            report.warnings.push(told(changed, all, &directory.path));
        }
        Ok(())
    }
}

fn told(changed: u64, all: u64, directory: &Path) -> String {
    format!(
        "{changed} of the {all} files of `{}` that were there before have another content now, and are backed up like this; if nobody \
         meant that, the backup before this one has them as they were; `bt prune` lets it go after `bt prune --accept-losses` only",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::world::{World, stage};
    use super::*;
    use crate::engine::Quiet;

    fn report(world: &mut World) -> BackupReport {
        world.hour += 1;
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        stage(&mut service).unwrap();
        service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    }

    fn stay(world: &World, accept_losses: bool) -> Vec<bool> {
        let keep = Some("last 1 session".parse().unwrap());
        let order = super::super::PruneOrder { keep, accept_losses, ..Default::default() };
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let pruned = service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
        pruned.vaults[0].verdicts.iter().map(|verdict| verdict.stays).collect()
    }

    #[test]
    fn what_was_there_before_most_of_it_got_another_content_stays_until_somebody_says_otherwise() {
        let mut world = World::new();
        world.put(0..210, 1);
        assert!(report(&mut world).warnings.is_empty(), "what is new is no change");
        // Many others come, which are no files that were there before.
        world.put(0..110, 2);
        world.put(300..500, 2);
        let changed = report(&mut world);
        assert!(changed.is_clean() && changed.versions == 310, "{changed:?}");
        assert!(changed.warnings[0].starts_with("110 of the 210 files of `"), "{changed:?}");
        world.put(0..1, 3);
        assert!(report(&mut world).warnings.is_empty());
        world.hour += 1;
        assert_eq!(stay(&world, false), [true, false, true]);
        assert_eq!(stay(&world, false), [true, true]);
        assert_eq!(stay(&world, true), [false, true]);
        assert_eq!(stay(&world, false), [true]);
    }

    #[test]
    fn what_keeps_its_content_or_is_less_than_most_or_than_many_is_no_mass_change() {
        let mut world = World::new();
        world.put(0..240, 1);
        report(&mut world);
        world.put(0..120, 2);
        assert!(report(&mut world).warnings.is_empty(), "a half is not most");
        for name in 0..240 {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(name);
            let file = fs::File::options().write(true).open(world.home.path().join(format!("docs/{name}")));
            file.unwrap().set_modified(time).unwrap();
        }
        let touched = report(&mut world);
        assert!(touched.versions == 240 && touched.warnings.is_empty(), "{touched:?}");
        let mut few = World::new();
        few.put(0..99, 1);
        report(&mut few);
        few.put(0..99, 2);
        assert!(report(&mut few).warnings.is_empty());
    }

    #[test]
    fn what_a_backup_that_was_killed_stored_counts_for_the_next_one() {
        let mut world = World::new();
        world.put(0..200, 1);
        report(&mut world);
        world.put(0..80, 2);
        report(&mut world);
        // As if that one had died after its last batch.
        world.now(|service| service.catalogue.as_if_killed());
        world.put(80..180, 2);
        let changed = report(&mut world);
        assert!(changed.warnings[0].starts_with("180 of the 200 files of `"), "{changed:?}");
    }
    #[test]
    fn what_a_backup_that_was_given_up_stored_counts_and_also_if_nothing_is_left_to_store() {
        let mut world = World::new();
        world.put(0..200, 1);
        report(&mut world);
        world.put(0..180, 2);
        report(&mut world);
        world.now(|service| service.catalogue.as_if_given_up());
        let changed = report(&mut world);
        assert_eq!(changed.versions, 0);
        assert!(changed.warnings[0].starts_with("180 of the 200 files of `"), "{changed:?}");
    }

    #[test]
    fn what_changes_as_a_whole_each_time_keeps_the_first_and_the_last_of_its_snapshots() {
        let mut world = World::new();
        for content in 1..=6 {
            world.put(0..120, content);
            report(&mut world);
        }
        world.hour += 1;
        assert_eq!(stay(&world, false), [true, false, false, false, true, true]);
    }
}
