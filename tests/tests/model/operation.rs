//! What can be done, as data: random sequences of it, which shrink when they fail.
//!
//! An operation of a random sequence does not name its path: it picks one of those that are there when its turn comes, perhaps with a name
//! below, so that most operations meet something, and a shortened sequence still makes sense.

use proptest::{
    option,
    prelude::{Strategy, any, prop_oneof},
    strategy::Just,
};
use strongroom_proto::ZonePath;

use crate::{
    crash::{FAULTS, Fault},
    oracle::Oracle,
};

/// Names below a directory. Few, so that operations meet each other.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// All names that ever are in the root: those, and that of the homes, where the trash is of what is in no zone.
pub(crate) const TOP: [&str; 5] = ["a", "b", "c", "d", "user"];
/// Names on a path at most.
const DEPTH: usize = 7;
/// Files a second of a re-encryption that takes its time.
const THROTTLE: u32 = 20;

/// One thing that a user, an administrator or fate does.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    MakeDirectory {
        at: Spot,
        parents: bool,
    },
    MakeZone {
        at: Spot,
        key: usize,
        ctr: bool,
    },
    /// A zone of a directory that may hold something, or the next step of that.
    Adopt {
        at: Spot,
        key: usize,
    },
    /// A job that encrypts what a zone has adopted.
    Encrypt {
        zone: usize,
    },
    Write {
        at: Spot,
        bytes: usize,
        overwrite: bool,
    },
    Create {
        at: Spot,
        overwrite: bool,
    },
    Append {
        at: Spot,
        from: Option<u16>,
    },
    Add {
        writer: usize,
        bytes: usize,
    },
    Flush {
        writer: usize,
    },
    Finish {
        writer: usize,
    },
    Abandon {
        writer: usize,
    },
    Drop {
        writer: usize,
    },
    Truncate {
        at: Spot,
        keep: u16,
    },
    Rewrite {
        at: Spot,
    },
    Transfer {
        from: Spot,
        to: Spot,
        overwrite: bool,
    },
    Rename {
        from: Spot,
        to: Spot,
        overwrite: bool,
    },
    Remove {
        at: Spot,
        recursive: bool,
    },
    Recover {
        at: Spot,
    },
    Trash {
        at: Spot,
        recursive: bool,
    },
    Expunge {
        immediate: bool,
    },
    SetXattr {
        at: Spot,
        name: usize,
        value: Option<u8>,
    },
    SetMode {
        at: Spot,
        mode: u32,
    },
    /// A job that puts all files below under new DEKs, or in one extent each.
    RewriteAll {
        at: Spot,
        rekey: bool,
    },
    SetQuota {
        at: Spot,
        clear: bool,
    },
    Read {
        at: Spot,
    },
    Roll {
        key: usize,
    },
    Reencrypt {
        at: Spot,
        /// Files a second.
        throttle: Option<u32>,
    },
    CancelReencryption {
        at: Spot,
    },
    PauseJob {
        job: usize,
    },
    ResumeJob {
        job: usize,
    },
    /// Waits until all jobs are over.
    Await,
    /// Looks whether all files of a zone have EDEKs of its key's newest version.
    LookForOld {
        at: Spot,
    },
    Restart,
    /// Whoever writes a file is never heard of again, until all leases have run out.
    Vanish,
    /// A block node is away, one at a time.
    NodeDown {
        node: usize,
    },
    NodeUp,
    /// The commit fails that comes after so many others.
    Fail {
        commits: u32,
        fault: Fault,
    },
}

