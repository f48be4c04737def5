//! A disk image in which a virtual machine has written.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::{FileExt, fchown},
    path::Path,
    thread,
};

use super::{super::random::Random, Changed, OWNER};

/// Bytes that are made at once, from a seed of their own.
const STRETCH: u64 = 1 << 20;
/// Bytes that the virtual machine writes at once.
const CLUSTER: u64 = 64 << 10;
/// One cluster in so many is written.
const SHARE: u64 = 100;

/// Describes an image that no compression makes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    seed: u64,
    bytes: u64,
}

impl Image {
    /// Describes an image of so many bytes, in whole MiB.
    pub fn new(seed: u64, bytes: u64) -> Self {
        Self { seed, bytes: bytes.next_multiple_of(STRETCH) }
    }

    /// Returns its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes it to `path`, with so many threads. Needs root.
    pub fn write(&self, path: &Path, threads: usize) -> io::Result<()> {
        let file = File::create(path)?;
        fchown(&file, Some(OWNER), Some(OWNER))?;
        let (file, threads) = (&file, threads.max(1) as u64);
        thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|first| {
                    scope.spawn(move || {
                        (first..self.bytes / STRETCH).step_by(threads as usize).try_for_each(|n| {
                            let bytes = Random::new(self.seed ^ (n << 32)).bytes(STRETCH as usize);
                            file.write_all_at(&bytes, n * STRETCH)
                        })
                    })
                })
                .collect();
            parts.into_iter().try_for_each(|part| match part.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        file.sync_all()
    }

    /// Writes one cluster in a hundred anew, scattered, on the given day.
    pub fn change(&self, path: &Path, day: u64) -> io::Result<Changed> {
        let file = File::options().write(true).open(path)?;
        let mut changed = Changed { edited: 1, ..Changed::default() };
        let mut random = Random::new(self.seed ^ ((day + 1) << 8));
        for cluster in self.clusters(&mut random) {
            file.write_all_at(&random.bytes(CLUSTER as usize), cluster * CLUSTER)?;
            changed.write(cluster * CLUSTER, CLUSTER, self.bytes);
        }
        file.sync_all()?;
        Ok(changed)
    }

    /// Draws the clusters to write, each once.
    fn clusters(&self, random: &mut Random) -> Vec<u64> {
        let all = self.bytes / CLUSTER;
        let (mut seen, mut drawn) = (HashSet::new(), Vec::new());
        while (drawn.len() as u64) < all.div_ceil(SHARE) {
            let cluster = random.below(all);
            if seen.insert(cluster) {
                drawn.push(cluster);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cluster_in_a_hundred_is_drawn_once_and_the_same_each_time() {
        let image = Image::new(1, 100 * CLUSTER * 7 - 5);
        let draw = |seed| image.clusters(&mut Random::new(seed));
        let drawn: HashSet<u64> = draw(4).into_iter().collect();
        assert_eq!((drawn.len(), draw(4).len()), (8, 8));
        assert_eq!(draw(4), draw(4));
        assert_ne!(draw(4), draw(5));
    }
}
