//! A database that is written all the time: what arrives is the state of one instant.

use pc_switcher_testkit::lab::{Cmd, Machine};

use super::{lab, rounds};
use crate::hosts::{BY_THEN, alice, first_sync, root, sync, wait_for};

/// Each transaction adds a row and says in another table how many there are.
const WRITE: &str = "for ((n = 1; ; n++)); do
    echo \"BEGIN; INSERT INTO entry VALUES ($n, hex(randomblob(300))); UPDATE total SET entries = $n; COMMIT;\"
    done | sqlite3 -cmd '.timeout 20000' db/app.db";

#[test]
fn a_database_that_is_written_all_the_time_arrives_as_of_one_instant() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let rounds = rounds(3);
    for mode in ["wal", "delete"] {
        alice(
            laptop,
            &format!(
                "rm -rf db; mkdir db; sqlite3 db/app.db 'PRAGMA journal_mode = {mode}; CREATE TABLE entry (number INTEGER PRIMARY KEY, text);
                 CREATE INDEX by_text ON entry (text); CREATE TABLE total (entries); INSERT INTO total VALUES (0)'"
            ),
        );
        if mode == "wal" {
            first_sync(&lab);
        }
        let writer = laptop.spawn(&Cmd::script(WRITE).as_alice()).unwrap();
        wait_for("journal", BY_THEN, || root(laptop, "ls /home/alice/db").lines().count() > 1);
        let mut last = 0;
        let mut with_journal = 0;
        for round in rounds.clone() {
            sync(laptop, "desk", &[]).ends_with(0);
            let files = alice(desk, "ls db");
            with_journal += u32::from(files.lines().count() > 1);
            let entries =
                entries(desk).unwrap_or_else(|found| panic!("{mode}, round {round}: {found}, {files}"));
            assert!(entries > last, "{mode}, round {round}: {entries} entries after {last}");
            last = entries;
        }
        assert!(writer.try_wait().unwrap().is_none(), "{:?}", String::from_utf8_lossy(&writer.stderr()));
        println!("{mode}: rounds {rounds:?} whole, {with_journal} with a journal, {last} entries at the end");
        assert!(with_journal > 0, "no sync ever met a transaction");
        drop(writer);
        wait_for("end of the writer", BY_THEN, || {
            !laptop.processes().iter().any(|process| process.command.starts_with("sqlite3"))
        });
    }
}

/// Returns how many entries the database of a machine has, all from the first to the last, or what is wrong with it. It is
/// looked at in a copy, since a look changes it.
fn entries(machine: &Machine) -> Result<u64, String> {
    let found = root(
        machine,
        "rm -rf /var/tmp/db; cp -r /home/alice/db /var/tmp/db; sqlite3 /var/tmp/db/app.db \
         'PRAGMA integrity_check; SELECT count(*), max(number), (SELECT entries FROM total) FROM entry' 2>&1 || true",
    );
    let (check, counts) = found.trim().split_once('\n').ok_or(&*found)?;
    let counts: Vec<u64> = counts.split('|').filter_map(|count| count.parse().ok()).collect();
    match counts[..] {
        [count, last, total] if check == "ok" && count == last && last == total => Ok(count),
        _ => Err(found),
    }
}
