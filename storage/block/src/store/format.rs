//! The block file, as `docs/formats/block-file.md` has it: a header, a table of checksums, the data.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum_combine, crc32_iscsi};
use strongroom_proto::{BlockId, limits::BLOCK_BYTES_MAX};

const MAGIC: &[u8; 8] = b"SRMBLOCK";
const VERSION: u32 = 1;
/// Data bytes under one checksum: what a read verifies at the least.
pub(super) const CHUNK_BYTES: u32 = 64 << 10;
/// Bytes before the table.
pub(super) const HEADER_BYTES: usize = 48;

/// A block that is whole, with the header and table of its file.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its id.
    pub(super) id: BlockId,
    /// Its bytes.
    pub(super) data: Bytes,
    /// What stands before the data in the file.
    pub(super) front: Bytes,
}

impl Sealed {
    /// The block, if `crc32c` is the checksum of `data` and the length is one that a block can have.
    #[must_use]
    pub fn new(id: BlockId, data: Bytes, crc32c: u32) -> Option<Self> {
        let length = u32::try_from(data.len()).ok()?;
        if length == 0 || data.len() > BLOCK_BYTES_MAX {
            return None;
        }
        let table: Vec<u32> = data.chunks(CHUNK_BYTES as usize).map(crc32_iscsi).collect();
        (whole(&table, length) == crc32c).then(|| Self {
            id,
            front: encode(id, length, crc32c, &table),
            data,
        })
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> BlockId {
        self.id
    }

    /// Its bytes.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }
}

/// The checksum of the whole block, from those of its chunks.
fn whole(table: &[u32], length: u32) -> u32 {
    let lengths = (0..length)
        .step_by(CHUNK_BYTES as usize)
        .map(|start| CHUNK_BYTES.min(length - start));
    let combined = table.iter().zip(lengths).fold(0_u64, |crc, (chunk, chunk_length)| {
        checksum_combine(
            CrcAlgorithm::Crc32Iscsi,
            crc,
            u64::from(*chunk),
            u64::from(chunk_length),
        )
    });
    u32::try_from(combined).expect("a CRC32C has 32 bits")
}

fn encode(id: BlockId, length: u32, crc32c: u32, table: &[u32]) -> Bytes {
    let mut front = BytesMut::with_capacity(HEADER_BYTES + table.len() * 4);
    front.put_slice(MAGIC);
    front.put_u32(VERSION);
    front.put_slice(id.extent.as_bytes());
    front.put_u32(id.index);
    front.put_u32(length);
    front.put_u32(CHUNK_BYTES);
    front.put_u32(crc32c);
    // The header's checksum covers the table behind it, too, so it is put in last.
    front.put_u32(0);
    table.iter().for_each(|crc| front.put_u32(*crc));
    let crc = front_crc(&front);
    front[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
    front.freeze()
}

/// The checksum over header and table, its own field counting as zero.
fn front_crc(front: &[u8]) -> u32 {
    let (header, table) = front.split_at(HEADER_BYTES);
    crc32_iscsi(&[&header[..HEADER_BYTES - 4], &[0; 4], table].concat())
}

/// What header and table of a file say, verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Front {
    pub(super) length: u32,
    /// Of the whole block.
    pub(super) crc32c: u32,
    table: Vec<u32>,
}

impl Front {
    /// How many bytes a header's table takes, given the header; `None` if no header could say so.
    pub(super) fn table_bytes(header: &[u8; HEADER_BYTES]) -> Option<usize> {
        let length = usize::try_from(u32_at(header, 32)).ok()?;
        (1..=BLOCK_BYTES_MAX)
            .contains(&length)
            .then(|| length.div_ceil(CHUNK_BYTES as usize) * 4)
    }

    /// Verifies header and table of the block `id`.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn decode(id: BlockId, front: &[u8]) -> Result<Self, &'static str> {
        if front.len() < HEADER_BYTES || u32_at(front, HEADER_BYTES - 4) != front_crc(front) {
            return Err("the header's checksum does not fit");
        }
        if front[..8] != MAGIC[..] || u32_at(front, 8) != VERSION || u32_at(front, 36) != CHUNK_BYTES {
            return Err("the header is of another format");
        }
        if front[12..28] != id.extent.as_bytes()[..] || u32_at(front, 28) != id.index {
            return Err("the header names another block");
        }
        let table: Vec<u32> = (HEADER_BYTES..front.len())
            .step_by(4)
            .map(|at| u32_at(front, at))
            .collect();
        let (length, crc32c) = (u32_at(front, 32), u32_at(front, 40));
        if whole(&table, length) != crc32c {
            return Err("the table does not fit the block's checksum");
        }
        Ok(Self { length, crc32c, table })
    }

    /// Bytes of the whole file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.data_offset() + u64::from(self.length)
    }

    /// Where the data starts in the file.
    pub(super) fn data_offset(&self) -> u64 {
        (HEADER_BYTES + self.table.len() * 4) as u64
    }

    /// Whether `chunks`, the data from chunk `first` on, fit their checksums.
    pub(super) fn verifies(&self, first: usize, chunks: &[u8]) -> bool {
        let expected = self.table.iter().skip(first);
        chunks
            .chunks(CHUNK_BYTES as usize)
            .zip(expected)
            .all(|(chunk, crc)| crc32_iscsi(chunk) == *crc)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..]
        .first_chunk()
        .expect("callers stay within the header and table");
    u32::from_be_bytes(*field)
}

#[cfg(test)]
mod tests {
    use strongroom_proto::ExtentId;

    use super::*;

    fn id() -> BlockId {
        BlockId {
            extent: ExtentId::from_bytes([7; 16]),
            index: 3,
        }
    }

    #[test]
    fn fronts_read_back_and_the_checksums_combine() {
        for length in [1, 100, 65_535, 65_536, 65_537, 200_000, BLOCK_BYTES_MAX] {
            let data = Bytes::from(vec![0xa5; length]);
            let crc = crc32_iscsi(&data);
            let sealed = Sealed::new(id(), data, crc).expect("the checksum fits");
            let front = Front::decode(id(), &sealed.front).expect("just made");
            assert_eq!(front.length as usize, length);
            assert_eq!(front.data_offset() as usize, sealed.front.len());
            let header = sealed.front.first_chunk().expect("header");
            assert_eq!(Front::table_bytes(header), Some(sealed.front.len() - HEADER_BYTES));
        }
    }

    #[test]
    fn what_cannot_be_a_block_is_not_sealed() {
        let data = Bytes::from_static(b"some bytes");
        assert!(Sealed::new(id(), data.clone(), crc32_iscsi(&data) ^ 1).is_none());
        assert!(Sealed::new(id(), Bytes::new(), 0).is_none());
        let long = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
        assert!(Sealed::new(id(), long.clone(), crc32_iscsi(&long)).is_none());
    }

    /// The layout of the document, byte by byte: a change here needs a new version there.
    #[test]
    fn the_front_is_as_documented() {
        let data = Bytes::from_static(b"123456789");
        let sealed = Sealed::new(id(), data, 0xe306_9283).expect("the check value of CRC-32/ISCSI");
        let expected = "53524d424c4f434b00000001070707070707070707070707070707070000000300000009\
                        00010000e3069283";
        let hex: String = sealed.front.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..88], expected);
        assert_eq!(&hex[96..], "e3069283");
        assert_eq!(hex.len(), 104);
    }
}
