use std::ffi::OsStr;

use super::*;
use crate::error::usage;
use crate::format::{Id, NodeKind};

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn catalogue() -> (tempfile::TempDir, Catalogue) {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(&dir.path().join("catalogue.db")).unwrap();
    (dir, catalogue)
}

fn facts(modified_at: i64) -> FileFacts {
    FileFacts {
        kind: NodeKind::File,
        size: 3,
        permissions: 0o644,
        uid: 1,
        gid: 1,
        inode: 7,
        accessed_at: 1,
        modified_at,
        changed_at: 1,
        born_at: None,
        xattrs: Vec::new(),
        target: Vec::new(),
        device: 0,
        links: 1,
    }
}

fn track(catalogue: &mut Catalogue, path: &str) -> Directory {
    match catalogue.create_directory(Path::new(path), now()).unwrap() {
        Tracked::New(directory, _) => directory,
        other => panic!("{other:?}"),
    }
}

/// Stages a file and records it as a backup does.
fn back_up(
    catalogue: &mut Catalogue,
    directory: &Directory,
    name: &Path,
    content: &[u8],
    modified_at: i64,
) -> u64 {
    let id = Id::of(content);
    catalogue.stage_for_backup(directory, name, &facts(modified_at), Some(id)).unwrap();
    let items = catalogue.staged_after(0, 100).unwrap();
    let arrived: Vec<Arrived> = items
        .into_iter()
        .map(|item| Arrived {
            item,
            content: id,
            stored: vec![("local".into(), vec![Chunk { blob_id: id, size: 3 }])],
        })
        .collect();
    catalogue.record(&arrived, now()).unwrap()
}

fn names(catalogue: &Catalogue, directory: &Directory, below: &str) -> Vec<PathBuf> {
    let files = catalogue.current_files(directory, Path::new(below), None, 1000).unwrap();
    files.into_iter().map(|file| file.name).collect()
}

#[test]
fn a_directory_that_holds_tracked_ones_absorbs_them_with_versions_and_queue() {
    let (_dir, mut catalogue) = catalogue();
    let child = track(&mut catalogue, "/home/a/docs");
    let neighbour = track(&mut catalogue, "/home/a_b");
    back_up(&mut catalogue, &child, Path::new("x/y"), b"one", 1);
    back_up(&mut catalogue, &neighbour, Path::new("z"), b"two", 1);
    let odd = Path::new(OsStr::from_bytes(b"odd\xff\n%"));
    catalogue.stage_for_backup(&child, odd, &facts(2), Some(Id::of(b"q"))).unwrap();
    let Tracked::New(parent, absorbed) = catalogue.create_directory(Path::new("/home/a"), now()).unwrap()
    else {
        panic!("it is tracked already")
    };
    assert_eq!(absorbed, [PathBuf::from("/home/a/docs")], "`_` is no pattern");
    assert_eq!(names(&catalogue, &parent, ""), [PathBuf::from("docs/x/y")]);
    let file = catalogue.find_file_by_path(&parent, Path::new("docs/x/y")).unwrap().unwrap();
    assert_eq!(catalogue.find_file_snapshots_for_file(&file).unwrap().len(), 1, "the history stays");
    let queued = catalogue.next_staged_operation().unwrap().unwrap();
    assert_eq!((queued.directory_id, queued.name), (parent.id, Path::new("docs").join(odd)));
    assert!(catalogue.is_staged(&parent, &Path::new("docs").join(odd)).unwrap());
    assert_eq!(names(&catalogue, &neighbour, ""), [PathBuf::from("z")]);
    let again = catalogue.create_directory(Path::new("/home/a/docs"), now()).unwrap();
    assert_eq!(again, Tracked::Within(parent));
}

#[test]
fn what_differs_in_nothing_but_its_last_access_is_no_new_version() {
    let (_dir, mut catalogue) = catalogue();
    let directory = track(&mut catalogue, "/d");
    assert_eq!(back_up(&mut catalogue, &directory, Path::new("f"), b"one", 1), 1);
    assert_eq!(back_up(&mut catalogue, &directory, Path::new("f"), b"one", 1), 0);
    assert_eq!(back_up(&mut catalogue, &directory, Path::new("f"), b"two", 2), 1);
    let file = catalogue.find_file_by_path(&directory, Path::new("f")).unwrap().unwrap();
    let versions = catalogue.find_file_snapshots_for_file(&file).unwrap();
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(catalogue.staged_count().unwrap(), (0, 0));
}

