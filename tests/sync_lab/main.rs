//! Whole syncs between two real machines: what a person types, what comes back, what is there afterwards.
//!
//! The program under test is named by `PC_SWITCHER_BIN` (`tests/run` builds it); it must be one static file.

mod automatic;
mod changed;
mod copies;
mod deadman;
mod differential;
mod doctor;
mod endings;
mod first_contact;
mod gates;
mod guard;
mod hosts;
mod inside;
mod kill_points;
mod layouts;
mod link;
mod moving;
mod nested;
mod no_snapshots;
mod odds;
mod one_decision;
mod past;
mod patched;
mod place;
mod redone;
mod renames;
mod rollback;
mod sets;
mod shared;
mod stick;
mod three;
mod two_disks;
mod undo;
mod units;
mod unplugged;
mod vault;
mod vault_bucket;
mod vault_elsewhere;
mod verbs;

#[test]
fn every_test_that_the_promises_name_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["docs/promises.md", "docs/special-cases.md"];
    let page: String = pages.map(|page| std::fs::read_to_string(root.join(page)).unwrap()).concat();
    // `name` … `path`: the names stand before the file that holds them.
    let mut names = Vec::new();
    for word in page.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            let code =
                std::fs::read_to_string(root.join(word)).unwrap_or_else(|error| panic!("{word}: {error}"));
            for name in names.drain(..) {
                assert!(code.contains(&format!("fn {name}(")), "{word} has no {name}");
            }
        } else if word.matches('_').count() > 1 && word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()) {
            names.push(word);
        }
    }
    assert!(names.is_empty(), "{names:?}");
}
