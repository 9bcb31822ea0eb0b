//! Files of suite `ctr-hdfs`: what lies on the nodes is what HDFS would have, and no key stream is used twice, whatever is done to
//! a file and whatever the metadata service grants.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::{
    cipher::{AES_128, AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey},
    digest::{SHA256, digest},
    iv::FixedLength,
};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use strongroom_fs::{CreateOptions, FileWriter};
use strongroom_proto::{BlockId, DataSuite, Reason};

use crate::stand_ins::{World, now_ms, path};

const BLOCK: usize = 8192;
const FILE: &str = "/z/f";
const NEW: CreateOptions = CreateOptions {
    mode: 0o640,
    overwrite: true,
};

async fn start(dek_bytes: usize) -> World {
    let world = World::start(BLOCK as u32).await;
    let mut state = world.metadata.lock();
    (state.data_suite, state.dek_bytes) = (DataSuite::CtrHdfs, dek_bytes);
    drop(state);
    world
}

/// All that any node ever stored; the stand-ins delete nothing.
fn stored(world: &World) -> BTreeMap<BlockId, Vec<u8>> {
    let nodes = world.nodes.iter().map(|node| node.lock().blocks.clone());
    nodes.flatten().map(|(id, bytes)| (id, bytes.to_vec())).collect()
}

#[tokio::test]
async fn a_file_that_is_written_in_one_go_is_what_hdfs_has() {
    for (dek_bytes, cipher) in [(16, &AES_128), (32, &AES_256)] {
        let world = start(dek_bytes).await;
        let plain: Vec<u8> = (0..3 * BLOCK + 777).map(|p| (7 * p + p / 256) as u8).collect();
        let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
        for piece in plain.chunks(1000) {
            writer.write(piece).await.expect("written");
        }
        writer.finish(1).await.expect("finished");

        // The stand-in's first DEK, and the IV that its EDEK begins with.
        let dek = vec![1; dek_bytes];
        let iv = digest(&SHA256, &dek).as_ref()[..16].try_into().expect("16 bytes");
        let mut raw = stored(&world).into_values().collect::<Vec<_>>().concat();
        assert_eq!(raw.len(), plain.len());
        let key = UnboundCipherKey::new(cipher, &dek).expect("a key");
        let iv = DecryptionContext::Iv128(FixedLength::from(<[u8; 16]>::clone(&iv)));
        let key = DecryptingKey::ctr(key).expect("a key");
        assert!(key.decrypt(&mut raw, iv).expect("decrypted") == plain, "{dek_bytes}");

        let reader = world.fs.open(&path(FILE)).await.expect("opened");
        for (from, count) in [(0, 1), (4095, 3), (BLOCK - 1, BLOCK + 2), (3 * BLOCK + 700, 100)] {
            let mut part = vec![0; count];
            let read = reader.read_at(from as u64, &mut part).await.expect("read");
            assert!(part[..read] == plain[from..(from + count).min(plain.len())], "{from}");
        }
    }
}

#[tokio::test]
async fn a_dek_for_which_there_is_no_cipher_is_refused() {
    let world = start(24).await;
    let error = world.fs.create(&path(FILE), NEW).await.expect_err("AES-192");
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(error.to_string().contains("128 or 256 bits"), "{error}");
}

/// The plaintext is all zeros, so that what is stored is the key stream itself: if 16 bytes come twice, a counter was used twice under
/// one key. (By chance they do once in 2^100 runs.)
#[tokio::test]
async fn no_counter_is_used_twice_under_one_key() {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    let seed = given.map_or_else(now_ms, |seed| seed.parse().expect("a number"));
    let outcome = tokio::spawn(random_writers(seed)).await;
    outcome.unwrap_or_else(|failure| panic!("with STRONGROOM_TEST_SEED={seed}: {failure}"));
}

async fn random_writers(seed: u64) {
    let bytes: [u8; 32] = std::array::from_fn(|i| (seed >> (i % 8 * 8)) as u8);
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut up_to = move |end: usize| rng.next_u32() as usize % end;
    let world = start(32).await;
    let zeros = vec![0; 3 * BLOCK];
    let mut length = None;
    for round in 0..80 {
        // A service that grants an extent again, of a writer who gave up or of one who did not, must not matter.
        world.metadata.lock().same_extents = up_to(4) == 0;
        let opened = match (length, up_to(8)) {
            (None, _) | (_, 0) => world.fs.create(&path(FILE), NEW).await,
            (Some(_), 1) => world.fs.append(&path(FILE), Some(0)).await,
            (Some(length), 2) => {
                world
                    .fs
                    .append(&path(FILE), Some(up_to(length as usize + 1) as u64))
                    .await
            }
            _ => world.fs.append(&path(FILE), None).await,
        };
        let Ok(mut writer) = opened else { continue };
        let written = write(&mut writer, &zeros, &mut up_to).await;
        let ended = match up_to(3) {
            0 => writer.abandon().await.err(),
            _ if written => writer.finish(round).await.err(),
            _ => None,
        };
        if let Some(error) = ended {
            assert_ne!(error.reason(), Reason::ManifestInvalid, "{error}");
        }
        _ = world.fs.recover(&path(FILE)).await;
        length = world.fs.stat(&path(FILE)).await.ok().map(|stat| stat.length);
    }
    check_ledger(&stored(&world));
}

/// Some pieces, some of them published; whether nothing failed.
async fn write(writer: &mut FileWriter, zeros: &[u8], up_to: &mut impl FnMut(usize) -> usize) -> bool {
    for _ in 0..up_to(4) {
        if writer.write(&zeros[..up_to(zeros.len())]).await.is_err() {
            return false;
        }
        if up_to(2) == 0 && writer.flush(1).await.is_err() {
            return false;
        }
    }
    true
}

fn check_ledger(blocks: &BTreeMap<BlockId, Vec<u8>>) {
    let mut ledger = HashMap::new();
    for (id, bytes) in blocks {
        for (i, keystream) in bytes.chunks_exact(16).enumerate() {
            if let Some(before) = ledger.insert(keystream, (id, i)) {
                panic!("block {id}, {i}th counter, has the key stream of {before:?}");
            }
        }
    }
    assert!(ledger.len() > 1000, "{} counters are no proof", ledger.len());
}
