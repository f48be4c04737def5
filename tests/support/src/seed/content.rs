//! What a home mostly holds: documents, a repository, mail, settings, caches, a database.

use std::io;

use super::{random::Random, tree::Tree};

const FOLDERS: [&str; 6] =
    ["Documents", "Documents/letters", "Documents/tax/2024", "Pictures/summer", "notes", "Desktop"];
const ENDINGS: [&str; 5] = ["txt", "md", "odt", "jpg", "csv"];

pub(super) fn documents(tree: &mut Tree<'_>, random: &mut Random, count: usize) -> io::Result<()> {
    for number in 0..count {
        let (folder, ending) = (*random.pick(&FOLDERS), *random.pick(&ENDINGS));
        // Many small ones and a few large ones, as in real homes.
        let length =
            usize::try_from(if number % 25 == 0 { 400_000 } else { random.below(9_000) }).unwrap_or_default();
        let bytes = if ending == "jpg" { random.bytes(length) } else { random.prose(length) };
        let mode = *random.pick(&[0o644, 0o644, 0o600, 0o664]);
        tree.file(format!("{folder}/paper-{number:03}.{ending}"), &bytes, mode)?;
    }
    Ok(())
}

/// Shaped like a git work tree: many small read-only objects, a pack, refs, an index.
pub(super) fn repository(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    const REPO: &str = "src/project";
    for file in ["README.md", "src/main.rs", "src/lib.rs", "tests/all.rs"] {
        let text = random.prose(2_000);
        tree.file(format!("{REPO}/{file}"), &text, 0o644)?;
    }
    tree.file(format!("{REPO}/build.sh"), b"#!/bin/sh\necho built\n", 0o755)?;
    tree.file(format!("{REPO}/.git/HEAD"), b"ref: refs/heads/main\n", 0o644)?;
    tree.file(format!("{REPO}/.git/config"), b"[core]\n\tbare = false\n", 0o644)?;
    for _ in 0..60 {
        let name: String = random.bytes(20).iter().map(|byte| format!("{byte:02x}")).collect();
        let length = 40 + usize::try_from(random.below(600)).unwrap_or_default();
        let object = random.bytes(length);
        tree.file(format!("{REPO}/.git/objects/{}/{}", &name[..2], &name[2..]), &object, 0o444)?;
    }
    let (pack, index, head) = (random.bytes(900_000), random.bytes(3_000), random.bytes(20));
    tree.file(format!("{REPO}/.git/objects/pack/pack-1.pack"), &pack, 0o444)?;
    tree.file(format!("{REPO}/.git/index"), &index, 0o644)?;
    let head: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    tree.file(format!("{REPO}/.git/refs/heads/main"), format!("{head}\n").as_bytes(), 0o644)?;
    tree.dir(format!("{REPO}/.git/refs/tags"), 0o755)?;
    Ok(())
}

pub(super) fn maildir(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    for folder in ["Mail/cur", "Mail/new", "Mail/tmp", "Mail/.Sent/cur", "Mail/.Sent/new", "Mail/.Sent/tmp"] {
        tree.dir(folder, 0o700)?;
    }
    for number in 0..40 {
        let folder = *random.pick(&["Mail/cur", "Mail/.Sent/cur"]);
        let flags = *random.pick(&["S", "RS", "FS", ""]);
        let text = random.prose(1_500);
        tree.file(format!("{folder}/{}.M{number}P7.laptop:2,{flags}", 1_700_000_000 + number), &text, 0o600)?;
    }
    let text = random.prose(700);
    tree.file("Mail/new/1700000999.M1P7.laptop", &text, 0o600)?;
    Ok(())
}

pub(super) fn settings_and_caches(tree: &mut Tree<'_>, random: &mut Random) -> io::Result<()> {
    tree.file(".config/editor/settings.json", b"{\"theme\": \"dark\"}\n", 0o600)?;
    tree.file(".local/share/app/state.bin", &random.bytes(30_000), 0o600)?;
    tree.file(".bash_history", b"ls\nssh desk\n", 0o600)?;
    for number in 0..20 {
        let bytes = random.bytes(8_000);
        tree.file(format!(".cache/thumbnails/{number:08x}.png"), &bytes, 0o600)?;
    }
    tree.file(".cache/app/index", &random.bytes(60_000), 0o644)?;
    tree.dir(".local/share/Trash/files", 0o700)?;
    Ok(())
}

/// Returns SQL for a small database that the same seed makes the same.
pub(super) fn database(seed: u64) -> String {
    let mut random = Random::new(seed ^ 0xdb);
    let mut sql = "PRAGMA page_size = 4096; DROP TABLE IF EXISTS notes;\n\
                   CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL); BEGIN;\n"
        .to_owned();
    for id in 0..200 {
        let text = String::from_utf8_lossy(&random.prose(120)).replace('\n', " ");
        sql.push_str(&format!("INSERT INTO notes VALUES ({id}, '{text}');\n"));
    }
    sql + "COMMIT; VACUUM;\n"
}