#[test]
fn a_unique_beginning_of_a_checksum_is_enough_and_an_ambiguous_one_is_said() {
    let (_dir, mut catalogue) = catalogue();
    let directory = track(&mut catalogue, "/d");
    for content in [b"one".as_slice(), b"two"] {
        back_up(&mut catalogue, &directory, Path::new("f"), content, i64::from(content[0]));
    }
    let file = catalogue.find_file_by_path(&directory, Path::new("f")).unwrap().unwrap();
    let one = Id::of(b"one");
    let found = catalogue.find_file_snapshot_by_checksum(&file, &one.short()).unwrap().unwrap();
    assert_eq!(found.content_id, one);
    assert!(catalogue.find_file_snapshot_by_checksum(&file, "ffff0000").unwrap().is_none());
    assert!(catalogue.find_file_snapshot_by_checksum(&file, "").is_err());
}

#[test]
fn files_come_in_the_order_of_trees_and_pages_miss_none() {
    let (_dir, mut catalogue) = catalogue();
    let directory = track(&mut catalogue, "/d");
    for name in ["a.b", "a/b", "a/c%", "a_", "a"] {
        back_up(&mut catalogue, &directory, Path::new(name), name.as_bytes(), 1);
    }
    assert_eq!(names(&catalogue, &directory, ""), ["a", "a/b", "a/c%", "a.b", "a_"].map(PathBuf::from));
    assert_eq!(names(&catalogue, &directory, "a"), ["a", "a/b", "a/c%"].map(PathBuf::from));
    let page = catalogue.current_files(&directory, Path::new(""), Some(Path::new("a/b")), 2).unwrap();
    assert_eq!(
        page.into_iter().map(|file| file.name).collect::<Vec<_>>(),
        ["a/c%", "a.b"].map(PathBuf::from)
    );
    back_up(&mut catalogue, &directory, Path::new("a/d/e"), b"deep", 1);
    let right_in = |name: &str| {
        let found = catalogue.current_files_right_in(&directory, Path::new(name)).unwrap();
        let mut names: Vec<PathBuf> = found.into_iter().map(|file| file.name).collect();
        names.sort();
        names
    };
    assert_eq!(right_in(""), ["a", "a.b", "a_"].map(PathBuf::from));
    assert_eq!(right_in("a"), ["a", "a/b", "a/c%"].map(PathBuf::from));
    assert_eq!(right_in("a/d"), [PathBuf::from("a/d/e")]);
}

#[test]
fn a_catalogue_of_a_newer_version_and_one_that_is_none_are_refused() {
    let (dir, catalogue) = catalogue();
    catalogue.db.pragma_update(None, "user_version", 99).unwrap();
    drop(catalogue);
    let error = Catalogue::open(&dir.path().join("catalogue.db")).err().unwrap();
    assert!(error.to_string().contains("newer"), "{error}");
    std::fs::write(
        dir.path().join("text"),
        "no database, but a text that is long enough to be one".repeat(40),
    )
    .unwrap();
    assert!(Catalogue::open(&dir.path().join("text")).is_err());
}

#[test]
fn what_fails_together_leaves_nothing() {
    let (_dir, mut catalogue) = catalogue();
    let directory = track(&mut catalogue, "/d");
    let result = catalogue.together(|catalogue| {
        catalogue.stage_for_backup(&directory, Path::new("f"), &facts(1), None)?;
        Err::<(), _>(usage("no"))
    });
    assert!(result.is_err());
    assert_eq!(catalogue.staged_count().unwrap().0, 0);
}

