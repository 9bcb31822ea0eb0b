//! Which keystream was used, read off the ciphertext, so that no use of one twice can hide.
//!
//! Every 16 bytes of plaintext that the model writes, counted from an extent's beginning, are one byte 16 times. Whatever byte it
//! is, the ciphertext of such a cell is the cell of the keystream with that byte added, so that the sums of its bytes with its
//! first one are the keystream's, and tell one keystream from another but for a chance of 2^-120. Two ciphertexts with the same
//! sums were made with the same key and counter; no salt, no key and no counter need be known for that.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::BlockId;

/// Bytes that one counter is for.
pub(crate) const CELL: usize = 16;
/// Of a block all cells before this one are entered, and one in so many behind it.
const DENSE: usize = 1024;
const SPARSE: usize = 64;

/// All ciphertext that ever left a client.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seen: HashMap<[u8; CELL], Seen>,
    /// Blocks that came as they were written.
    plain: BTreeSet<BlockId>,
    reused: Vec<String>,
    cells: u64,
}

struct Seen {
    block: BlockId,
    cell: usize,
    ciphertext: [u8; CELL],
}

impl Ledger {
    /// Enters a block as it came to a node. The same block with the same bytes may come again.
    pub(crate) fn enter(&self, block: BlockId, ciphertext: &[u8]) {
        let mut state = self.lock();
        for (cell, bytes) in ciphertext.as_chunks::<CELL>().0.iter().enumerate() {
            if cell < DENSE || cell % SPARSE == 0 {
                state.enter(block, cell, *bytes);
            }
        }
    }

    /// Every use of a keystream that was used before.
    pub(crate) fn reused(&self) -> Vec<String> {
        self.lock().reused.clone()
    }

    /// All blocks that were not encrypted.
    pub(crate) fn plain(&self) -> BTreeSet<BlockId> {
        self.lock().plain.clone()
    }

    /// How many cells were looked at.
    pub(crate) fn cells(&self) -> u64 {
        self.lock().cells
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, block: BlockId, cell: usize, ciphertext: [u8; CELL]) {
        let sums = ciphertext.map(|byte| byte ^ ciphertext[0]);
        // No keystream: this is a cell as it was written, or pieces of such, where extents that end within a cell were put in one. Of 16
        // bytes of a keystream half are like the one before with a chance of less than 2^-40.
        let alike = ciphertext.windows(2).filter(|pair| pair[0] == pair[1]).count();
        if alike >= CELL / 2 {
            self.plain.insert(block);
            return;
        }
        self.cells += 1;
        let fresh = Seen {
            block,
            cell,
            ciphertext,
        };
        if let Some(seen) = self.seen.get(&sums) {
            if (seen.block, seen.cell, seen.ciphertext) != (block, cell, ciphertext) {
                let text = format!(
                    "cell {cell} of block {block} has the keystream of cell {} of block {}",
                    seen.cell, seen.block
                );
                self.reused.push(text);
            }
            return;
        }
        self.seen.insert(sums, fresh);
    }
}

/// Plaintext for the ledger: the bytes from `offset` on of an extent that is the `write`th.
pub(crate) fn plaintext(write: u64, offset: u64, length: usize) -> Vec<u8> {
    let byte = |position: u64| {
        let cell = position / CELL as u64;
        (write.wrapping_mul(131) + cell.wrapping_mul(7) + cell / 251) as u8
    };
    (offset..offset + length as u64).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use strongroom_dataplane::{DataKey, ExtentKey, ExtentSealer, Geometry, Seed, Suite};
    use strongroom_proto::ExtentId;

    use super::*;

    fn sealed(suite: Suite, salt: u8, write: u64) -> Vec<u8> {
        let geometry = Geometry::new(suite, 4096, 1 << 20).expect("usual sizes");
        let key = ExtentKey::derive(&DataKey::new(&[7; 32]), &[1; 16], Seed::Salt([salt; 16]), geometry);
        let mut sealer = ExtentSealer::new(key.expect("a key"));
        let data = plaintext(write, 0, 5000);
        let none = sealer.append(&mut data.as_slice()).expect("few bytes");
        assert!(none.is_none(), "less than a block");
        let last = sealer.finish().expect("sealed");
        last.expect("a block").seal().bytes.to_vec()
    }

    #[test]
    fn a_keystream_that_is_used_twice_is_found_and_a_repeat_is_none() {
        let block = |n| BlockId {
            extent: ExtentId::from_bytes([n; 16]),
            index: 0,
        };
        for suite in [Suite::Gcm, Suite::CtrHdfs] {
            let ledger = Ledger::default();
            ledger.enter(block(1), &sealed(suite, 1, 1));
            ledger.enter(block(1), &sealed(suite, 1, 1));
            ledger.enter(block(2), &sealed(suite, 2, 1));
            assert_eq!(ledger.reused(), Vec::<String>::new());
            ledger.enter(block(1), &sealed(suite, 1, 2));
            let same_block = ledger.reused().len();
            assert!(same_block > 300, "{same_block} cells of 5000 bytes are found");
            ledger.enter(block(3), &sealed(suite, 2, 1));
            assert!(ledger.reused().len() > same_block, "the same bytes at another place");
            assert_eq!(ledger.plain(), BTreeSet::new());
            ledger.enter(block(4), &plaintext(1, 0, 100));
            assert_eq!(ledger.plain(), BTreeSet::from([block(4)]));
        }
    }
}
