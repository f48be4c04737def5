//! Where tracked files are read: where they lie, or in directories that somebody opened, such as those of a snapshot.

use std::borrow::Cow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Says for each path where it is read.
#[derive(Debug, Default)]
pub struct View {
    places: Vec<(PathBuf, Option<OwnedFd>)>,
}

impl View {
    /// Has `path` and what is below it read in a directory; without one where it lies, though what is around it is not.
    pub fn put(&mut self, path: PathBuf, directory: Option<OwnedFd>) {
        self.places.push((path, directory));
    }

    /// Whether everything is read where it lies.
    pub fn is_live(&self) -> bool {
        self.places.iter().all(|(_, directory)| directory.is_none())
    }

    /// Returns where a path is read.
    pub fn real<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        let around = self.places.iter().filter_map(|(place, directory)| {
            let inside = path.strip_prefix(place).ok()?;
            Some((inside, directory.as_ref()))
        });
        // The nearest of those around it.
        let nearest = around.min_by_key(|(inside, _)| inside.as_os_str().len());
        let Some((inside, Some(directory))) = nearest else { return Cow::Borrowed(path) };
        let mut real = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        // That is a link; behind it lies the directory.
        real.push(if inside.as_os_str().is_empty() { Path::new(".") } else { inside });
        Cow::Owned(real)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_path_is_read_in_the_nearest_directory_around_it() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("then", "then"), ("then/vm", "stub"), ("inner", "inner")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), text).unwrap();
        }
        let open = |name: &str| Some(File::open(dir.path().join(name)).unwrap().into());
        let mut view = View::default();
        assert!(view.is_live());
        view.put("/home/a".into(), open("then"));
        view.put("/home/a/vm".into(), open("inner"));
        view.put("/home/a/usb".into(), None);
        assert!(!view.is_live());
        let read = |path: &str| fs::read_to_string(view.real(Path::new(path)));
        assert_eq!(read("/home/a/f").unwrap(), "then");
        assert_eq!(read("/home/a/vm/f").unwrap(), "inner");
        for path in ["/home/a/usb/f", "/home/ab/f", "/home"] {
            assert_eq!(view.real(Path::new(path)), Path::new(path));
        }
        assert!(fs::symlink_metadata(view.real(Path::new("/home/a"))).unwrap().is_dir());
        assert_eq!(view.real(Path::new("/home/a/vm")).read_dir().unwrap().count(), 1);
    }
}
