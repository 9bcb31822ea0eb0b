use std::fmt;

use aws_lc_rs::{constant_time, hmac};

use crate::{DataKey, Geometry, GeometryError, Seed, Suite};

const CONTEXT: &[u8; 22] = b"strongroom/manifest/v1";
const FORMAT: u8 = 2;
/// Extents of one file.
const EXTENTS_MAX: usize = 1024;

/// Why a list of extents is not a file's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More than 1024 extents.
    #[error("a file has at most 1024 extents, not {count}")]
    TooManyExtents {
        /// How many there are.
        count: usize,
    },
    /// An extent without a byte, or whose blocks do not follow from its length.
    #[error("extent {position} has {blocks} blocks for {length} bytes")]
    Extent {
        /// The extent's position in the file.
        position: usize,
        /// Plaintext bytes.
        length: u64,
        /// Blocks claimed.
        blocks: u32,
    },
    /// More bytes show than the extent has, or none.
    #[error("extent {position} shows {visible} of {length} bytes")]
    Visible {
        /// The extent's position in the file.
        position: usize,
        /// Plaintext bytes that belong to the file.
        visible: u64,
        /// Plaintext bytes of the extent.
        length: u64,
    },
    /// Generations count from 1.
    #[error("a file's first list of extents is number 1, not 0")]
    Generation,
    /// Two extents share a salt, so they would share a key.
    #[error("extent {position} has another extent's salt")]
    SaltRepeated {
        /// The later extent's position in the file.
        position: usize,
    },
    /// Two extents have one id, so their blocks would be told from each other by nobody.
    #[error("extent {position} has another extent's id")]
    IdRepeated {
        /// The later extent's position in the file.
        position: usize,
    },
    /// Another extent than the first of a file of suite `ctr-hdfs` is under the DEK itself.
    #[error("extent {position} has an initial counter in place of a salt")]
    Iv {
        /// The extent's position in the file.
        position: usize,
    },
    /// An extent cannot be that long.
    #[error("an extent is too long")]
    TooLong(#[from] GeometryError),
    /// The authentication code is another's: the list is not what the file's writer made.
    #[error("the file's list of extents is not what its writer made")]
    Forged,
}

/// One extent as its file's manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestExtent {
    /// The extent's id.
    pub id: [u8; 16],
    /// What its key is made of.
    pub seed: Seed,
    /// Plaintext bytes that were sealed; not 0.
    pub length: u64,
    /// How many of them, from the first on, belong to the file: all, or fewer after it was truncated; not 0.
    pub visible: u64,
    /// Blocks.
    pub blocks: u32,
}

/// All extents of a file in order, with how they are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    geometry: Geometry,
    generation: u64,
    extents: Vec<ManifestExtent>,
    length: u64,
}

impl Manifest {
    /// A manifest whose numbers agree with each other: the file's `generation`th, counted from 1.
    ///
    /// # Errors
    /// All of [`ManifestError`] but [`ManifestError::Forged`].
    pub fn new(geometry: Geometry, generation: u64, extents: Vec<ManifestExtent>) -> Result<Self, ManifestError> {
        if generation == 0 {
            return Err(ManifestError::Generation);
        }
        if extents.len() > EXTENTS_MAX {
            return Err(ManifestError::TooManyExtents { count: extents.len() });
        }
        let mut length = 0_u64;
        for (position, extent) in extents.iter().enumerate() {
            if extent.length == 0 || geometry.blocks(extent.length)? != extent.blocks {
                return Err(ManifestError::Extent {
                    position,
                    length: extent.length,
                    blocks: extent.blocks,
                });
            }
            if extent.visible == 0 || extent.visible > extent.length {
                return Err(ManifestError::Visible {
                    position,
                    visible: extent.visible,
                    length: extent.length,
                });
            }
            if extents[..position].iter().any(|earlier| earlier.id == extent.id) {
                return Err(ManifestError::IdRepeated { position });
            }
            if extent.seed.is_iv() && (position > 0 || geometry.suite() != Suite::CtrHdfs) {
                return Err(ManifestError::Iv { position });
            }
            if extents[..position].iter().any(|earlier| earlier.seed == extent.seed) {
                return Err(ManifestError::SaltRepeated { position });
            }
            // 1024 extents of at most 2^52 bytes each cannot overflow.
            length += extent.visible;
        }
        Ok(Self {
            geometry,
            generation,
            extents,
            length,
        })
    }

    /// The extents in the file's order.
    #[must_use]
    pub fn extents(&self) -> &[ManifestExtent] {
        &self.extents
    }