#[test]
fn a_catalogue_of_the_first_version_learns_of_links_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue.db");
    let first = Connection::open(&path).unwrap();
    first.execute_batch(schema::MIGRATIONS[0]).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    let fill = "
        INSERT INTO directories VALUES ('d', CAST('/d' AS BLOB), '2026-01-02T03:04:05Z');
        INSERT INTO contents VALUES ('00', 3, 'x');
        INSERT INTO files (id, name, place, directory_id) VALUES ('f', CAST('f' AS BLOB), CAST('f' AS BLOB), 'd');
        INSERT INTO file_snapshots VALUES ('v', 'f', '00', 1, 'x', 3, 420, 1, 1, 7, 1, 5, 1, NULL, x'');
        UPDATE files SET current_snapshot_id = 'v';";
    first.execute_batch(&fill.replace("'00'", &format!("'{}'", Id::of(b"one").hex()))).unwrap();
    drop(first);
    let mut catalogue = Catalogue::open(&path).unwrap();
    let directory = catalogue.directories().unwrap().remove(0);
    let file = catalogue.current_files(&directory, Path::new("f"), None, 1).unwrap().remove(0);
    assert_eq!(file.version.facts, facts(5));
    let link = FileFacts { kind: NodeKind::Symlink, size: 0, target: b"\xffto".to_vec(), ..facts(5) };
    for _ in 0..2 {
        catalogue.stage_for_backup(&directory, Path::new("l"), &link, Some(Id::of(b""))).unwrap();
    }
    let mut waiting = catalogue.staged_after(0, 10).unwrap();
    assert_eq!(waiting.len(), 1, "the older one is superseded");
    let item = waiting.remove(0);
    assert_eq!(item.facts, link);
    let arrived = Arrived { item, content: Id::of(b""), stored: vec![("local".into(), Vec::new())] };
    assert_eq!(catalogue.record(&[arrived], now()).unwrap(), 1);
    let known = catalogue.current_files(&directory, Path::new("l"), None, 1).unwrap().remove(0);
    assert_eq!(known.version.facts, link);
    assert_eq!(
        catalogue.count_lacking("local").unwrap(),
        1,
        "`f` is in no vault, the link needs none but its row"
    );
}

