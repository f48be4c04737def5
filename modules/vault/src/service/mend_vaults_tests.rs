//! A catalogue that went back, beside several vaults.

use super::*;
use crate::store::MemoryStore;
use crate::store::faults::Call;

/// A second vault, which nobody requires, and which is away if it shall be.
fn with_another(world: &World, other: &Arc<MemoryStore>, is_away: bool) -> Surroundings {
    let (first, other) = (world.store.clone(), other.clone());
    let away =
        move |_: &Call<'_>| is_away.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"));
    let other: Arc<dyn Store> = Arc::new(Faults::on(&other).that_fails(away));
    let stores: OpenStore =
        Arc::new(move |settings| Ok(if settings.name == "other" { other.clone() } else { first.clone() }));
    Surroundings { stores, ..around(world) }
}

fn add_another(world: &World) -> Arc<MemoryStore> {
    let other = Arc::new(MemoryStore::default());
    Service::add_vault(&around(world), Path::new("/other"), "other").unwrap();
    let settings = world.home.path().join("bt.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let (before, after) = text.rsplit_once("required = true").unwrap();
    fs::write(&settings, format!("{before}required = false{after}")).unwrap();
    let mut service = Service::open(with_another(world, &other, false)).unwrap();
    service.prepare_vaults(Some("other"), &mut word()).unwrap();
    other
}

#[test]
fn a_vault_that_is_away_may_know_more_whether_it_is_required_or_not() {
    for is_used in [true, false] {
        let mut world = with_three_backups();
        let other = add_another(&world);
        let back_up = |world: &World| {
            let around = with_another(world, &other, false);
            // What it was when it was put back: the boot before.
            let around =
                Surroundings { who: world.around(Path::new("/"), world.store.clone(), 1).who, ..around };
            let mut service = Service::open(around).unwrap();
            stage(&mut service).unwrap();
            let only = if is_used { None } else { Some("local") };
            service.backup(only, &mut word(), &Quiet::default()).unwrap();
        };
        world.put(0..2, 6);
        back_up(&world);
        let (old, _) = world.copy();
        world.put(0..4, 7);
        back_up(&world);
        let known = told(&open(&world));
        put_back(&world, old.path());
        world.hour += 1;
        let error = backed_up(with_another(&world, &other, true)).map(drop).unwrap_err();
        let said = format!("{error:?}");
        assert!(said.contains("the vault `other` may know more, and cannot be asked now"), "{said}");
        assert_eq!(put_aside(&open(&world)), 0);
        let (report, service) = backed_up(with_another(&world, &other, false)).unwrap();
        assert!(report.warnings[0].contains("is up to date again"), "{report:?}");
        assert_eq!(told(&service), known);
    }
}

#[test]
fn a_vault_that_came_in_between_and_is_away_and_two_histories_are_left_to_a_person() {
    // It is not even set any more, since the settings went back as well.
    let mut world = with_three_backups();
    let (old, _) = world.copy();
    let settings = fs::read(world.home.path().join("bt.toml")).unwrap();
    let other = add_another(&world);
    let run = |world: &World, only| {
        let around = with_another(world, &other, false);
        let around = Surroundings { who: world.around(Path::new("/"), world.store.clone(), 1).who, ..around };
        let mut service = Service::open(around).unwrap();
        stage(&mut service).unwrap();
        service.backup(only, &mut word(), &Quiet::default()).unwrap();
    };
    world.put(0..4, 7);
    run(&world, None);
    // The copy in `local` is from before the one in `other` was stored.
    world.put(0..4, 8);
    run(&world, None);
    let both = fs::read(world.home.path().join("bt.toml")).unwrap();
    fs::write(world.home.path().join("bt.toml"), settings).unwrap();
    let back = Back::to(world, old.path());
    refuses(back.around(), "the vault `other` was used after what this catalogue knows");
    fs::write(back.world.home.path().join("bt.toml"), both).unwrap();
    backed_up(with_another(&back.world, &other, false)).unwrap();
    back.assert_mended();

    let mut world = with_three_backups();
    let other = add_another(&world);
    let run = |world: &World, only| {
        let around = with_another(world, &other, false);
        let around = Surroundings { who: world.around(Path::new("/"), world.store.clone(), 1).who, ..around };
        let mut service = Service::open(around).unwrap();
        stage(&mut service).unwrap();
        service.backup(only, &mut word(), &Quiet::default()).unwrap();
    };
    world.put(0..1, 6);
    run(&world, None);
    let (old, _) = world.copy();
    for only in ["local", "other"] {
        put_back(&world, old.path());
        world.put(0..4, 8);
        run(&world, Some(only));
    }
    put_back(&world, old.path());
    world.hour += 1;
    let error = backed_up(with_another(&world, &other, false)).map(drop).unwrap_err();
    assert!(format!("{error:?}").contains("hold copies of different histories"), "{error:?}");
    assert_eq!(put_aside(&open(&world)), 0);
}
