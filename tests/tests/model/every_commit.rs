//! Short lists of operations, each played again and again: with a fault at its first commit, then at its second, and so on, until a play
//! meets none. So nothing is left to chance: for every kind of fault every commit of a list has failed, of its background, too. After
//! each play all is compared and looked at as after a random sequence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::runtime::Runtime;

use crate::{
    chosen_store,
    crash::{Fault, Faults},
    drop_store, end,
    operation::{Operation, Spot, two_zones},
    play::Game,
    world::{Identities, World},
};

/// Lists played at once.
const AT_ONCE: usize = 4;
/// What becomes of a commit. Those that are refused or lose a race are left to the random sequences.
const FAULTS: [Fault; 3] = [Fault::DieBefore, Fault::DieAfter, Fault::LoseAnswer];
/// More than a list has commits: one that goes on for ever is told.
const COMMITS_MAX: u32 = 100;

/// What is played.
struct List {
    name: &'static str,
    /// What is done before any commit fails; if it is nothing, the service's start is part of the list.
    before: Vec<Operation>,
    operations: Vec<Operation>,
}

#[test]
#[allow(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn every_commit_may_fail_in_its_turn() {
    let lists = [namespace(), file(), keys(), rewriting(), moves(), removal()];
    let series = lists.iter().flat_map(|list| FAULTS.map(|fault| (list, fault)));
    let search = Search {
        identities: Identities::new(),
        waiting: Mutex::new(series.collect()),
        found: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| search.work());
        }
    });
    let found = search.found.into_inner().expect("no panic under the lock");
    eprintln!("{} plays; commits that failed: {:?}", found.plays, found.commits);
    assert!(found.wrong.is_empty(), "{}", found.wrong.join("\n\n"));
    for (list, fault) in lists.iter().flat_map(|list| FAULTS.map(|fault| (list, fault))) {
        // The background commits when it likes, so that it is not the same operation each time that meets the next fault.
        let least = list.operations.iter().filter(|operation| commits(operation)).count();
        let failed = found.commits.get(&(list.name, fault)).copied().unwrap_or_default();
        assert!(
            failed as usize >= least,
            "{}, {fault:?}: {failed} of {least} commits failed",
            list.name
        );
        let met = found.operations.iter().filter(|(name, _)| *name == list.name).count();
        assert!(met * 2 > least, "{}: faults met {met} of its operations", list.name);
    }
}