#[test]
fn a_catalogue_with_texts_for_ids_is_the_same_one_with_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue.db");
    let old = Connection::open(&path).unwrap();
    schema::MIGRATIONS[..9].iter().for_each(|migration| old.execute_batch(migration).unwrap());
    old.pragma_update(None, "user_version", 9).unwrap();
    let (one, two) = (Id::of(b"one"), Id::of(b"two"));
    let (one_hex, two_hex) = (one.hex(), two.hex());
    let row = "3, 420, 1, 1, 7, 1, 5, 1, NULL, x'', 'file', x'', 0, 1";
    let fill = format!(
        "PRAGMA foreign_keys = on;
        INSERT INTO directories VALUES ('z', CAST('/a' AS BLOB), 'since'), ('b', CAST('/z' AS BLOB), 'then');
        INSERT INTO contents VALUES ('{one_hex}', 3, '2026-01-02T03:04:05Z'), ('{two_hex}', 3, '2026-01-02T03:04:05.000000001Z');
        INSERT INTO content_locations VALUES ('{one_hex}', 'local', '2026-01-02T03:04:05Z', NULL), ('{two_hex}', 'far', '2026-03-04T05:06:07.5Z', NULL);
        INSERT INTO content_chunks VALUES ('local', '{one_hex}', 0, x'{two_hex}', 3), ('local', '{one_hex}', 1, x'{one_hex}', 4), ('far', '{two_hex}', 0, x'{two_hex}', 3);
        INSERT INTO files VALUES
            ('2', CAST('d/f' AS BLOB), CAST('d' || char(0) || 'f' AS BLOB), 'z', NULL, 0, 0),
            ('1', CAST('d' AS BLOB), CAST('d' AS BLOB), 'z', NULL, 1, 1),
            ('0', CAST('f' AS BLOB), CAST('f' AS BLOB), 'b', NULL, 0, 0);
        INSERT INTO file_snapshots VALUES
            ('9', '2', '{two_hex}', 1, '2026-01-02T03:04:05Z', {row}), ('8', '2', '{one_hex}', 2, '2026-01-02T03:04:05.000000001Z', {row}),
            ('7', '1', '{one_hex}', 1, '2026-01-02T03:04:05Z', {row}), ('6', '0', '{two_hex}', 5, '2026-01-02T03:04:05Z', {row});
        UPDATE files SET current_snapshot_id = CASE id WHEN '2' THEN '8' WHEN '1' THEN '7' ELSE '6' END;
        INSERT INTO staged VALUES (41, 'b', CAST('g' AS BLOB), CAST('g' AS BLOB), NULL, 'manual', {row}),
            (42, 'z', CAST('h' AS BLOB), CAST('h' AS BLOB), '{one_hex}', 'manual', {row});
        INSERT INTO absences VALUES ('1', '2026-02-02T00:00:00Z', NULL);
        INSERT INTO bases VALUES ('b', 'a base');
        INSERT INTO trees VALUES ('local', 'b', x'', x'00');"
    );
    old.execute_batch(&fill).unwrap();
    drop(old);
    let catalogue = Catalogue::open(&path).unwrap();
    let [a, z] = catalogue.directories().unwrap().try_into().unwrap();
    assert_eq!(
        (a.path.as_path(), &*a.created_at, z.path.as_path()),
        (Path::new("/a"), "since", Path::new("/z"))
    );
    let told = |directory| -> Vec<(String, bool, Id, i64, String)> {
        let all = catalogue.current_files(directory, Path::new(""), None, 10).unwrap();
        let tell = |file: CurrentFile| {
            let Version { content_id, number, created_at, .. } = file.version;
            (file.name.display().to_string(), file.deleted, content_id, number, created_at)
        };
        all.into_iter().map(tell).collect()
    };
    let second = "2026-01-02T03:04:05Z".to_owned();
    let of_a = [
        ("d".into(), true, one, 1, second.clone()),
        ("d/f".into(), false, one, 2, "2026-01-02T03:04:05.000000001Z".into()),
    ];
    assert_eq!(told(&a), of_a);
    assert_eq!(told(&z), [("f".into(), false, two, 5, second.clone())]);
    let file = catalogue.find_file_by_path(&a, Path::new("d/f")).unwrap().unwrap();
    let versions = catalogue.find_file_snapshots_for_file(&file).unwrap();
    assert_eq!((file.current_snapshot_id, versions.len()), (Some(versions[0].id), 2));
    assert_eq!((versions[1].content_id, &versions[1].facts), (two, &facts(5)));
    let chunks = [Chunk { blob_id: two, size: 3 }, Chunk { blob_id: one, size: 4 }];
    assert_eq!(catalogue.chunks("local", one).unwrap().unwrap(), chunks);
    assert_eq!(
        (catalogue.chunks("local", two).unwrap(), catalogue.locations(two).unwrap()),
        (None, vec!["far".into()])
    );
    let waiting = catalogue.staged_after(0, 10).unwrap();
    let tell = |item: &StagedItem| (item.seq, item.directory_id, item.name.clone(), item.content_id);
    let expected = [(41, z.id, "g".into(), None), (42, a.id, "h".into(), Some(one))];
    assert_eq!(waiting.iter().map(tell).collect::<Vec<_>>(), expected);
    assert_eq!(catalogue.mounts(&a).unwrap(), [(told_id(&catalogue, &a, "d"), "d".into())]);
    let later = "2026-03-01T00:00:00Z".parse().unwrap();
    let absent = catalogue.absent_at(&a, Path::new(""), later).unwrap();
    assert!(absent.contains(&told_id(&catalogue, &a, "d")) && absent.len() == 1);
    assert_eq!((catalogue.base(&z).unwrap(), catalogue.base(&a).unwrap()), (Some("a base".into()), None));
    assert!(catalogue.tree("local", &z, Path::new("")).unwrap().is_none(), "it is asked for anew");
    catalogue.prove_sound().unwrap();
    let broken = catalogue.db.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap();
    assert!(!broken);
    let free =
        || catalogue.db.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0)).unwrap();
    let much = "CREATE TABLE t AS SELECT zeroblob(1000000) b; DROP TABLE t";
    catalogue.db.execute_batch(much).unwrap();
    assert!(free() > 200, "what older tables leave is more yet");
    catalogue.shrink();
    assert_eq!((free(), told(&a).len()), (0, 2));
}

