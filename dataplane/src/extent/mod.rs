//! Extents: their keys, and how frames are sealed and opened under them in each suite.

mod parallel;
mod sealer;

use std::{fmt, num::NonZeroUsize};

use crc_fast::{CrcAlgorithm, Digest};

use crate::{
    Ctr, CtrKey, DataKey, Direction, Geometry, GeometryError, Seed, Suite,
    gcm::{Gcm, NONCE_BYTES},
    geometry::TAG_BYTES,
};

pub use self::sealer::{ExtentSealer, SealedBlock, UnsealedBlock};

const TAG: usize = TAG_BYTES as usize;
const GCM_CONTEXT: &[u8; 24] = b"strongroom/extent/gcm/v1";
const CTR_CONTEXT: &[u8; 24] = b"strongroom/extent/ctr/v1";
const AAD_BYTES: usize = 1 + 16 + 16 + 4 + 1;

/// Why there is no key for an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtentKeyError {
    /// The DEK is too short for the suite.
    #[error("a DEK of {bytes} bytes is too short for suite gcm, which takes 32; use an EZ key of 256 bits")]
    Short {
        /// Bytes of the DEK.
        bytes: usize,
    },
    /// The suite has no extents under the DEK itself.
    #[error("suite gcm has no extent under an initial counter")]
    Iv,
    /// A key for what is not encrypted, or none for what is.
    #[error("suite {suite} {}", if *.suite == Suite::Plain { "takes no key" } else { "takes a key" })]
    Keyless {
        /// The suite.
        suite: Suite,
    },
}

/// Why blocks were not sealed. Their buffer is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The buffer is not a block: a full one, or for the last any up to a full one that has a byte of plaintext in
    /// every frame.
    #[error("a buffer of {sealed_bytes} bytes is not a sealed block of this geometry")]
    BlockBytes {
        /// Bytes of the buffer.
        sealed_bytes: usize,
    },
    /// The block's frames would be numbered beyond 2^32.
    #[error("the extent is full")]
    Full(#[from] GeometryError),
    /// The extent has its last block.
    #[error("the extent was ended")]
    Ended,
    /// There is not one checksum for each block.
    #[error("{sums} checksums were given for {blocks} blocks")]
    Sums {
        /// Checksums to fill.
        sums: usize,
        /// Blocks that the buffer has.
        blocks: usize,
    },
}

/// Why frames were not opened. The output holds zeros.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The input or the output does not have the length of the run of frames.
    #[error("{given} bytes were given where the frames have {expected}")]
    Length {
        /// Bytes given.
        given: usize,
        /// Bytes that the run has.
        expected: usize,
    },
    /// A frame is not the one that was sealed at this place of this extent.
    #[error("frame {frame} is not what was written")]
    Tampered {
        /// The frame's index in its extent.
        frame: u32,
    },
    /// The extent has no such frames.
    #[error("the extent has no such frames")]
    Range(#[from] GeometryError),
}

/// The key of one extent: seals its blocks and opens its frames. The engine wipes the key when dropped.
pub struct ExtentKey {
    engine: Engine,
    geometry: Geometry,
}

enum Engine {
    Gcm {
        cipher: Gcm,
        file: [u8; 16],
        salt: [u8; 16],
    },
    Ctr(Box<Ctr>),
    Plain,
}

impl fmt::Debug for ExtentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExtentKey(withheld)")
    }
}

impl ExtentKey {
    /// The key of the extent that was (or will be) written under `seed`, which is no other extent's of the file.
    ///
    /// # Errors
    /// [`ExtentKeyError`] if the geometry's suite has no extents under such a DEK or seed.
    pub fn derive(dek: &DataKey<'_>, file: &[u8; 16], seed: Seed, geometry: Geometry) -> Result<Self, ExtentKeyError> {
        let engine = match (geometry.suite(), seed) {
            (Suite::Gcm, Seed::Salt(salt)) => Engine::Gcm {
                cipher: gcm(dek, file, &salt)?,
                file: *file,
                salt,
            },
            (Suite::Gcm, Seed::Iv(_)) => return Err(ExtentKeyError::Iv),
            (Suite::CtrHdfs, Seed::Salt(salt)) => {
                let key = dek.derive(&salt, CTR_CONTEXT, file);
                Engine::Ctr(Box::new(Ctr::new(CtrKey::Aes256(key.expose()), &[0; 16])))
            }
            (Suite::CtrHdfs, Seed::Iv(iv)) => Engine::Ctr(Box::new(Ctr::new(dek.cipher_key(), &iv))),
            (suite @ Suite::Plain, _) => return Err(ExtentKeyError::Keyless { suite }),
        };
        Ok(Self { engine, geometry })
    }

