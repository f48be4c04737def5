//! What the peers need on the machines.

use std::path::Path;

use pc_switcher_testkit::lab::{Cmd, Lab};

use super::{
    Outcome,
    tool::{COPY, RECEIVE, SEND, SSH_OF_ALICE, Tool, UNISON, WHOLE},
};

/// Unison as the host's package brings it; the machines run the same release.
const HOST_UNISON: &str = "/usr/bin/unison";

/// Tells whether a peer can be asked on this host, or why not.
pub fn check(tool: Tool) -> Result<(), String> {
    match tool {
        Tool::Unison if !Path::new(HOST_UNISON).exists() => {
            Err(format!("there is no `{HOST_UNISON}`; `benches/run --peers rsync,send,unison` installs it"))
        }
        _ => Ok(()),
    }
}

/// Gives each copy a subvolume of its own, on the same file system and outside of what pc-switcher takes snapshots of.
pub fn prepare(lab: &Lab, peers: &[Tool]) -> Outcome {
    for (machine, place) in [
        (lab.laptop(), SEND),
        (lab.desk(), COPY),
        (lab.desk(), WHOLE),
        (lab.desk(), RECEIVE),
        (lab.desk(), UNISON),
    ] {
        machine.run(&Cmd::new("btrfs").args(["subvolume", "create", place]))?;
    }
    if peers.contains(&Tool::Unison) {
        for machine in [lab.laptop(), lab.desk()] {
            machine.copy_in(HOST_UNISON, "/usr/local/bin/unison", 0o755, "root")?;
            machine.write_file("/usr/local/bin/ssh-of-alice", SSH_OF_ALICE.as_bytes(), 0o755, "root")?;
        }
    }
    Ok(())
}
