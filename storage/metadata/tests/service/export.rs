//! Moving a namespace between engines: what arrives is what left, and what is wrong with a file or a store is said before
//! anything is written.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use strongroom_kv::{AnyStore, AnyTxn, Reader, Store, StoreConfig, Txn};
use strongroom_metadata::{Config, ExportError, Settings, Summary, export, import, run};
use strongroom_proto::metadata::v1 as pb;
use tempfile::TempDir;

use super::{
    adopt::{adopt, encrypt, start, told},
    fsck::findings,
};
use crate::fixture::{NODES, World, cluster::Cluster, files::commit_request, in_database, pki::Pki, quick};

/// Bytes of an export before its records and after the last one's end.
const HEADER: usize = 24;
const TRAILER: usize = 42;

struct Place {
    dir: TempDir,
    pki: Pki,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            pki: Pki::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration of a service over `store`, with the data directory of that name.
    fn config(&self, data_dir: &str, store: StoreConfig) -> Config {
        Config {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: self.pki.files("service/metadata"),
            data_dir: self.path(data_dir),
            store,
            kms: "127.0.0.1:1".parse().expect("an address"),
            superusers: Vec::new(),
            supergroup: "supergroup".parse().expect("valid"),
            groups: None,
            settings: Settings::default(),
        }
    }
}

