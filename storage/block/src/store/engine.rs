use bytes::Bytes;
use strongroom_proto::{BlockId, ExtentId, Incarnation};

use super::{Checked, Expected, Part, Position, Sealed, StoreError, Survey, Usage};

/// What a node keeps its blocks in.
#[tonic::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Checks `data` against the checksum that came with it and makes it ready to be stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the checksum does not fit; [`StoreError::Overloaded`].
    async fn seal(&self, id: BlockId, data: Bytes, crc32c: u32) -> Result<Sealed, StoreError>;

    /// Makes a block durable. One that is there with the same bytes is left alone; one that is there but damaged is
    /// put aside first.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if other bytes have that id, [`StoreError::NoSpace`], or what the disk said.
    async fn put(&self, block: Sealed) -> Result<(), StoreError>;

    /// Reads and verifies `length` bytes from `offset`, 0 meaning to the end. A range past the end is cut there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Corrupt`] for a block that is put aside now or was before.
    async fn get(&self, id: BlockId, offset: u32, length: u32) -> Result<Part, StoreError>;

    /// Removes a block, also from what was put aside; one that is not there counts as removed.
    ///
    /// # Errors
    /// What the disk said.
    async fn delete(&self, id: BlockId) -> Result<(), StoreError>;

    /// Removes every block of an extent.
    ///
    /// # Errors
    /// What the disk said.
    async fn delete_extent(&self, extent: ExtentId) -> Result<(), StoreError>;

    /// What this data directory is known by; an emptied one is known by another.
    fn incarnation(&self) -> Incarnation;

    /// A page of what is on the disk. Headers are read and verified.
    ///
    /// # Errors
    /// What the disk said of a directory; a file that it cannot read is said apart.
    async fn survey(&self, from: Position) -> Result<Survey, StoreError>;

    /// Those of `expected` that are not there as they should be, by their headers, or if `deep` by all of their bytes. Blocks that turn
    /// out to be damaged are put aside; those that the disk cannot read are said apart.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`].
    async fn check(&self, expected: Vec<Expected>, deep: bool) -> Result<Checked, StoreError>;

    /// How full the node is.
    ///
    /// # Errors
    /// What the disk said.
    async fn usage(&self) -> Result<Usage, StoreError>;
}