fn told_id(catalogue: &Catalogue, directory: &Directory, name: &str) -> i64 {
    catalogue.find_file_by_path(directory, Path::new(name)).unwrap().unwrap().id
}

#[test]
fn who_only_looks_writes_nothing_and_waits_for_nobody_who_writes() {
    let (dir, mut catalogue) = catalogue();
    let path = dir.path().join("catalogue.db");
    catalogue
        .together(|catalogue| {
            catalogue.begin_operation("backup", "", now())?;
            // With another writer there it could not be opened at all.
            let looking = Catalogue::open(&path)?;
            assert!(looking.operations(10)?.is_empty(), "what is not done yet is not seen");
            Ok(())
        })
        .unwrap();
    assert_eq!(Catalogue::open(&path).unwrap().operations(10).unwrap().len(), 1);
}

#[test]
fn what_no_version_has_and_commands_of_long_ago_go_and_nothing_that_is_used() {
    let (_dir, mut catalogue) = catalogue();
    let (kept, gone) = (track(&mut catalogue, "/kept"), track(&mut catalogue, "/gone"));
    for (directory, name, content) in [
        (&kept, "a", &b"one"[..]),
        (&kept, "a", b"two"),
        (&kept, "b", b"both"),
        (&gone, "b", b"both"),
        (&gone, "c", b"alone"),
        (&gone, "d", b"waits"),
    ] {
        back_up(&mut catalogue, directory, Path::new(name), content, content.len() as i64);
    }
    let count = |catalogue: &Catalogue, table: &str| -> i64 {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        catalogue.db.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let rows = |catalogue: &Catalogue| {
        ["contents", "content_locations", "content_chunks"].map(|table| count(catalogue, table))
    };
    assert_eq!(catalogue.tidy(now()).unwrap(), Tidied::default());
    catalogue.delete_directory(&gone).unwrap();
    catalogue.stage_for_backup(&kept, Path::new("d"), &facts(9), Some(Id::of(b"waits"))).unwrap();
    assert_eq!(rows(&catalogue), [5, 5, 5], "with the directory go versions alone");
    let before: Vec<_> = names(&catalogue, &kept, "");
    let tidied = catalogue.tidy(now()).unwrap();
    assert_eq!((tidied.contents, rows(&catalogue)), (1, [4, 4, 4]));
    assert_eq!(names(&catalogue, &kept, ""), before);
    for content in [&b"one"[..], b"two", b"both", b"waits"] {
        let chunks = catalogue.chunks("local", Id::of(content)).unwrap().unwrap();
        assert_eq!(chunks, [Chunk { blob_id: Id::of(content), size: 3 }]);
    }
    assert_eq!(catalogue.chunks("local", Id::of(b"alone")).unwrap(), None);

    // Two years, a command a day of each sort.
    let day = |day: i64| now() - jiff::SignedDuration::from_hours(24 * (730 - day));
    for at in (0..730).map(day) {
        for operation in ["add", "backup", "check"] {
            let id = catalogue.begin_operation(operation, "", at).unwrap();
            catalogue.end_operation(id, true, "", at).unwrap();
        }
    }
    let last = catalogue.last_operation().unwrap();
    // Of the first year all are older than the last thousand.
    assert_eq!(catalogue.tidy(now()).unwrap().operations, 2 * 365);
    assert_eq!(count(&catalogue, "backup_operations"), 3 * 730 - 2 * 365);
    assert_eq!((catalogue.runs("backup").unwrap().len(), catalogue.last_operation().unwrap()), (730, last));
    assert_eq!(catalogue.tidy(now() + jiff::SignedDuration::from_hours(24 * 3650)).unwrap().operations, 63);
    let told = catalogue.operations(1000).unwrap();
    assert!(
        told.len() == 1000 && told.windows(2).all(|two| two[0].id == two[1].id + 1),
        "the last ones stay whole"
    );
}
