//! Encryption and decryption of file bytes: pure, without I/O, clock or randomness.
//!
//! There are two [`Suite`]s that encrypt. `gcm` is for files that nobody may change unnoticed. `ctr-hdfs` is AES-CTR as HDFS does it
//! ([`Ctr`]): it hides bytes at any position, and no more. Files of suite `plain` are cut and summed as the others and not encrypted.
//!
//! A file is a list of extents; each is encrypted under its own [`ExtentKey`] in frames that are sealed
//! one by one, so that any frame can be read alone and, in suite `gcm`, none can be changed, moved, dropped or repeated
//! unnoticed. Frames are grouped in blocks, the unit that block nodes store ([`Geometry`]). The
//! [`Manifest`] binds the extents of a file together. `docs/formats/data-gcm.md` and `data-ctr.md`
//! give every byte, test vectors, and what the formats do and do not promise.
//!
//! The caller draws the salts: an extent's key is only as unique as its salt.

mod cores;
mod ctr;
mod extent;
mod gcm;
mod geometry;
mod kernel;
mod key;
mod manifest;
mod pool;
mod spill;
mod suite;

pub use ctr::{
    BACKEND_VARIABLE, Backend, BackendError, Ctr, CtrError, CtrKey, CtrKeyLengthError, CtrStream, Direction,
};
pub use extent::{ExtentKey, ExtentKeyError, ExtentSealer, OpenError, SealError, SealedBlock, UnsealedBlock};
pub use geometry::{
    BLOCK_BYTES_MAX, EXTENT_FRAMES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, FrameRun, Geometry, GeometryError, Runs,
    TAG_BYTES,
};
pub use key::DataKey;
pub use manifest::{Manifest, ManifestError, ManifestExtent, ManifestKey};
pub use pool::{BufferPool, PooledBuffer};
pub use spill::{Spill, SpillRangeError};
pub use suite::{Seed, Suite};
