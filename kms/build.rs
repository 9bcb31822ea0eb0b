//! Compiles the worker's private protobufs with protox, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["worker.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // All but ItemResult: a DEK in a Vec can be overwritten, one in a shared Bytes cannot.
        .bytes(".strongroom.kms.worker.v1.TokenKeyVersion")
        .bytes(".strongroom.kms.worker.v1.GenerateVersionRequest")
        .bytes(".strongroom.kms.worker.v1.DestroyVersionRequest")
        .bytes(".strongroom.kms.worker.v1.ImportKey")
        .bytes(".strongroom.kms.worker.v1.ImportVersionRequest")
        .bytes(".strongroom.kms.worker.v1.ExportCloneResponse")
        .bytes(".strongroom.kms.worker.v1.ImportCloneRequest")
        .bytes(".strongroom.kms.worker.v1.KeyRef")
        .bytes(".strongroom.kms.worker.v1.MintResponse")
        .bytes(".strongroom.kms.worker.v1.RewrapItem")
        .bytes(".strongroom.kms.worker.v1.UnwrapItem")
        .bytes(".strongroom.kms.worker.v1.CertificateSignature")
        .bytes(".strongroom.kms.worker.v1.UnwrapSealedRequest")
        .bytes(".strongroom.kms.worker.v1.UnwrapSealedResponse")
        .bytes(".strongroom.kms.worker.v1.TransferRequest")
        .bytes(".strongroom.kms.worker.v1.AuditKey")
        .bytes(".strongroom.kms.worker.v1.SignAuditRequest")
        .bytes(".strongroom.kms.worker.v1.SignAuditResponse")
        // Carry a DEK: no derived Debug may print it.
        .skip_debug([
            "strongroom.kms.worker.v1.ItemResult",
            "strongroom.kms.worker.v1.ItemResult.result",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