/// A path.
#[derive(Debug, Clone)]
pub(crate) enum Spot {
    /// One of those that are there when its turn comes.
    Chosen {
        choice: usize,
        wanted: Wanted,
        /// A name below what was chosen.
        name: Option<usize>,
    },
    Named(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Directory,
    File,
    Anything,
}

impl Spot {
    pub(crate) fn path(&self, oracle: &Oracle) -> ZonePath {
        let (choice, wanted, name) = match *self {
            Self::Chosen { choice, wanted, name } => (choice, wanted, name),
            Self::Named(path) => return ZonePath::parse(path.as_bytes()).expect("a path"),
        };
        let mut paths = oracle.paths();
        if name.is_some() {
            paths.retain(|path| path.names().count() < DEPTH);
        }
        let is_wanted = |path: &&ZonePath| match wanted {
            Wanted::Directory => !oracle.is_file(path),
            Wanted::File => oracle.is_file(path),
            Wanted::Anything => true,
        };
        let wanted: Vec<_> = paths.iter().filter(is_wanted).collect();
        let chosen = match wanted.as_slice() {
            [] => &paths[choice % paths.len()],
            wanted => wanted[choice % wanted.len()],
        };
        match name {
            Some(name) => chosen.child(NAMES[name % NAMES.len()]).expect("a name"),
            None => chosen.clone(),
        }
    }
}

fn spot(wanted: Wanted, name: impl Strategy<Value = Option<usize>>) -> impl Strategy<Value = Spot> {
    let is_wanted = prop_oneof![9 => Just(wanted), 1 => Just(Wanted::Anything)];
    (any::<u16>(), is_wanted, name).prop_map(|(choice, wanted, name)| Spot::Chosen {
        choice: choice.into(),
        wanted,
        name,
    })
}

/// A place for something new, in a directory.
fn new() -> impl Strategy<Value = Spot> {
    spot(Wanted::Directory, (0..NAMES.len()).prop_map(Some))
}

fn directory() -> impl Strategy<Value = Spot> {
    spot(Wanted::Directory, Just(None))
}

fn file() -> impl Strategy<Value = Spot> {
    spot(Wanted::File, Just(None))
}

fn anything() -> impl Strategy<Value = Spot> {
    spot(Wanted::Anything, option::weighted(0.1, 0..NAMES.len()))
}

/// Around the sizes of a frame and a cell; seldom more than a block of 4 MiB.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![
        20 => 0..40_usize,
        10 => 4090..4102_usize,
        10 => 0..20_000_usize,
        1 => (4 << 20) - 1..(4 << 20) + 20_usize,
    ]
}

fn writer() -> impl Strategy<Value = usize> {
    any::<u8>().prop_map(usize::from)
}

