//! The development token: SoftHSM2 in the data directory, with random PINs that only its owner can read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::{
    DevError,
    files::{self, Audience, make_private_dir, sync_parent, toml_string},
    layout::Layout,
};

/// The token's label.
pub(super) const LABEL: &str = "strongroom-dev";
/// The environment variable through which SoftHSM2 finds its configuration.
pub(super) const SOFTHSM_VARIABLE: &str = "SOFTHSM2_CONF";

/// Where distributions put SoftHSM2's library.
const MODULES: [&str; 8] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// The PKCS#11 library to use: the one asked for, or SoftHSM2 where it usually is.
pub(super) fn find_module(chosen: Option<&Path>) -> Result<PathBuf, DevError> {
    if let Some(path) = chosen {
        return fs::canonicalize(path).map_err(|_| DevError::ModuleMissing { path: path.to_owned() });
    }
    let mut usual = MODULES.iter().map(Path::new);
    usual
        .find(|path| path.is_file())
        .map(Path::to_owned)
        .ok_or(DevError::NoModule)
}

/// Makes the token if there is none, and writes SoftHSM2's configuration for it.
pub(super) async fn ensure(layout: &Layout, module: &Path) -> Result<(), DevError> {
    if !layout.token().exists() {
        make(layout, module).await?;
    }
    let config = softhsm_config(&layout.token().join("objects"));
    files::write(&layout.softhsm_config(), &config, Audience::Owner)
}

/// Makes the token under another name and renames it when it is whole, so that a crash leaves nothing half-made.
async fn make(layout: &Layout, module: &Path) -> Result<(), DevError> {
    let new = layout.root().join("token.new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DevError::file("cannot remove", &new)(error));
        }
        _ => {}
    }
    make_private_dir(&new.join("objects"))?;
    files::write(&new.join("so.pin"), &random_pin(), Audience::Owner)?;
    files::write(&new.join("user.pin"), &random_pin(), Audience::Owner)?;
    let config = new.join("softhsm2.conf");
    files::write(&config, &softhsm_config(&new.join("objects")), Audience::Owner)?;
    initialise(module, &new, &config).await?;
    fs::remove_file(&config).map_err(DevError::file("cannot remove", &config))?;
    let token = layout.token();
    fs::rename(&new, &token)
        .and_then(|()| sync_parent(&token))
        .map_err(DevError::file("cannot make", &token))
}

/// Runs `strongroom token init` as a child: SoftHSM2 reads its configuration from the environment, and a vendor
/// library has no business in this process.
async fn initialise(module: &Path, directory: &Path, config: &Path) -> Result<(), DevError> {
    let spawn_failed = |source| DevError::Spawn {
        what: "strongroom token init".to_owned(),
        source,
    };
    let executable = std::env::current_exe().map_err(spawn_failed)?;
    let output = Command::new(executable)
        .args(["token", "init", "--label", LABEL, "--module"])
        .arg(module)
        .arg("--so-pin-file")
        .arg(directory.join("so.pin"))
        .arg("--pin-file")
        .arg(directory.join("user.pin"))
        .env(SOFTHSM_VARIABLE, config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(spawn_failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = match said.trim() {
        "" => output.status.to_string(),
        said => said.trim_start_matches("strongroom: ").to_owned(),
    };
    Err(DevError::TokenInit { message })
}

/// SoftHSM2's own configuration format (softhsm2.conf(5)): `key = value`, unquoted.
fn softhsm_config(objects: &Path) -> String {
    format!(
        "# Written by strongroom dev at every start.\n\
         directories.tokendir = {}\n\
         objectstore.backend = file\n\
         log.level = ERROR\n\
         slots.removable = false\n",
        objects.display()
    )
}

/// 32 hexadecimal digits: 122 random bits, and within the 4 to 255 characters that SoftHSM2 takes.
fn random_pin() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The part of the key service's configuration that names the token.
pub(super) fn kms_table(layout: &Layout, module: &Path) -> String {
    format!(
        "module = {}\nlabel = \"{LABEL}\"\npin_file = {}",
        toml_string(module),
        toml_string(&layout.user_pin())
    )
}
