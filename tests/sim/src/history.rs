//! What clients asked for and were told, in the order in which it happened.

use std::{cell::RefCell, fmt, rc::Rc};

use strongroom_fs::FsError;
use strongroom_proto::Reason;

use crate::{chunk::Content, trace};

/// A path below the zone's root, as its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Path(pub(crate) Vec<&'static str>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/z")?;
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// A call. Writers are numbered, and so is what they write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    MakeDirectory(Path),
    Create {
        path: Path,
        writer: u32,
        overwrite: bool,
    },
    /// To be cut to its first `cut` bytes, if any, by the first publication.
    Append {
        path: Path,
        writer: u32,
        cut: Option<u64>,
    },
    /// Of a chunk, or of the cut alone.
    Publish {
        writer: u32,
        chunk: Option<u32>,
    },
    /// Takes it from a writer who left it open.
    Recover(Path),
    Rename {
        from: Path,
        to: Path,
        overwrite: bool,
    },
    Remove {
        path: Path,
        recursive: bool,
    },
    Stat(Path),
    List(Path),
    Read(Path),
}

/// What a call that succeeded was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    /// A directory, or a file of that many bytes.
    Stat(Option<u64>),
    /// Names, and whether they are directories'.
    Names(Vec<(String, bool)>),
    /// What a file holds.
    Content(Content),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Told),
    /// The namespace does not allow it: nothing was done.
    Refused(Reason),
    /// Another writer has or had the file: nothing was done.
    Excluded(Reason),
    /// It was done or not, or will be.
    Unknown,
}

impl Outcome {
    /// What an error says about whether the call was carried out.
    pub(crate) fn of(error: &FsError) -> Self {
        if let FsError::BehindTheEnd { .. } = error {
            return Self::Refused(error.reason());
        }
        match error.reason() {
            reason @ (Reason::NotFound
            | Reason::AlreadyExists
            | Reason::NotADirectory
            | Reason::IsADirectory
            | Reason::NotEmpty
            | Reason::InvalidMove) => Self::Refused(reason),
            reason @ (Reason::LeaseHeld | Reason::LeaseLost) => Self::Excluded(reason),
            reason @ (Reason::InvalidArgument
            | Reason::PermissionDenied
            | Reason::ManifestInvalid
            | Reason::BlockExists
            | Reason::EdekInvalid
            | Reason::Internal) => {
                trace::violation(&format!("a call failed with {}: {error}", reason.as_str()));
                Self::Unknown
            }
            _ => Self::Unknown,
        }
    }
}

/// A call with its times, which count what was called and told in the run.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) call: Call,
    pub(crate) called: usize,
    /// When it was told what; a caller that crashed never was.
    pub(crate) told: Option<(usize, Outcome)>,
}

/// The calls of a run. Clones are handles of the same.
#[derive(Clone, Default)]
pub(crate) struct History(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    times: usize,
    numbers: u32,
}

impl History {
    /// Notes that `who` calls.
    pub(crate) fn call(&self, who: &str, call: Call) -> usize {
        let mut inner = self.0.borrow_mut();
        let id = inner.events.len();
        trace::line(format_args!("{who} #{id} {call:?}"));
        inner.times += 1;
        let called = inner.times;
        inner.events.push(Event {
            call,
            called,
            told: None,
        });
        id
    }

    /// Notes what the call `id` was told.
    pub(crate) fn told(&self, who: &str, id: usize, outcome: Outcome) {
        trace::line(format_args!("{who} #{id} -> {outcome:?}"));
        let mut inner = self.0.borrow_mut();
        inner.times += 1;
        let told = inner.times;
        inner.events[id].told = Some((told, outcome));
    }

    /// A number for a writer or a chunk.
    pub(crate) fn number(&self) -> u32 {
        let mut inner = self.0.borrow_mut();
        inner.numbers += 1;
        inner.numbers
    }

    /// All calls so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.borrow().events.clone()
    }
}
