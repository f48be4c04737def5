//! Which paths a component means.

use pc_switcher_agent::proto::UserFact;
use pc_switcher_btrfs_snapshots::components::{Components, OWN};
use pc_switcher_contract::BytePath;

use crate::cli::CliError;
use crate::config::nearest::suggest;

/// Returns the paths of these components: those of the config; `own` is the directory of pc-switcher's configuration there. A
/// directory of homes stands for the homes in it: it may be a subvolume of its own, which is not restored as a whole.
///
/// # Errors
/// If there is no such component.
pub(super) fn paths(
    names: &[String],
    components: &Components,
    own: &BytePath,
    users: &[UserFact],
) -> Result<Vec<BytePath>, CliError> {
    let mut found: Vec<BytePath> = Vec::new();
    for name in names {
        let paths = match components.paths(name) {
            Some(paths) => paths,
            None if name == OWN => vec![own.clone()],
            None => {
                let known: Vec<&str> = components.names().collect();
                return Err(CliError::Usage {
                    message: format!("there is no component `{}`", name.escape_debug()),
                    help: Some(suggest(name, &known)),
                });
            }
        };
        for path in paths {
            let homes =
                users.iter().map(|user| &user.home).filter(|home| home.parent().as_ref() == Some(&path));
            let mut homes: Vec<BytePath> = homes.cloned().collect();
            if homes.is_empty() {
                homes.push(path);
            }
            found.extend(homes);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, home: &str) -> UserFact {
        UserFact { name: name.into(), uid: 1000, gid: 1000, home: home.into() }
    }

    fn ask(names: &[&str]) -> Result<Vec<String>, CliError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let users = [user("root", "/root"), user("bob", "/home/bob"), user("alice", "/home/alice")];
        let own = "/home/alice/.config/pc-switcher".into();
        let found = paths(&names, &Components::default(), &own, &users)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_component_means_its_paths_and_home_the_homes_of_people() {
        assert_eq!(ask(&["config"]).unwrap(), ["/etc"]);
        assert_eq!(ask(&["apps", "config", "apps"]).unwrap(), ["/etc", "/opt", "/usr/local"]);
        assert_eq!(ask(&["home"]).unwrap(), ["/home/alice", "/home/bob"]);
        assert_eq!(ask(&["self"]).unwrap(), ["/home/alice/.config/pc-switcher"]);
    }

    #[test]
    fn a_component_that_is_not_there_is_refused_with_the_nearest() {
        let Err(CliError::Usage { message, help }) = ask(&["confg"]) else { panic!() };
        assert_eq!(message, "there is no component `confg`");
        assert!(help.unwrap().contains("`config`"));
    }
}