    /// What stands in the place of a key where nothing is encrypted: bytes pass as they are. No DEK leads here, so that nobody comes to
    /// write plaintext by being told another suite.
    ///
    /// # Errors
    /// [`ExtentKeyError::Keyless`] for any suite but [`Suite::Plain`].
    pub const fn plain(geometry: Geometry) -> Result<Self, ExtentKeyError> {
        match geometry.suite() {
            Suite::Plain => Ok(Self {
                engine: Engine::Plain,
                geometry,
            }),
            suite => Err(ExtentKeyError::Keyless { suite }),
        }
    }

    /// How the extent is cut.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Seals a block in place and returns the CRC-32C (RFC 3720, B.4) of the sealed bytes, computed frame by
    /// frame while they are in the cache. `block` holds each frame's plaintext followed by room for its tag
    /// ([`Geometry::sealed_offset`]); `last` says that no block follows in the extent.
    ///
    /// A block of the same index must never be sealed twice, whatever the plaintext and `last`: two texts would share key stream, and
    /// two tags under one nonce give the authentication key away (NIST SP 800-38D, section 8 and appendix A).
    ///
    /// # Errors
    /// [`SealError`], before anything is sealed.
    pub fn seal_block(&self, index: u32, last: bool, block: &mut [u8]) -> Result<u32, SealError> {
        let first = self.check_seal(index, last, block.len())?;
        Ok(self.seal_frames(first, last, block))
    }

    /// Opens whole frames from `first_frame` on into `out`, which takes exactly their plaintext. The extent's
    /// plaintext length says which frame is its last; it must come from a verified manifest.
    ///
    /// # Errors
    /// [`OpenError`]; `out` then holds zeros, so that no byte of a run with a bad frame gets out. In suites `ctr-hdfs` and `plain` there are no
    /// bad frames, but only lengths that are wrong.
    pub fn open_frames(
        &self,
        extent_length: u64,
        first_frame: u32,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        self.open_frames_on_cores(extent_length, first_frame, sealed, out, NonZeroUsize::MIN)
    }

    /// The number of the block's first frame, once all is known to fit.
    fn check_seal(&self, index: u32, last: bool, sealed_bytes: usize) -> Result<u32, SealError> {
        let geometry = self.geometry;
        let full = geometry.sealed_bytes(geometry.block_bytes()) as usize;
        let rest = sealed_bytes % geometry.sealed_frame_bytes() as usize;
        let shape = sealed_bytes == full || (last && sealed_bytes > 0 && sealed_bytes < full);
        if !shape || (1..=geometry.suite().tag_bytes() as usize).contains(&rest) {
            return Err(SealError::BlockBytes { sealed_bytes });
        }
        let frames = sealed_bytes.div_ceil(geometry.sealed_frame_bytes() as usize) as u64;
        let end = (u64::from(index) * u64::from(geometry.block_frames()) + frames) * u64::from(geometry.frame_bytes());
        geometry.blocks(end)?;
        Ok(index * geometry.block_frames())
    }

    /// The number of the extent's last frame, once the lengths are known to be those of a run in the extent.
    fn check_open(&self, length: u64, first: u32, sealed: usize, out: usize) -> Result<u32, OpenError> {
        let frame = u64::from(self.geometry.frame_bytes());
        self.geometry.blocks(length)?;
        let start = u64::from(first) * frame;
        let end = start + out as u64;
        if out == 0 || end > length {
            return Err(GeometryError::OutOfRange {
                position: end,
                end: length,
            }
            .into());
        }
        // A run that stops inside a frame would leave that frame's end unread.
        let whole = end == length || end.is_multiple_of(frame);
        let tags = out.div_ceil(self.geometry.frame_bytes() as usize) * self.geometry.suite().tag_bytes() as usize;
        let expected = out + tags;
        if !whole || sealed != expected {
            return Err(OpenError::Length {
                given: sealed,
                expected,
            });
        }
        Ok(u32::try_from(length.div_ceil(frame) - 1).expect("checked by Geometry::blocks"))
    }

