//! The first time: passwords, refusals, names that lead nowhere, servers that give little.

use std::time::Duration;

use pc_switcher_testkit::lab::{CTRL_C, Machine};

use crate::hosts::{PROGRAM, SOON, alice, assert_moved, assert_nothing_runs, lab, line, root, sync};

const SUDOERS: &str = "/etc/sudoers.d/alice";
const LIMIT: Duration = Duration::from_secs(60);

fn want_a_password(machine: &Machine) {
    machine.write_file(SUDOERS, b"alice ALL=(ALL:ALL) ALL\n", 0o440, "root").unwrap();
}

#[test]
fn a_password_is_asked_once_for_each_machine_by_its_name() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    [laptop, desk].into_iter().for_each(want_a_password);
    let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    for machine in ["laptop", "desk"] {
        let question = terminal.expect("assword", LIMIT).unwrap() + &terminal.expect(": ", LIMIT).unwrap();
        assert!(question.lines().last().unwrap().contains(machine), "{question}");
        terminal.send_line("alice").unwrap();
    }
    terminal.expect("Go on? [y/N] ", LIMIT).unwrap();
    terminal.send_line("y").unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{screen}");
    assert_eq!(screen.matches("assword").count(), 2, "{screen}");
    assert!(desk.exists(PROGRAM).unwrap());
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn no_at_the_question_of_a_first_sync_changes_nothing() {
    let Some(lab) = lab() else { return };
    let mut terminal = lab.laptop().spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    terminal.expect("Go on? [y/N] ", LIMIT).unwrap();
    terminal.send_line("n").unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(7), "{screen}");
    assert!(!lab.desk().exists("/home/alice/notes").unwrap());
}

#[test]
fn ctrl_c_at_a_question_for_a_password_ends_everything() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    want_a_password(desk);
    let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    terminal.expect("assword", LIMIT).unwrap();
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn without_a_terminal_a_wanted_password_is_a_problem_with_the_line_to_add() {
    let Some(lab) = lab() else { return };
    want_a_password(lab.desk());
    let ran = sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(3);
    ran.says(&["desk", "alice ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent"]);
    assert_nothing_runs(&[lab.laptop(), lab.desk()], SOON);
}

#[test]
fn refused_sudo_is_a_problem_that_names_the_machine() {
    let Some(lab) = lab() else { return };
    root(lab.desk(), &format!("rm {SUDOERS}"));
    sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(3).says(&["desk", "sudo"]);
    assert_nothing_runs(&[lab.laptop(), lab.desk()], SOON);
}

#[test]
fn a_host_that_nobody_knows_or_that_is_off_is_unreachable() {
    let Some(lab) = lab() else { return };
    sync(lab.laptop(), "nowhere.invalid", &[]).ends_with(4).says(&["nowhere.invalid"]);
    lab.desk().shutdown().unwrap();
    sync(lab.laptop(), "desk", &[]).ends_with(4).says(&["desk"]);
    assert_nothing_runs(&[lab.laptop()], SOON);
}

#[test]
fn a_refused_key_is_unreachable_and_says_whose_it_is() {
    let Some(lab) = lab() else { return };
    root(lab.desk(), "mv /home/alice/.ssh/authorized_keys /home/alice/.ssh/elsewhere");
    sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(4).says(&["desk", "Permission denied"]);
    assert_nothing_runs(&[lab.laptop(), lab.desk()], SOON);
}

/// Puts a program on a machine that knows nothing but its version.
fn install_version(machine: &Machine, version: &str) {
    let script = format!("#!/bin/sh\necho pc-switcher {version}\n");
    machine.write_file(PROGRAM, script.as_bytes(), 0o755, "root").unwrap();
}

#[test]
fn an_older_program_on_the_target_is_replaced() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    install_version(desk, "0.0.1");
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0).says(&["0.0.1 is installed"]);
    let version = "pc-switcher --version";
    assert_eq!(alice(desk, version), alice(laptop, version));
    assert_moved(laptop, desk);
    sync(desk, "laptop", &[]).ends_with(0);
}

#[test]
fn a_newer_program_on_the_target_is_left_alone() {
    let Some(lab) = lab() else { return };
    install_version(lab.desk(), "99.0.0");
    sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(3).says(&["desk", "99.0.0"]);
    assert_eq!(alice(lab.desk(), "pc-switcher"), "pc-switcher 99.0.0\n");
    assert!(!lab.desk().exists("/home/alice/notes").unwrap());
    assert_nothing_runs(&[lab.laptop(), lab.desk()], SOON);
}

#[test]
fn a_machine_is_never_synced_with_itself() {
    let Some(lab) = lab() else { return };
    sync(lab.laptop(), "laptop", &["--allow-first-sync"]).ends_with(2);
    assert_nothing_runs(&[lab.laptop()], SOON);
}

#[test]
fn a_server_that_gives_two_channels_is_enough() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    desk.write_file("/etc/ssh/sshd_config.d/a-few.conf", b"MaxSessions 2\n", 0o644, "root").unwrap();
    desk.shutdown().unwrap();
    desk.boot().unwrap();
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    assert_moved(laptop, desk);
}