/// The records of an export, without its date.
fn records(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).expect("an export");
    bytes[HEADER..bytes.len() - TRAILER].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_moves_to_a_database_and_back_and_works_in_both() {
    let (database, place) = (Cluster::start(), Place::new());
    let (embedded, shared) = (StoreConfig::default(), in_database(&database.fresh_url()));
    let mut world = World::with_store(quick(), StoreConfig::default()).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/plain/deep").await;
    for number in 0..8 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    let open = world.create("/z/open", false).await.expect("created");
    let names = world.names("/z").await;
    world.stop().await;

    let there = place.config("there", embedded.clone());
    fs::create_dir(place.path("there")).expect("a directory");
    fs::copy(world.store_path(), place.path("there/metadata.redb")).expect("a copy");
    let first = place.path("first");
    let left = export(&there, &first, false).await.expect("exported");
    let counts = |summary: &Summary| (summary.files, summary.directories, summary.open_files, summary.zones);
    assert_eq!(counts(&left), (8, 4, 1, 1), "{left:?}");

    let inside = place.config("inside", shared.clone());
    let arrived = import(&inside, &first, Some(&left.sha256)).await.expect("imported");
    assert_eq!(arrived, left);
    let second = place.path("second");
    let again = export(&inside, &second, false)
        .await
        .expect("exported from the database");
    assert_eq!(counts(&again), counts(&left));
    let back = place.config("back", embedded);
    import(&back, &second, None)
        .await
        .expect("imported from the database's");
    let third = place.path("third");
    export(&back, &third, false).await.expect("exported");
    assert!(records(&first) == records(&second) && records(&second) == records(&third));

    // A service goes on over the database, with the file that was being written.
    let world = World::over(world, shared).await;
    assert_eq!(world.names("/z").await, names);
    let grant = open.grant.expect("a grant");
    world
        .commit(commit_request(&grant, 10, &NODES))
        .await
        .expect("the writer finishes");
    world.rename("/z/open", "/z/done", false).await.expect("renamed");
    let stat = world.stat("/z/done").await.expect("it shows");
    assert_eq!((stat.length, stat.zone_path.as_ref()), (10, &b"/z"[..]));
    // Only a copy of it can be had while it works.
    let error = export(&inside, &place.path("fourth"), false)
        .await
        .expect_err("a service runs");
    assert!(matches!(error, ExportError::Running), "{error}");
    export(&inside, &place.path("fourth"), true).await.expect("a copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_goes_on_adopting_where_its_namespace_was_moved_to() {
    let (database, place) = (Cluster::start(), Place::new());
    let shared = in_database(&database.fresh_url());
    let settings = Settings {
        plain_files: true,
        ..quick()
    };
    let mut world = World::with_store(settings, StoreConfig::default()).await;
    world.mkdir("/a").await;
    for name in ["f", "g", "h"] {
        world
            .write_plain(&format!("/a/{name}"), 10)
            .await
            .expect("a plain file");
    }
    world.mkdir("/b").await;
    world.write_plain("/b/i", 10).await.expect("a plain file");
    assert_eq!(adopt(&world, "/a").await, told(true, 3, false));
    let job = start(&world, "/a").await;
    encrypt(&world, &job, "/a/f").await;
    world.stop().await;

    let there = place.config("there", StoreConfig::default());
    fs::create_dir(place.path("there")).expect("a directory");
    fs::copy(world.store_path(), place.path("there/metadata.redb")).expect("a copy");
    let exported = place.path("exported");
    export(&there, &exported, false).await.expect("exported");
    import(&place.config("inside", shared.clone()), &exported, None)
        .await
        .expect("imported");
    let world = World::over(world, shared).await;
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
    for path in ["/a/g", "/a/h"] {
        encrypt(&world, &job, path).await;
    }
    assert_eq!(adopt(&world, "/a").await, told(true, 0, true));
    assert_eq!(world.read("/b/i").await.expect("it opens").edek, None);
    assert_eq!(findings(&world, false).await, []);
}

/// A small export and its configuration.
async fn small(place: &Place) -> PathBuf {
    let mut world = World::with_store(quick(), StoreConfig::default()).await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    world.stop().await;
    fs::create_dir(place.path("small")).expect("a directory");
    fs::copy(world.store_path(), place.path("small/metadata.redb")).expect("a copy");
    let config = place.config("small", StoreConfig::default());
    let path = place.path("small.export");
    export(&config, &path, false).await.expect("exported");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_a_whole_export_is_refused_before_anything_is_written() {
    let place = Place::new();
    let path = small(&place).await;
    let whole = fs::read(&path).expect("an export");
    let bad = place.path("bad");
    let target = place.config("target", StoreConfig::default());
    let mut wrong: Vec<(String, Vec<u8>)> = Vec::new();
    for length in (0..whole.len()).step_by(7) {
        wrong.push((format!("cut to {length} bytes"), whole[..length].to_vec()));
    }
    for at in (0..whole.len()).step_by(5) {
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        wrong.push((format!("altered at {at}"), altered));
    }
    wrong.push(("longer".to_owned(), [&whole[..], &[0]].concat()));
    for (what, bytes) in wrong {
        fs::write(&bad, bytes).expect("written");
        let error = import(&target, &bad, None).await.expect_err(&what);
        assert!(
            matches!(error, ExportError::Damaged { .. } | ExportError::Format { .. }),
            "{what}: {error}"
        );
    }
    let error = import(&target, &path, Some(&"0".repeat(64)))
        .await
        .expect_err("another export");
    assert!(matches!(error, ExportError::OtherExport { .. }), "{error}");
    assert!(!target.data_dir.exists(), "nothing was written");

    let existing = export(&place.config("small", StoreConfig::default()), &path, false).await;
    let error = existing.expect_err("the file exists");
    assert!(error.to_string().contains("cannot make"), "{error}");
    assert_eq!(fs::read(&path).expect("still there"), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_holds_something_is_left_alone() {
    let place = Place::new();
    let path = small(&place).await;
    let target = place.config("target", StoreConfig::default());
    let file = target.data_dir.join("metadata.redb");
    let store = AnyStore::open(&target.store, &file).await.expect("a store");
    let mut txn = store.begin().await.expect("a transaction");
    txn.put(b"key/payroll", b"1".to_vec());
    txn.commit().await.expect("committed");
    drop(store);
    let error = import(&target, &path, None).await.expect_err("not empty");
    assert!(matches!(error, ExportError::NotEmpty), "{error}");
    let error = export(&target, &place.path("none"), false)
        .await
        .expect_err("no namespace");
    assert!(matches!(error, ExportError::Empty), "{error}");
    assert!(!place.path("none").exists(), "no file is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_off_is_repeated_and_nothing_starts_over_half_of_one() {
    let (database, place) = (Cluster::start(), Place::new());
    let mut world = World::with_store(quick(), StoreConfig::default()).await;
    let make = |number: usize| {
        let mut client = world.user("alice").namespace;
        async move {
            let path = format!("/{}", format!("d{number:05}").repeat(30)).into();
            let mode = 0o755;
            let request = pb::MakeDirectoryRequest {
                path,
                mode,
                ..pb::MakeDirectoryRequest::default()
            };
            client.make_directory(request).await.expect("made");
        }
    };
    // More than a few transactions of 1000 records.
    futures::future::join_all((0..3000).map(make)).await;
    world.stop().await;
    fs::create_dir(place.path("there")).expect("a directory");
    fs::copy(world.store_path(), place.path("there/metadata.redb")).expect("a copy");
    let path = place.path("export");
    let left = export(&place.config("there", StoreConfig::default()), &path, false)
        .await
        .expect("exported");
    assert!(left.records > 6000, "{left:?}");

    let target = place.config("target", in_database(&database.fresh_url()));
    let (mut patience, mut cut_off) = (Duration::from_millis(20), 0);
    let arrived = loop {
        match tokio::time::timeout(patience, import(&target, &path, None)).await {
            Ok(outcome) => break outcome.expect("it goes on where it was cut off"),
            Err(_) => cut_off += 1,
        }
        patience += Duration::from_millis(20);
        // A commit that was under way may still take place.
        tokio::time::sleep(Duration::from_millis(300)).await;
        if begun(&target).await {
            let error = run(target.clone(), std::future::pending()).await.expect_err("half");
            let text = format!("{error:?}");
            assert!(text.contains("Importing"), "{text}");
            let other = import(&target, &small_copy(&place, &path).await, None).await;
            let error = other.expect_err("another export");
            assert!(matches!(error, ExportError::OtherImport { .. }), "{error}");
        }
    };
    assert!(cut_off > 0, "it was never cut off");
    assert_eq!(arrived, left);
    let again = import(&target, &path, None).await.expect("it is there");
    assert_eq!(again, left);
    let back = export(&target, &place.path("back"), false).await.expect("exported");
    assert_eq!(back.records, left.records);
    assert!(records(&path) == records(&place.path("back")));
}

/// Whether an import into the store was begun and is not over.
async fn begun(config: &Config) -> bool {
    let store = AnyStore::open(&config.store, Path::new("")).await.expect("a store");
    let mut txn = store.begin().await.expect("a transaction");
    let has = async |txn: &mut AnyTxn, key: &[u8]| txn.get(key).await.expect("readable").is_some();
    has(&mut txn, b"m").await && !has(&mut txn, b"v").await
}

/// Another export than `path`, made once.
async fn small_copy(place: &Place, path: &Path) -> PathBuf {
    let other = place.path("small.export");
    if !other.exists() {
        small(place).await;
    }
    assert_ne!(other, path);
    other
}
