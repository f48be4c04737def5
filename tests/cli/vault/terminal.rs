//! What is seen of a backup on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::*;

/// Returns bytes that do not compress.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend(seed.to_le_bytes());
    }
    bytes
}

#[test]
fn a_backup_asks_for_its_passphrase_and_shows_how_fast_it_is_and_how_long_it_will_take() {
    let home = Home::ready();
    for n in 1..=12 {
        fs::write(home.path("docs").join(n.to_string()), noise(8 << 20, n)).unwrap();
    }
    home.bt(&["add"]);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = || File::options().read(true).write(true).open(&name).unwrap();
    let mut command = home.command(&["backup"]);
    command.env_remove("PC_SWITCHER_VAULT_PASSWORD").env("TERM", "xterm");
    let mut child = command.stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().unwrap();
    // It has the terminal open in the place of this process.
    drop(command);
    let (mut master, mut seen, mut is_typed) = (File::from(master), Vec::new(), false);
    let mut some = [0; 4096];
    // When nobody has the terminal open any more reading fails.
    while let Ok(count) = master.read(&mut some) {
        seen.extend(&some[..count]);
        if !is_typed && text(&seen).contains("assphrase") {
            is_typed = true;
            master.write_all(b"correct horse\n").unwrap();
        }
    }
    let seen = text(&seen);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{seen}");
    assert!(is_typed && !seen.contains("correct horse"), "{seen}");
    let bar =
        seen.split(['\r', '\n']).find(|line| line.contains(" of 96.00 MiB, ") && line.contains(" left"));
    let bar = bar.unwrap_or_else(|| panic!("{seen:?}"));
    let rate = bar.split(" of 96.00 MiB, ").nth(1).unwrap().split(", ").next().unwrap();
    let (number, unit) = rate.split_once(' ').unwrap_or_else(|| panic!("{bar:?}"));
    assert!(number.parse::<f64>().is_ok() && unit.ends_with("B/s"), "{bar:?}");
    assert!(seen.contains("12 new versions"), "{seen}");
}

#[test]
fn names_are_meant_from_the_directory_in_which_they_are_typed() {
    let home = Home::ready();
    home.put("g", "the outer\n");
    home.put("sub/f", "the inner\n");
    home.bt(&["backup", "--tracked"]);
    let from_sub = |args: &[&str]| {
        let output = home.command(args).current_dir(home.path("docs/sub")).output().unwrap();
        assert!(output.status.success(), "bt {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let sum = |content: &str| pc_switcher_vault::format::Id::of(content.as_bytes()).hex();
    for (name, content, beside) in [("f", "the inner\n", "docs/sub/f"), ("../g", "the outer\n", "docs/g")] {
        let log = from_sub(&["log", name]);
        assert!(log.lines().count() == 1 && log.contains(&sum(content)), "{log}");
        let restored = from_sub(&["restore", name]);
        let expected = home.path(&format!("{beside}.{}", sum(content)));
        assert_eq!(restored.trim_end(), expected.to_str().unwrap());
        assert_eq!(fs::read_to_string(expected).unwrap(), content);
        fs::write(home.path(beside), "changed").unwrap();
        from_sub(&["restore", name, "--in-place"]);
        assert_eq!(fs::read_to_string(home.path(beside)).unwrap(), content);
    }
    let said = home.command(&["log", "g"]).current_dir(home.path("docs/sub")).output().unwrap();
    assert_eq!(said.status.code(), Some(2), "there is no `sub/g`: {}", text(&said.stderr));
}