/// A whole sequence. Most begin with two zones, so that files can be made at once; or, where files may be in no zone, with some of those.
pub(crate) fn operations(plain: bool) -> impl Strategy<Value = Vec<Operation>> {
    let adopting = if plain { 12 } else { 3 };
    let namespace = prop_oneof![
        6 => (new(), any::<bool>()).prop_map(|(at, parents)| Operation::MakeDirectory { at, parents }),
        5 => (directory(), 0..3_usize, any::<bool>()).prop_map(|(at, key, ctr)| Operation::MakeZone { at, key, ctr }),
        adopting => (directory(), 0..3_usize).prop_map(|(at, key)| Operation::Adopt { at, key }),
        adopting => writer().prop_map(|zone| Operation::Encrypt { zone }),
        6 => (anything(), new(), any::<bool>())
            .prop_map(|(from, to, overwrite)| Operation::Rename { from, to, overwrite }),
        2 => (anything(), anything(), any::<bool>())
            .prop_map(|(from, to, overwrite)| Operation::Rename { from, to, overwrite }),
        4 => (anything(), any::<bool>()).prop_map(|(at, recursive)| Operation::Remove { at, recursive }),
        2 => (directory(), any::<bool>()).prop_map(|(at, clear)| Operation::SetQuota { at, clear }),
        4 => (anything(), any::<bool>()).prop_map(|(at, recursive)| Operation::Trash { at, recursive }),
        1 => any::<bool>().prop_map(|immediate| Operation::Expunge { immediate }),
        2 => (anything(), 0..3_usize, option::weighted(0.7, any::<u8>()))
            .prop_map(|(at, name, value)| Operation::SetXattr { at, name, value }),
        1 => (anything(), 0..=0o1777_u32).prop_map(|(at, mode)| Operation::SetMode { at, mode }),
    ];
    let files = prop_oneof![
        12 => (new(), bytes(), any::<bool>())
            .prop_map(|(at, bytes, overwrite)| Operation::Write { at, bytes, overwrite }),
        4 => (new(), any::<bool>()).prop_map(|(at, overwrite)| Operation::Create { at, overwrite }),
        4 => (file(), option::weighted(0.3, any::<u16>())).prop_map(|(at, from)| Operation::Append { at, from }),
        8 => (writer(), bytes()).prop_map(|(writer, bytes)| Operation::Add { writer, bytes }),
        4 => writer().prop_map(|writer| Operation::Flush { writer }),
        3 => writer().prop_map(|writer| Operation::Finish { writer }),
        1 => writer().prop_map(|writer| Operation::Abandon { writer }),
        1 => writer().prop_map(|writer| Operation::Drop { writer }),
        3 => (file(), any::<u16>()).prop_map(|(at, keep)| Operation::Truncate { at, keep }),
        3 => file().prop_map(|at| Operation::Rewrite { at }),
        1 => (directory(), any::<bool>()).prop_map(|(at, rekey)| Operation::RewriteAll { at, rekey }),
        4 => (anything(), new(), any::<bool>())
            .prop_map(|(from, to, overwrite)| Operation::Transfer { from, to, overwrite }),
        2 => file().prop_map(|at| Operation::Recover { at }),
        3 => file().prop_map(|at| Operation::Read { at }),
    ];
    let keys = prop_oneof![
        3 => (0..2_usize).prop_map(|key| Operation::Roll { key }),
        4 => (directory(), any::<bool>())
            .prop_map(|(at, throttled)| Operation::Reencrypt { at, throttle: throttled.then_some(THROTTLE) }),
        1 => directory().prop_map(|at| Operation::CancelReencryption { at }),
        1 => writer().prop_map(|job| Operation::PauseJob { job }),
        1 => writer().prop_map(|job| Operation::ResumeJob { job }),
    ];
    let fate = prop_oneof![
        1 => Just(Operation::Restart),
        1 => Just(Operation::Vanish),
        1 => (0..3_usize).prop_map(|node| Operation::NodeDown { node }),
        1 => Just(Operation::NodeUp),
        9 => (0..6_u32, 0..FAULTS.len()).prop_map(|(commits, fault)| Operation::Fail { commits, fault: FAULTS[fault] }),
    ];
    let one = prop_oneof![5 => namespace, 9 => files, 2 => keys, 4 => fate];
    let sequence = proptest::collection::vec(one, 10..90);
    let first = if plain { files_in_no_zone() } else { two_zones() };
    let begin = prop_oneof![1 => Just(Vec::new()), 5 => Just(first)];
    (begin, sequence).prop_map(|(begin, sequence)| [begin, sequence].concat())
}

/// Two zones, and a file in the first of them.
pub(crate) fn one_file() -> Vec<Operation> {
    let write = Operation::Write {
        at: Spot::Named("/a/a"),
        bytes: 5000,
        overwrite: false,
    };
    [two_zones(), vec![write]].concat()
}

/// A directory with two files, and another one with a third.
pub(crate) fn files_in_no_zone() -> Vec<Operation> {
    let directory = |path| Operation::MakeDirectory {
        at: Spot::Named(path),
        parents: false,
    };
    let write = |path| Operation::Write {
        at: Spot::Named(path),
        bytes: 5000,
        overwrite: false,
    };
    vec![
        directory("/a"),
        write("/a/a"),
        write("/a/b"),
        directory("/a/c"),
        write("/a/c/d"),
    ]
}

/// `/a` under the one key, and `/b` under that of Hadoop's, in its suite.
pub(crate) fn two_zones() -> Vec<Operation> {
    let zone = |path, key| {
        [
            Operation::MakeDirectory {
                at: Spot::Named(path),
                parents: false,
            },
            Operation::MakeZone {
                at: Spot::Named(path),
                key,
                ctr: key == 1,
            },
        ]
    };
    [zone("/a", 0), zone("/b", 1)].concat()
}
