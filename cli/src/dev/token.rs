//! The development tokens: one or two of SoftHSM2 in the data directory, with random PINs that only its owner can read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use strongroom_kms::{
    Config,
    token::trust::{self, LinkOptions},
};
use tokio::process::Command;

use super::{
    DevError,
    files::{self, Audience, make_private_dir, sync_parent, toml_string},
    layout::{Layout, Role},
};

/// The environment variable through which SoftHSM2 finds its configuration.
const SOFTHSM_VARIABLE: &str = "SOFTHSM2_CONF";

/// One of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DevToken {
    /// The one that is always there.
    First,
    /// The one of `--tokens 2`, which holds the same keys.
    Second,
}

impl DevToken {
    /// Its label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::First => "strongroom-dev",
            Self::Second => "strongroom-dev-b",
        }
    }

    /// What its files' names have before their end.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::First => "",
            Self::Second => "-b",
        }
    }
}

/// The tokens of this start: as many as are asked for, else as many as the data directory has.
pub(super) fn settle(layout: &Layout, asked: Option<u8>) -> Result<&'static [DevToken], DevError> {
    match (asked, layout.linked().exists()) {
        (Some(1), true) => Err(DevError::FewerTokens {
            path: layout.root().to_owned(),
        }),
        (Some(2..), _) | (_, true) => Ok(&[DevToken::First, DevToken::Second]),
        _ => Ok(&[DevToken::First]),
    }
}

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

/// Makes the tokens that are not there, and writes SoftHSM2's configuration for each.
pub(super) async fn ensure(layout: &Layout, module: &Path, tokens: &[DevToken]) -> Result<(), DevError> {
    for &token in tokens {
        let path = layout.token(token);
        match (path.exists(), layout.linked().exists()) {
            (true, _) => {}
            // An empty one in its place would look like a token that lost its keys.
            (false, true) => return Err(DevError::TokenMissing { path }),
            (false, false) => make(layout, module, token).await?,
        }
        let config = softhsm_config(&path.join("objects"));
        files::write(&layout.softhsm_config(token), &config, Audience::Owner)?;
    }
    Ok(())
}

/// Introduces two tokens to each other, once, and again where another version did that has to be done again. The key
/// service's configuration is written.
pub(super) async fn link(layout: &Layout, tokens: &'static [DevToken]) -> Result<(), DevError> {
    let version = trust::LINK_VERSION.to_string();
    let linked = fs::read_to_string(layout.linked());
    if tokens.len() == 1 || linked.is_ok_and(|linked| linked.trim_end() == version) {
        return Ok(());
    }
    let failed = |message: String| DevError::TokenLink { message };
    let executable = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let config = Config::load(&layout.config(Role::Kms)).map_err(|error| failed(error.to_string()))?;
    let pins: Vec<_> = tokens
        .iter()
        .map(|&token| (token.label().to_owned(), layout.so_pin(token)))
        .collect();
    let linked = move || {
        trust::link(&LinkOptions {
            executable: &executable,
            tokens: &config.tokens,
            so_pin_files: &pins,
            state_dir: &config.data_dir,
            keys_readable_with_pin: &[],
            check_only: false,
        })
    };
    let linked = tokio::task::spawn_blocking(linked).await;
    let linked = linked.map_err(|error| failed(error.to_string()))?;
    linked.map_err(|failure| failed(failure.message))?;
    files::write(&layout.linked(), &format!("{version}\n"), Audience::Owner)
}

/// Makes the token under another name and renames it when it is whole, so that a crash leaves nothing half-made.
async fn make(layout: &Layout, module: &Path, token: DevToken) -> Result<(), DevError> {
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
    let state = layout.state(Role::Kms);
    make_private_dir(&state)?;
    initialise(module, &new, &config, &state, token).await?;
    fs::remove_file(&config).map_err(DevError::file("cannot remove", &config))?;
    let token = layout.token(token);
    fs::rename(&new, &token)
        .and_then(|()| sync_parent(&token))
        .map_err(DevError::file("cannot make", &token))
}

/// Runs `strongroom token init` as a child: SoftHSM2 reads its configuration from the environment, and a vendor
/// library has no business in this process.
async fn initialise(
    module: &Path,
    directory: &Path,
    config: &Path,
    state: &Path,
    token: DevToken,
) -> Result<(), DevError> {
    let spawn_failed = |source| DevError::Spawn {
        what: "strongroom token init".to_owned(),
        source,
    };
    let executable = std::env::current_exe().map_err(spawn_failed)?;
    let output = Command::new(executable)
        .args(["token", "init", "--label", token.label(), "--module"])
        .arg(module)
        .arg("--so-pin-file")
        .arg(directory.join("so.pin"))
        .arg("--pin-file")
        .arg(directory.join("user.pin"))
        .arg("--data-dir")
        .arg(state)
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

/// The part of the key service's configuration that names a token.
pub(super) fn kms_table(layout: &Layout, module: &Path, token: DevToken) -> String {
    format!(
        "\n[[tokens]]\nmodule = {}\nlabel = \"{}\"\npin_file = {}\nenvironment = {{ {SOFTHSM_VARIABLE} = {} }}\n",
        toml_string(module),
        token.label(),
        toml_string(&layout.user_pin(token)),
        toml_string(&layout.softhsm_config(token))
    )
}