    fn open_all(&self, last_frame: u32, first: u32, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let (cipher, file, salt) = match &self.engine {
            Engine::Gcm { cipher, file, salt } => (cipher, file, salt),
            Engine::Ctr(ctr) => {
                ctr.apply_to(self.position(first), sealed, out)
                    .expect("lengths and positions were checked");
                return Ok(());
            }
            Engine::Plain => {
                out.copy_from_slice(sealed);
                return Ok(());
            }
        };
        let sealed_frames = sealed.chunks(self.geometry.sealed_frame_bytes() as usize);
        let plain_frames = out.chunks_mut(self.geometry.frame_bytes() as usize);
        for (i, (sealed, plain)) in sealed_frames.zip(plain_frames).enumerate() {
            let number = first + i as u32;
            let (text, tag) = sealed.split_at(sealed.len() - TAG);
            let aad = additional_data(file, salt, number, number == last_frame);
            cipher
                .open(nonce(number), &aad, text, tag, plain)
                .map_err(|_| OpenError::Tampered { frame: number })?;
        }
        Ok(())
    }

    /// Where a frame starts in the extent's plaintext.
    fn position(&self, frame: u32) -> u64 {
        u64::from(frame) * u64::from(self.geometry.frame_bytes())
    }

    /// Seals the frames of a block from number `first` on and sums them.
    fn seal_frames(&self, first: u32, last: bool, block: &mut [u8]) -> u32 {
        let (cipher, file, salt) = match &self.engine {
            Engine::Gcm { cipher, file, salt } => (cipher, file, salt),
            Engine::Ctr(ctr) => {
                let sealed = ctr.apply_summed(self.position(first), block, Direction::Encrypt, 0);
                return sealed.expect("2^32 frames end far before the last position");
            }
            Engine::Plain => {
                let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
                crc.update(block);
                return crc.finalize() as u32;
            }
        };
        let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let sealed_frame = self.geometry.sealed_frame_bytes() as usize;
        let frames = block.len().div_ceil(sealed_frame);
        for (i, frame) in block.chunks_mut(sealed_frame).enumerate() {
            let number = first + i as u32;
            let (text, tag) = frame.split_at_mut(frame.len() - TAG);
            let aad = additional_data(file, salt, number, last && i + 1 == frames);
            tag.copy_from_slice(&cipher.seal(nonce(number), &aad, text));
            crc.update(frame);
        }
        crc.finalize() as u32
    }
}

fn gcm(dek: &DataKey<'_>, file: &[u8; 16], salt: &[u8; 16]) -> Result<Gcm, ExtentKeyError> {
    match dek.cipher_key() {
        CtrKey::Aes256(_) => Ok(Gcm::new(dek.derive(salt, GCM_CONTEXT, file).expose())),
        CtrKey::Aes128(short) => Err(ExtentKeyError::Short { bytes: short.len() }),
    }
}

fn additional_data(file: &[u8; 16], salt: &[u8; 16], number: u32, last: bool) -> [u8; AAD_BYTES] {
    let mut aad = [0; AAD_BYTES];
    aad[0] = Suite::Gcm.id();
    aad[1..17].copy_from_slice(file);
    aad[17..33].copy_from_slice(salt);
    aad[33..37].copy_from_slice(&number.to_be_bytes());
    aad[37] = last.into();
    aad
}

/// NIST SP 800-38D, 8.2.1: a fixed field of 64 zero bits, since each extent has its own key, and the frame's
/// index as the invocation field.
fn nonce(number: u32) -> [u8; NONCE_BYTES] {
    let mut bytes = [0; NONCE_BYTES];
    bytes[NONCE_BYTES - 4..].copy_from_slice(&number.to_be_bytes());
    bytes
}
