//! What is compared.

mod cores;
mod ctr;
mod frames;
mod gcm;
mod large;
mod setup;
mod sums;

use std::{cell::RefCell, rc::Rc};

use strongroom_dataplane::{BufferPool, Geometry, PooledBuffer};

use crate::{
    measure::{Contestant, Effort, Times, interleaved},
    report::Figure,
};

/// Plaintext bytes of a full block.
const BLOCK: u32 = 4 << 20;
const TAG: usize = 16;
const KEY_128: &[u8] = b"a key of sixteen";
const KEY_256: &[u8] = b"a key of thirty-two bytes, AES-2";

/// One task at one size.
pub(crate) struct Case {
    /// `area/what/size`, and what follows from it.
    pub(crate) name: String,
    /// Whether it runs only if it is named.
    pub(crate) on_request: bool,
    /// Bytes that one repetition handles; 0 if it is only timed.
    bytes: usize,
    /// Checks that all contestants do the same, and readies them.
    contestants: Box<dyn Fn() -> Vec<Contestant>>,
}

pub(crate) fn all() -> Vec<Case> {
    [
        ctr::cases(),
        large::cases(),
        cores::cases(),
        sums::cases(),
        setup::cases(),
        gcm::cases(),
        frames::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Case {
    fn new(name: String, bytes: usize, contestants: impl Fn() -> Vec<Contestant> + 'static) -> Self {
        Self {
            name,
            on_request: false,
            bytes,
            contestants: Box::new(contestants),
        }
    }

    fn on_request(name: String, bytes: usize, contestants: impl Fn() -> Vec<Contestant> + 'static) -> Self {
        Self {
            on_request: true,
            ..Self::new(name, bytes, contestants)
        }
    }

    /// Each of ours against each other.
    pub(crate) fn figures(&self, effort: Effort) -> Vec<Figure> {
        let mut contestants = (self.contestants)();
        let times = interleaved(&mut contestants, effort);
        let all = || contestants.iter().zip(&times);
        let others = || all().filter(|(other, _)| !other.is_ours);
        all()
            .filter(|(own, _)| own.is_ours)
            .flat_map(|own| others().map(move |other| self.figure(own, other)))
            .collect()
    }

    fn figure(&self, (own, own_times): (&Contestant, &Times), (other, other_times): (&Contestant, &Times)) -> Figure {
        let seconds = own_times.median();
        let (value, unit) = match self.bytes {
            0 => (1e9 * seconds, "ns"),
            bytes => (bytes as f64 / seconds / 1e9, "GB/s"),
        };
        Figure {
            bench: format!("{}/{}", self.name, own.name),
            implementation: "strongroom",
            value,
            unit,
            against: other.name,
            ratio: own_times.faster_than(other_times),
        }
    }
}

/// A buffer that starts where a line of the cache does, as pooled ones do: where it starts decides as much at 64 bytes as who
/// encrypts it.
fn aligned(bytes: usize) -> PooledBuffer {
    let mut buffer = BufferPool::new(bytes, 1).take().expect("the first of one");
    buffer.fill(0x5a);
    buffer
}

/// A buffer that all contestants of a case share: which pages a buffer has decides as much as who works on it.
pub(crate) type SharedBuffer = Rc<RefCell<PooledBuffer>>;

fn shared(bytes: usize) -> SharedBuffer {
    Rc::new(RefCell::new(aligned(bytes)))
}

/// What a case of frames shares.
#[derive(Clone)]
struct Shared {
    sealed: Rc<RefCell<Vec<u8>>>,
    plain: Rc<RefCell<Vec<u8>>>,
}

impl Shared {
    /// As much plaintext as a block has, and up to `sealed_bytes` of what it is sealed to.
    fn new(sealed_bytes: usize) -> Self {
        Self {
            sealed: Rc::new(RefCell::new(vec![0; sealed_bytes])),
            plain: Rc::new(RefCell::new(vec![0; BLOCK as usize])),
        }
    }

    /// Readies them for whoever opens `sealed`.
    fn filler(&self, sealed: Vec<u8>) -> impl FnMut() + 'static {
        let shared = Rc::clone(&self.sealed);
        move || shared.borrow_mut()[..sealed.len()].copy_from_slice(&sealed)
    }
}

/// Whole frames of plaintext, each followed by room for its tag.
fn with_tag_room(plain: &[u8], geometry: Geometry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plain.len() + plain.len() / geometry.frame_bytes() as usize * TAG);
    for frame in plain.chunks(geometry.frame_bytes() as usize) {
        bytes.extend_from_slice(frame);
        bytes.extend_from_slice(&[0; TAG]);
    }
    bytes
}

/// Bytes that differ from their neighbours.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|p| (p * 31 + p / 256) as u8).collect()
}
