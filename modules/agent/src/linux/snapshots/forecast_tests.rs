//! What was forecast against what was freed, shape by shape, on a real image; each row is printed: `--nocapture` shows the table.

use std::fs;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::gains_tests::{Scene, noise, reflink};

const MIB: usize = 1 << 20;

/// A forecast may be off by one in so many.
const PRECISION: u64 = 100;

/// How a directory comes to be, and what becomes of it once a set holds it.
struct Shape {
    name: &'static str,
    make: fn(&Place<'_>),
    change: fn(&mut Place<'_>),
    /// Whether data is to come free when all of its sets have gone.
    frees: bool,
}

/// Where a shape lives.
struct Place<'a> {
    scene: &'a mut Scene,
    dir: PathBuf,
}

impl Place<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn elsewhere(&self, name: &str) -> PathBuf {
        self.scene.image.top().join("@gain-other").join(name)
    }

    fn write(&self, name: &str, seed: u8, len: usize) {
        fs::write(self.at(name), noise(seed, len)).unwrap();
    }

    /// Writes into the middle of a file.
    fn patch(&self, name: &str, bytes: &[u8], offset: u64) {
        let file = File::options().write(true).open(self.at(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.at(name)).unwrap();
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    fn run(&self, program: &str, args: &[&str]) {
        let done = Command::new(program).args(args).current_dir(&self.dir).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Takes one more set of what is there by now.
    fn take(&mut self) {
        self.scene.sync();
        self.scene.take();
    }
}

/// A text that is not the same all over, and packs well.
fn text(len: usize) -> Vec<u8> {
    let lines = (0..).map(|n| format!("line {n}, and something that is the same in every one of them\n"));
    lines.flat_map(String::into_bytes).take(len).collect()
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "written anew",
        make: |place| place.write("a", 1, 4 * MIB),
        change: |place| place.write("a", 2, 4 * MIB),
        frees: true,
    },
    Shape {
        name: "deleted",
        make: |place| place.write("a", 1, 5 * MIB),
        change: |place| place.empty(),
        frees: true,
    },
    Shape {
        name: "partly written over",
        make: |place| place.write("a", 1, 4 * MIB),
        // The rest holds the whole extent.
        change: |place| place.patch("a", &noise(2, MIB), MIB as u64),
        frees: false,
    },
    Shape {
        name: "partly written over, then deleted",
        make: |place| place.write("a", 1, 4 * MIB),
        change: |place| {
            place.patch("a", &noise(2, MIB), MIB as u64);
            place.take();
            place.empty();
        },
        frees: true,
    },
    Shape {
        name: "appended to",
        make: |place| place.write("a", 1, MIB),
        change: |place| {
            let mut file = File::options().append(true).open(place.at("a")).unwrap();
            file.write_all(&noise(2, MIB)).unwrap();
        },
        frees: false,
    },
    Shape {
        name: "cut short",
        make: |place| {
            // An extent each, since each is on the disk before the next one is written.
            let mut file = File::create(place.at("a")).unwrap();
            for part in 0..4 {
                file.write_all(&noise(part, MIB)).unwrap();
                file.sync_all().unwrap();
            }
        },
        change: |place| File::options().write(true).open(place.at("a")).unwrap().set_len(MIB as u64).unwrap(),
        frees: true,
    },
    Shape {
        name: "sparse",
        make: |place| {
            let mut file = File::create(place.at("a")).unwrap();
            for part in 0..8 {
                file.seek(SeekFrom::Start(part * 64 * MIB as u64)).unwrap();
                file.write_all(&noise(part as u8, MIB / 2)).unwrap();
            }
            file.set_len(1 << 30).unwrap();
        },
        change: |place| place.empty(),
        frees: true,
    },
    Shape {
        name: "preallocated",
        make: |place| {
            place.run("fallocate", &["-l", "6M", "a"]);
            place.patch("a", &noise(1, MIB), MIB as u64);
        },
        change: |place| place.empty(),
        frees: true,
    },
    Shape {
        name: "a hole punched",
        make: |place| place.write("a", 1, 4 * MIB),
        change: |place| place.run("fallocate", &["-p", "-o", "0", "-l", "4M", "a"]),
        frees: true,
    },
    Shape {
        name: "one of two names deleted",
        make: |place| {
            place.write("a", 1, 2 * MIB);
            fs::hard_link(place.at("a"), place.at("b")).unwrap();
        },
        change: |place| place.remove("a"),
        frees: false,
    },
    Shape {
        name: "both names deleted",
        make: |place| {
            place.write("a", 1, 2 * MIB);
            fs::hard_link(place.at("a"), place.at("b")).unwrap();
        },
        change: |place| place.empty(),
        frees: true,
    },
    Shape {
        name: "copied by reference, original deleted",
        make: |place| place.write("a", 1, 3 * MIB),
        change: |place| {
            reflink(&place.at("a"), &place.at("b"));
            place.remove("a");
        },
        frees: false,
    },
    Shape {
        name: "kept elsewhere by reference",
        make: |place| {
            place.write("a", 1, 3 * MIB);
            reflink(&place.at("a"), &place.elsewhere("kept"));
        },
        change: |place| place.empty(),
        frees: false,
    },
    Shape {
        name: "came by reference, older than the sets",
        make: |place| fs::write(place.elsewhere("old"), noise(1, 3 * MIB)).unwrap(),
        change: |place| {
            reflink(&place.elsewhere("old"), &place.at("a"));
            place.take();
            place.empty();
            fs::remove_file(place.elsewhere("old")).unwrap();
        },
        frees: true,
    },
    Shape {
        name: "made one with an equal file",
        make: |place| {
            place.write("a", 1, 3 * MIB);
            place.write("b", 1, 3 * MIB);
        },
        change: |place| {
            place.run("xfs_io", &["-c", "dedupe a 0 0 3145728", "b"]);
            place.take();
            place.remove("a");
        },
        frees: true,
    },
    Shape {
        name: "without copy on write, written over",
        make: |place| {
            place.run("chattr", &["+C", "."]);
            place.write("a", 1, 4 * MIB);
        },
        change: |place| {
            place.patch("a", &noise(2, 4 * MIB), 0);
        },
        frees: true,
    },
    Shape {
        name: "zstd, deleted",
        make: |place| {
            place.run("btrfs", &["property", "set", ".", "compression", "zstd"]);
            fs::write(place.at("a"), text(6 * MIB)).unwrap();
        },
        change: |place| place.empty(),
        frees: true,
    },
    Shape {
        name: "zstd, partly written over",
        make: |place| {
            place.run("btrfs", &["property", "set", ".", "compression", "zstd"]);
            fs::write(place.at("a"), text(4 * MIB)).unwrap();
        },
        // Extents are of 128 KiB here: those that are wholly written over go.
        change: |place| place.patch("a", &noise(2, MIB + 7), MIB as u64 - 3),
        frees: true,
    },
    Shape {
        name: "inside of the tree",
        make: |place| (0..64).for_each(|n| place.write(&format!("tiny-{n}"), n, 200)),
        change: |place| place.empty(),
        frees: false,
    },
    Shape {
        name: "many small ones",
        make: |place| (0..500).for_each(|n| place.write(&format!("small-{n}"), n as u8, 5000)),
        change: |place| (0..400).for_each(|n| place.remove(&format!("small-{n}"))),
        frees: true,
    },
    Shape {
        name: "attributes alone",
        make: |place| {
            place.write("a", 1, MIB);
            let value = "x".repeat(3000);
            place.run("setfattr", &["-n", "user.note", "-v", &value, "a"]);
        },
        change: |place| place.run("setfattr", &["-n", "user.note", "-v", "short", "a"]),
        frees: false,
    },
    Shape {
        name: "renamed",
        make: |place| place.write("a", 1, 2 * MIB),
        change: |place| fs::rename(place.at("a"), place.at("b")).unwrap(),
        frees: false,
    },
    Shape {
        name: "held by two sets",
        make: |place| place.write("a", 1, 4 * MIB),
        change: |place| {
            place.write("b", 2, MIB);
            place.take();
            place.empty();
        },
        frees: true,
    },
];

#[test]
fn whatever_shape_data_has_removing_a_set_frees_what_was_forecast() {
    let Some(mut scene) = Scene::make() else { return };
    let mut wrong = Vec::new();
    println!("{:<42} {:>3} {:>12} {:>12} {:>8}", "shape", "set", "forecast", "freed", "error");
    for (n, shape) in SHAPES.iter().enumerate() {
        let dir = scene.home().join(format!("shape-{n}"));
        fs::create_dir(&dir).unwrap();
        let first = scene.taken.len();
        let mut place = Place { scene: &mut scene, dir: dir.clone() };
        (shape.make)(&place);
        place.take();
        (shape.change)(&mut place);
        scene.sync();
        let mut all = 0;
        // The newer one first: what the older one knows nothing of is the harder question.
        for (n, set) in scene.taken[first..].iter().enumerate().rev() {
            let (forecast, freed) = (scene.forecast(set), scene.freed(set));
            let off = forecast.abs_diff(freed);
            let percent = 100.0 * off as f64 / freed.max(1) as f64;
            let row = format!("{:<42} {n:>3} {forecast:>12} {freed:>12} {percent:>7.2}%", shape.name);
            println!("{row}");
            if off * PRECISION > freed {
                wrong.push(row);
            }
            all += freed;
        }
        if (all > 0) != shape.frees {
            wrong.push(format!("{}: {all} bytes came free", shape.name));
        }
        fs::remove_dir_all(&dir).unwrap();
        empty(&scene.image.top().join("@gain-other"));
        scene.sync();
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn empty(dir: &Path) {
    fs::read_dir(dir).unwrap().flatten().for_each(|entry| fs::remove_file(entry.path()).unwrap());
}

#[test]
fn the_source_and_what_sets_alone_hold_are_told_apart_from_all_else() {
    let Some(mut scene) = Scene::make() else { return };
    let home = scene.home();
    let write =
        |name: &str, seed: u8, mib: usize| fs::write(home.join(name), noise(seed, mib * MIB)).unwrap();
    write("stays", 1, 5);
    write("both", 2, 4);
    scene.sync();
    scene.take();
    write("second", 3, 3);
    scene.sync();
    scene.take();
    fs::remove_file(home.join("both")).unwrap();
    fs::remove_file(home.join("second")).unwrap();
    fs::write(scene.image.top().join("@gain-other/image"), noise(4, 6 * MIB)).unwrap();
    // Shared with what sets hold: it is no set's alone.
    let set = scene.taken[0].members[0].path.as_path().join("both");
    scene.sync();
    let held = scene.holdings();
    let mib = |bytes: u64| bytes >> 20;
    assert_eq!(
        (held.source_bytes.map(mib), mib(held.snapshot_bytes)),
        (Some(5), 7),
        "4 in both and 3 in one"
    );
    reflink(&set, &scene.image.top().join("@gain-other/again"));
    assert_eq!(mib(scene.holdings().snapshot_bytes), 3);
    let mut read = Vec::new();
    File::open(scene.image.top().join("@gain-other/again")).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, noise(2, 4 * MIB));
}
