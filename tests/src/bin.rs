use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The `strongroom` executable of the profile that the tests were built in, built once per test process, so that a
/// test never runs an older one.
pub fn strongroom() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> PathBuf {
    let tests = std::env::current_exe().expect("this process has an executable");
    // target/<profile>/deps/<this test>
    let folder = tests.ancestors().nth(2).expect("cargo puts tests two folders deep");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "strongroom",
            "--profile",
            profile,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs: it ran this test");
    assert!(
        status.success(),
        "the executable does not build; run: cargo build -p strongroom"
    );
    folder.join("strongroom")
}