/// What is played, and what was found.
struct Search<'l> {
    identities: Identities,
    waiting: Mutex<Vec<(&'l List, Fault)>>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    plays: u64,
    /// How many commits of a list failed, by fault.
    commits: BTreeMap<(&'static str, Fault), u32>,
    /// Operations during which one did, by list.
    operations: BTreeSet<(&'static str, usize)>,
    wrong: Vec<String>,
}

impl Search<'_> {
    /// Plays one list after another, until one fails anywhere.
    fn work(&self) {
        let runtime = Runtime::new().expect("a runtime");
        while let Some((list, fault)) = self.next() {
            for commit in 0..=COMMITS_MAX {
                if !self.found().wrong.is_empty() {
                    return;
                }
                let outcome = runtime.block_on(self.play(list, fault, commit));
                let mut found = self.found();
                found.plays += 1;
                match outcome {
                    Ok(Some(turn)) if commit < COMMITS_MAX => _ = found.operations.insert((list.name, turn)),
                    Ok(Some(_)) => found.wrong.push(format!("{} never comes to an end", list.name)),
                    Ok(None) => {
                        found.commits.insert((list.name, fault), commit);
                        break;
                    }
                    Err(wrong) => {
                        let wrong = format!("{}, {fault:?} after {commit} commits: {wrong}", list.name);
                        found.wrong.push(wrong);
                    }
                }
            }
        }
    }

    /// Plays a list with a fault after so many commits. Says during which operation it came, if it did.
    async fn play(&self, list: &List, fault: Fault, commits: u32) -> Result<Option<usize>, String> {
        let (store, faults) = (chosen_store(), Faults::default());
        if list.before.is_empty() {
            faults.arm(commits, fault);
        }
        let world = World::start_with(&self.identities, store.clone(), faults).await;
        let mut game = Game::new(world);
        let played = go_through(&mut game, list, fault, commits).await;
        let (turn, played) = match played {
            Ok(turn) => (turn, Ok(())),
            Err(wrong) => (None, Err(wrong)),
        };
        end(&game.world, played).await?;
        drop(game);
        drop_store(&store);
        Ok(turn)
    }

    fn next(&self) -> Option<(&List, Fault)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn go_through(game: &mut Game, list: &List, fault: Fault, commits: u32) -> Result<Option<usize>, String> {
    for operation in &list.before {
        game.play_one(operation).await?;
    }
    if !list.before.is_empty() {
        game.world.faults.arm(commits, fault);
    }
    let mut met = None;
    for (turn, operation) in list.operations.iter().enumerate() {
        game.play_one(operation).await?;
        if met.is_none() && game.world.faults.struck() > 0 {
            met = Some(turn);
        }
    }
    game.settle().await?;
    Ok(met)
}

/// Whether an operation commits anything itself, of those in the lists.
fn commits(operation: &Operation) -> bool {
    !matches!(
        operation,
        Operation::Add { .. } | Operation::Roll { .. } | Operation::Await | Operation::LookForOld { .. }
    )
}

/// A service that starts for the first time, directories, zones one in the other, what is attached to them, and a file in each.
fn namespace() -> List {
    let quota = Operation::SetQuota {
        at: Spot::Named("/a"),
        clear: false,
    };
    let xattr = Operation::SetXattr {
        at: Spot::Named("/a/n/f"),
        name: 0,
        value: Some(7),
    };
    let others = vec![
        directory("/a/n"),
        Operation::MakeZone {
            at: Spot::Named("/a/n"),
            key: 1,
            ctr: false,
        },
        quota,
        write("/a/n/f", 100),
        write("/b/f", 100),
        xattr,
        rename("/a/n", "/a/m"),
    ];
    List {
        name: "namespace",
        before: Vec::new(),
        operations: [two_zones(), others].concat(),
    }
}

/// A file from its beginning to its end, in several extents.
fn file() -> List {
    let create = Operation::Create {
        at: Spot::Named("/a/f"),
        overwrite: false,
    };
    let remove = Operation::Remove {
        at: Spot::Named("/a/d/f"),
        recursive: false,
    };
    let truncate = Operation::Truncate {
        at: Spot::Named("/a/f"),
        keep: 50,
    };
    let first = vec![
        create,
        add(5000),
        Operation::Flush { writer: 0 },
        add(100),
        Operation::Finish { writer: 0 },
    ];
    let last = vec![truncate, write("/a/f", 300), rename("/a/f", "/a/d/f"), remove];
    List {
        name: "file",
        before: [two_zones(), vec![directory("/a/d")]].concat(),
        operations: [first, appended("/a/f", 4200), last].concat(),
    }
}

/// Keys rolled and zones re-encrypted, to the end and not.
fn keys() -> List {
    let reencrypt = |throttle| Operation::Reencrypt {
        at: Spot::Named("/a"),
        throttle,
    };
    let zone = Spot::Named("/a");
    let files = ["/a/f", "/a/g", "/a/h", "/a/i"].map(|path| write(path, 100));
    List {
        name: "keys",
        before: [two_zones(), files.to_vec(), vec![Operation::Roll { key: 0 }]].concat(),
        operations: vec![
            reencrypt(None),
            Operation::Await,
            Operation::LookForOld { at: zone.clone() },
            Operation::Roll { key: 0 },
            // Three of the files are left for seconds.
            reencrypt(Some(1)),
            write("/a/j", 100),
            Operation::CancelReencryption { at: zone },
            Operation::Await,
        ],
    }
}

/// Files put under new DEKs and in one extent, one by one and all below a directory.
fn rewriting() -> List {
    let all = |rekey| Operation::RewriteAll {
        at: Spot::Named("/a"),
        rekey,
    };
    let one = Operation::Rewrite {
        at: Spot::Named("/b/f"),
    };
    let before = [
        two_zones(),
        vec![write("/a/f", 5000), write("/b/f", 100)],
        appended("/a/f", 100),
    ];
    List {
        name: "rewriting",
        before: before.concat(),
        operations: vec![one, all(false), all(true), Operation::Await],
    }
}

/// Files and directories moved to another zone, and a directory that cannot be for a zone below it.
fn moves() -> List {
    let transfer = |from, to| Operation::Transfer {
        from: Spot::Named(from),
        to: Spot::Named(to),
        overwrite: false,
    };
    let below = [
        directory("/a/d"),
        directory("/a/d/d"),
        write("/a/f", 100),
        write("/a/d/f", 100),
        write("/a/d/d/f", 100),
        directory("/a/n"),
        directory("/a/n/z"),
        Operation::MakeZone {
            at: Spot::Named("/a/n/z"),
            key: 0,
            ctr: false,
        },
    ];
    List {
        name: "moves",
        before: [two_zones(), below.to_vec()].concat(),
        operations: vec![
            transfer("/a/f", "/b/f"),
            transfer("/a/d", "/b/d"),
            Operation::Await,
            transfer("/a/n", "/b/n"),
        ],
    }
}

/// What is removed for good and what goes into the trash, with a zone in each.
fn removal() -> List {
    let zone = |path| {
        let at = Spot::Named(path);
        let made = Operation::MakeZone { at, key: 0, ctr: false };
        [directory(path), made]
    };
    let remove = Operation::Remove {
        at: Spot::Named("/a/d"),
        recursive: true,
    };
    let trash = Operation::Trash {
        at: Spot::Named("/a/t"),
        recursive: true,
    };
    let before = [
        two_zones(),
        vec![directory("/a/d"), directory("/a/t"), write("/a/d/f", 100)],
        zone("/a/d/z").to_vec(),
        zone("/a/t/z").to_vec(),
        vec![write("/a/d/z/f", 100), write("/a/t/z/f", 100)],
    ];
    List {
        name: "removal",
        before: before.concat(),
        operations: vec![
            remove,
            Operation::Await,
            trash,
            Operation::Expunge { immediate: true },
            Operation::Await,
        ],
    }
}

fn directory(path: &'static str) -> Operation {
    Operation::MakeDirectory {
        at: Spot::Named(path),
        parents: false,
    }
}

fn write(path: &'static str, bytes: usize) -> Operation {
    Operation::Write {
        at: Spot::Named(path),
        bytes,
        overwrite: true,
    }
}

fn rename(from: &'static str, to: &'static str) -> Operation {
    Operation::Rename {
        from: Spot::Named(from),
        to: Spot::Named(to),
        overwrite: false,
    }
}

fn add(bytes: usize) -> Operation {
    Operation::Add { writer: 0, bytes }
}

/// Bytes behind those of a file, which go into another extent.
fn appended(path: &'static str, bytes: usize) -> Vec<Operation> {
    let append = Operation::Append {
        at: Spot::Named(path),
        from: None,
    };
    vec![append, add(bytes), Operation::Finish { writer: 0 }]
}
