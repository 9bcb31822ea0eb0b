//! Our kernels alone, with Criterion's statistics: to see whether a change made one faster.
//! `cargo bench --manifest-path benches/compare/Cargo.toml`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strongroom_dataplane::{Backend, Ctr, CtrKey, Direction};

const KEY: &[u8; 32] = b"a key of thirty-two bytes, AES-2";
const SIZES: [(usize, &str); 6] = [
    (64, "64B"),
    (512, "512B"),
    (4 << 10, "4KiB"),
    (64 << 10, "64KiB"),
    (1 << 20, "1MiB"),
    (64 << 20, "64MiB"),
];

fn kernels(criterion: &mut Criterion) {
    for (bytes, size) in SIZES {
        let mut group = criterion.benchmark_group("ctr");
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut buffer = vec![0x5a; bytes];
        for backend in Backend::all() {
            for (key, name) in [(CtrKey::Aes256(KEY), "aes256"), (CtrKey::Aes128(&[7; 16]), "aes128")] {
                let ctr = warm(key, backend);
                group.bench_function(format!("{name}/{size}/{backend}"), |bencher| {
                    bencher.iter(|| ctr.apply(0, black_box(&mut buffer)).expect("a position"));
                });
            }
        }
        let ctr = warm(CtrKey::Aes256(KEY), Backend::best());
        group.bench_function(format!("aes256-crc32c/{size}"), |bencher| {
            bencher.iter(|| ctr.apply_summed(0, black_box(&mut buffer), Direction::Encrypt, 0));
        });
    }
}

fn warm(key: CtrKey<'_>, backend: Backend) -> Ctr {
    let ctr = Ctr::with_backend(key, &[3; 16], backend);
    ctr.apply(0, &mut [0; 32 << 10]).expect("a position");
    ctr
}

criterion_group!(benches, kernels);
criterion_main!(benches);