    /// Plaintext bytes of the whole file.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Which of the file's manifests it is, counted from 1. It tells an older one from a newer one, not two that two writers made
    /// of the same: that there is one at a time is the metadata service's word.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How the file's extents are cut.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The canonical bytes that the code is over. Fixed lengths throughout, by suite, so there is one reading only.
    fn encode(&self) -> Vec<u8> {
        let suite = self.geometry.suite();
        let mut bytes = Vec::with_capacity(22 + self.extents.len() * 53);
        bytes.extend_from_slice(&[FORMAT, suite.id()]);
        bytes.extend_from_slice(&self.geometry.frame_bytes().to_be_bytes());
        bytes.extend_from_slice(&self.geometry.block_bytes().to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.extend_from_slice(&(self.extents.len() as u32).to_be_bytes());
        for extent in &self.extents {
            bytes.extend_from_slice(&extent.id);
            bytes.extend_from_slice(extent.seed.bytes());
            bytes.extend_from_slice(&extent.length.to_be_bytes());
            bytes.extend_from_slice(&extent.visible.to_be_bytes());
            bytes.extend_from_slice(&extent.blocks.to_be_bytes());
            if suite == Suite::CtrHdfs {
                bytes.push(extent.seed.is_iv().into());
            }
        }
        bytes
    }
}

/// The key under which a file's manifest is authenticated: all that a writer needs of the DEK at the end of a
/// file, so that the DEK itself can go at its start. The engine wipes the key when dropped.
pub struct ManifestKey(hmac::Key);

impl fmt::Debug for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManifestKey(withheld)")
    }
}

