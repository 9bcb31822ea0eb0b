//! The table of counter-mode caching: what two rounds of AES make of a counter's last byte.
//!
//! While only the last byte `x` of a counter block changes, the state after two rounds is `A ^ D[x]`: `x` reaches one column
//! in the first round and, through it, one byte of each column in the second, whose last steps are linear. `D[x]` is here the
//! difference to `x = 0`, so that `A` is the state at `x = 0`. `D` depends on the key and on bytes 0, 5 and 10 of the
//! counter, which share that one column with `x`, and on no other.

use super::wipe::wipe;

/// Blocks of the widest group of any kernel.
pub(super) const GROUP_BLOCKS_MAX: usize = 64;
/// Values of the last byte.
pub(super) const RUN_BLOCKS: usize = 256;

/// One row for each last byte, and the first rows once more, so that a group starting anywhere lies in one piece. Key
/// material; wiped when dropped.
#[repr(align(64))]
pub(super) struct Table([[u8; 16]; RUN_BLOCKS + GROUP_BLOCKS_MAX]);

impl Drop for Table {
    fn drop(&mut self) {
        wipe(self.0.as_flattened_mut());
    }
}

impl Table {
    pub(super) const fn blank() -> Self {
        Self([[0; 16]; RUN_BLOCKS + GROUP_BLOCKS_MAX])
    }

    /// Rows from `row` on, as many as `W` bytes hold.
    #[inline]
    pub(super) fn rows<const W: usize>(&self, row: usize) -> &[u8; W] {
        rows(&self.0, row)
    }

    /// Rows to fill; [`Self::close`] follows the last.
    pub(super) fn rows_mut<const W: usize>(&mut self, row: usize) -> &mut [u8; W] {
        let bytes = &mut self.0.as_flattened_mut()[16 * row..];
        bytes.first_chunk_mut().expect("the table has these rows")
    }

    /// Repeats the first rows after the last.
    pub(super) fn close(&mut self) {
        self.0.copy_within(..GROUP_BLOCKS_MAX, RUN_BLOCKS);
    }
}

/// All ones for the blocks of a group that lie beyond the end of a run of 256: the rows from `row` on, where row 64 is the
/// first block beyond.
#[inline]
pub(super) fn beyond<const W: usize>(row: usize) -> &'static [u8; W] {
    rows(&BEYOND.0, row)
}

#[repr(align(64))]
struct Beyond([[u8; 16]; 2 * GROUP_BLOCKS_MAX]);

static BEYOND: Beyond = {
    let mut rows = [[0; 16]; 2 * GROUP_BLOCKS_MAX];
    let mut row = GROUP_BLOCKS_MAX;
    while row < 2 * GROUP_BLOCKS_MAX {
        rows[row] = [0xff; 16];
        row += 1;
    }
    Beyond(rows)
};

#[inline]
fn rows<const W: usize>(table: &[[u8; 16]], row: usize) -> &[u8; W] {
    let bytes = &table.as_flattened()[16 * row..];
    bytes.first_chunk().expect("the table has these rows")
}
