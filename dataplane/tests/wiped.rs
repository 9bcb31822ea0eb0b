//! Key material is overwritten before its memory goes back: an allocator looks at every block that is freed.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    slice,
    sync::atomic::{AtomicUsize, Ordering},
};

use strongroom_dataplane::{
    Backend, BufferPool, Ctr, CtrKey, DataKey, ExtentKey, Geometry, ManifestKey, Seed, Spill, Suite,
};

/// Its first half is found in memory as the first round key.
const KEY: [u8; 32] = *b"only for the eyes of those tests";

/// Freed blocks that had the key in them, and freed tables of counter-mode caching, with and without something in them.
static KEYS_SEEN: AtomicUsize = AtomicUsize::new(0);
static TABLES_WIPED: AtomicUsize = AtomicUsize::new(0);
static TABLES_SEEN: AtomicUsize = AtomicUsize::new(0);

/// A table is the only thing of this size and alignment.
const TABLE: (usize, usize) = (5120, 64);

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: all is left to the system's allocator; freed memory is only read, before it is handed back.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: zeroed, so that what is looked at later was written; the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is still the caller's, has this size, and every byte of it was initialised by `alloc`.
        look(unsafe { slice::from_raw_parts(block, layout.size()) }, layout);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

fn look(block: &[u8], layout: Layout) {
    if block.windows(16).any(|window| window == &KEY[..16]) {
        KEYS_SEEN.fetch_add(1, Ordering::Relaxed);
    }
    if (layout.size(), layout.align()) == TABLE {
        let counter = if block.iter().all(|byte| *byte == 0) {
            &TABLES_WIPED
        } else {
            &TABLES_SEEN
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// One test, since others would free memory beside it.
#[test]
fn keys_and_tables_are_wiped() {
    drop(Box::new(KEY));
    assert_eq!(KEYS_SEEN.swap(0, Ordering::Relaxed), 1, "what is not wiped is seen");

    let backends: Vec<Backend> = Backend::all().collect();
    for backend in &backends {
        let (short, _) = KEY.split_first_chunk().expect("32 bytes");
        for key in [CtrKey::Aes128(short), CtrKey::Aes256(&KEY)] {
            let ctr = Ctr::with_backend(key, &[0; 16], *backend);
            ctr.apply(3, &mut [0; 40_000]).expect("a small position");
            drop(Box::new(ctr));
        }
    }
    assert_eq!(KEYS_SEEN.load(Ordering::Relaxed), 0, "no freed block has the key");
    assert_eq!(TABLES_SEEN.load(Ordering::Relaxed), 0, "no freed table has anything");
    let tables = 2 * backends.iter().filter(|backend| backend.name() != "portable").count();
    assert_eq!(
        TABLES_WIPED.load(Ordering::Relaxed),
        tables,
        "each keystream had a table"
    );
    others_are_wiped();
    assert_eq!(
        KEYS_SEEN.load(Ordering::Relaxed),
        0,
        "no freed block has a key or pooled plaintext"
    );
}

/// What else holds secrets: spills, pooled buffers, and the keys of extents and manifests, whose engine is handed copies.
fn others_are_wiped() {
    let mut spill = Spill::begin(|random| random[..32].copy_from_slice(&KEY));
    spill.append(&mut [0; 40_000]).expect("a small position");
    drop(Box::new(spill));

    let pool = BufferPool::new(1000, 1);
    pool.take().expect("the first of one")[..32].copy_from_slice(&KEY);
    drop(pool);

    let geometry = Geometry::new(Suite::Gcm, 4096, 4096).expect("valid");
    let dek = DataKey::new(&KEY);
    drop(Box::new(
        ExtentKey::derive(&dek, &[1; 16], Seed::Salt([2; 16]), geometry).expect("a DEK and a salt"),
    ));
    drop(Box::new(ManifestKey::derive(&dek, &[1; 16])));
}
