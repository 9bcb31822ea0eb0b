//! Compiles the protobufs with protox, so that building needs no `protoc`.

use std::{env, path::PathBuf};

const PROTOS: &[&str] = &[
    "strongroom/kms/v1/kms.proto",
    "strongroom/kms/v1/tokens.proto",
    "strongroom/metadata/v1/namespace.proto",
    "strongroom/metadata/v1/files.proto",
    "strongroom/metadata/v1/zones.proto",
    "strongroom/metadata/v1/raw.proto",
    "strongroom/metadata/v1/jobs.proto",
    "strongroom/metadata/v1/transfers.proto",
    "strongroom/metadata/v1/trash.proto",
    "strongroom/metadata/v1/cluster.proto",
    "strongroom/metadata/v1/fsck.proto",
    "strongroom/block/v1/block.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=strongroom");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        // Carries a DEK: no derived Debug may print it.
        .skip_debug([
            "strongroom.kms.v1.UnwrapResult",
            "strongroom.kms.v1.UnwrapResult.result",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
