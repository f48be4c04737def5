//! Where tracked directories are read: in the directories of a set that the agent handed over.

use std::path::PathBuf;

use pc_switcher_agent::typed::Held;

use crate::service::View;

/// Returns how what was handed over is read, and what is read where it lies, with the reasons.
pub fn view_of(handed: Vec<Held>) -> (View, Vec<(PathBuf, String)>) {
    let (mut view, mut lacking) = (View::default(), Vec::new());
    for held in handed {
        let path = held.path.as_path().to_owned();
        if let Err(why) = &held.directory {
            lacking.push((path.clone(), why.clone()));
        }
        view.put(path, held.directory.ok());
    }
    (view, lacking)
}