impl ManifestKey {
    /// The manifest key of a file.
    #[must_use]
    pub fn derive(dek: &DataKey<'_>, file: &[u8; 16]) -> Self {
        let key = dek.derive(&[], CONTEXT, file);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    /// The code that proves that a holder of the DEK made this manifest for this file: HMAC-SHA-256 (RFC 2104).
    #[must_use]
    pub fn authenticate(&self, manifest: &Manifest) -> [u8; 32] {
        let mut code = [0; 32];
        code.copy_from_slice(hmac::sign(&self.0, &manifest.encode()).as_ref());
        code
    }

    /// Checks a code in constant time.
    ///
    /// # Errors
    /// [`ManifestError::Forged`].
    pub fn verify(&self, manifest: &Manifest, code: &[u8]) -> Result<(), ManifestError> {
        constant_time::verify_slices_are_equal(&self.authenticate(manifest), code).map_err(|_| ManifestError::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEK: [u8; 32] = [7; 32];
    const FILE: [u8; 16] = [9; 16];

    struct Change(&'static str, fn(&mut Vec<ManifestExtent>));

    fn geometry() -> Geometry {
        Geometry::new(Suite::Gcm, 4096, 8192).expect("valid")
    }

    fn extents() -> Vec<ManifestExtent> {
        [(1, 8192, 8192, 1), (2, 8193, 5, 2), (3, 1, 1, 1)]
            .map(|(n, length, visible, blocks)| ManifestExtent {
                id: [n; 16],
                seed: Seed::Salt([n + 100; 16]),
                length,
                visible,
                blocks,
            })
            .to_vec()
    }

    fn key(dek: [u8; 32], file: [u8; 16]) -> ManifestKey {
        ManifestKey::derive(&DataKey::new(&dek), &file)
    }

    fn manifest(extents: Vec<ManifestExtent>) -> Manifest {
        Manifest::new(geometry(), 7, extents).expect("consistent")
    }

    #[test]
    fn only_the_list_that_was_authenticated_verifies() {
        let key = key(DEK, FILE);
        let code = key.authenticate(&manifest(extents()));
        assert_eq!(key.verify(&manifest(extents()), &code), Ok(()));
        let changes = [
            Change("dropped first", |list| {
                list.remove(0);
            }),
            Change("dropped last", |list| {
                list.pop();
            }),
            Change("swapped", |list| list.swap(0, 1)),
            Change("emptied", Vec::clear),
            Change("other id", |list| list[1].id[15] ^= 1),
            Change("other salt", |list| list[1].seed = Seed::Salt([55; 16])),
            Change("shorter", |list| (list[0].length, list[0].visible) = (8191, 8191)),
            Change("longer", |list| list[1].length += 1),
            Change("less shows", |list| list[1].visible -= 1),
            Change("more shows", |list| list[1].visible += 1),
            Change("one more", |list| {
                list.push(ManifestExtent {
                    id: [8; 16],
                    seed: Seed::Salt([8; 16]),
                    length: 1,
                    visible: 1,
                    blocks: 1,
                });
            }),
        ];
        for Change(what, change) in changes {
            let mut changed = extents();
            change(&mut changed);
            let verdict = key.verify(&manifest(changed), &code);
            assert_eq!(verdict, Err(ManifestError::Forged), "{what}");
        }
        let other_generation = Manifest::new(geometry(), 8, extents()).expect("consistent");
        assert_eq!(key.verify(&other_generation, &code), Err(ManifestError::Forged));
    }

    #[test]
    fn key_file_geometry_and_every_bit_of_the_code_count() {
        let own = key(DEK, FILE);
        let made = manifest(extents());
        let code = own.authenticate(&made);
        let forged = Err(ManifestError::Forged);
        assert_eq!(key([8; 32], FILE).verify(&made, &code), forged);
        assert_eq!(key(DEK, [8; 16]).verify(&made, &code), forged);
        assert_eq!(own.verify(&made, &code[..31]), forged);
        assert_eq!(own.verify(&made, &[]), forged);
        for bit in 0..256 {
            let mut flipped = code;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(own.verify(&made, &flipped), forged, "bit {bit}");
        }
        let one = |frame, block| {
            let extent = ManifestExtent {
                id: [1; 16],
                seed: Seed::Salt([2; 16]),
                length: 5,
                visible: 5,
                blocks: 1,
            };
            Manifest::new(Geometry::new(Suite::Gcm, frame, block).expect("valid"), 1, vec![extent]).expect("consistent")
        };
        let code = own.authenticate(&one(4096, 8192));
        assert_eq!(own.verify(&one(4096, 4096), &code), forged, "other blocks");
        assert_eq!(own.verify(&one(8192, 8192), &code), forged, "other frames");
        assert_eq!(format!("{own:?}"), "ManifestKey(withheld)");
    }

    #[test]
    fn numbers_that_disagree_make_no_manifest() {
        let refused = |change: fn(&mut Vec<ManifestExtent>)| {
            let mut list = extents();
            change(&mut list);
            Manifest::new(geometry(), 1, list).expect_err("must be refused")
        };
        assert!(matches!(
            refused(|list| list[0].blocks = 2),
            ManifestError::Extent { position: 0, .. }
        ));
        assert!(matches!(
            refused(|list| list[2].length = 0),
            ManifestError::Extent { position: 2, .. }
        ));
        assert!(matches!(
            refused(|list| list[2].seed = list[0].seed),
            ManifestError::SaltRepeated { position: 2 }
        ));
        assert!(matches!(
            refused(|list| list[1].id = list[0].id),
            ManifestError::IdRepeated { position: 1 }
        ));
        assert!(matches!(
            refused(|list| list[2].length = u64::MAX),
            ManifestError::TooLong(_)
        ));
        for visible in [0, 8194] {
            let mut list = extents();
            list[1].visible = visible;
            let error = Manifest::new(geometry(), 1, list).expect_err("must be refused");
            assert!(matches!(error, ManifestError::Visible { position: 1, .. }));
        }
        let none = Manifest::new(geometry(), 0, extents());
        assert_eq!(none.expect_err("must be refused"), ManifestError::Generation);
        let many = |list: &mut Vec<ManifestExtent>| *list = vec![list[0].clone(); 1025];
        assert!(matches!(refused(many), ManifestError::TooManyExtents { count: 1025 }));
        assert_eq!(manifest(Vec::new()).length(), 0);
        assert_eq!(manifest(extents()).length(), 8192 + 5 + 1);
    }

    #[test]
    fn only_the_first_extent_of_a_file_of_ctr_hdfs_is_under_the_dek_itself() {
        let ctr = Geometry::new(Suite::CtrHdfs, 4096, 8192).expect("valid");
        let under_iv = |position: usize| {
            let mut list = extents();
            list[position].seed = Seed::Iv([5; 16]);
            list
        };
        let none = Manifest::new(geometry(), 1, under_iv(0));
        assert_eq!(none.expect_err("gcm"), ManifestError::Iv { position: 0 });
        let none = Manifest::new(ctr, 1, under_iv(1));
        assert_eq!(none.expect_err("a later one"), ManifestError::Iv { position: 1 });
        let made = Manifest::new(ctr, 1, under_iv(0)).expect("the first");
        let key = key(DEK, FILE);
        let code = key.authenticate(&made);
        let mut as_salt = under_iv(0);
        as_salt[0].seed = Seed::Salt([5; 16]);
        let forged = Manifest::new(ctr, 1, as_salt).expect("consistent");
        assert_eq!(key.verify(&forged, &code), Err(ManifestError::Forged));
        let code = key.authenticate(&manifest(extents()));
        let other_suite = Manifest::new(ctr, 7, extents()).expect("consistent");
        assert_eq!(
            key.verify(&other_suite, &code),
            Err(ManifestError::Forged),
            "another suite"
        );
    }
}
