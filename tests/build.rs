//! Compiles the metadata service's stored records, which the model test reads as they lie in the store.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let records = "../storage/metadata/proto";
    println!("cargo::rerun-if-changed={records}");
    let descriptors = protox::compile(["records.proto"], [records])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
