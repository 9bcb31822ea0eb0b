//! The client profile of a development Strongroom.

use std::path::{Path, PathBuf};

use strongroom_proto::ZonePath;

use super::{
    DevError,
    files::{self, Audience, toml_string},
    layout::Layout,
    pki::USERS,
    ports::Ports,
};
use crate::profile::default_path;

/// The first line of every profile written here; a file without it is somebody else's and is left alone.
const MARK: &str = "# Written by strongroom dev.";

/// Where commands find the profile.
#[derive(Debug)]
pub(super) struct Written {
    /// The profile to use.
    pub(super) path: PathBuf,
    /// Whether commands use it without `--profile`.
    pub(super) is_default: bool,
}

/// Writes the profile into the data directory, and to `chosen` or, unless somebody's own profile is there, the
/// default path.
pub(super) fn write(
    layout: &Layout,
    ports: &Ports,
    chosen: Option<&Path>,
    plain: &[ZonePath],
) -> Result<Written, DevError> {
    let text = text(layout, ports, plain);
    files::write(&layout.profile(), &text, Audience::Owner)?;
    let kept = Written {
        path: layout.profile(),
        is_default: false,
    };
    if let Some(path) = chosen {
        if !place(path, &text)? {
            return Err(DevError::ProfileInTheWay { path: path.to_owned() });
        }
        return Ok(Written {
            path: path.to_owned(),
            ..kept
        });
    }
    let Ok(path) = default_path(|name| std::env::var_os(name).map(PathBuf::from)) else {
        return Ok(kept);
    };
    if place(&path, &text)? {
        Ok(Written { path, is_default: true })
    } else {
        Ok(kept)
    }
}

/// Writes `path` unless it holds a file that is not ours; says whether it did.
fn place(path: &Path, text: &str) -> Result<bool, DevError> {
    if files::read(path)?.is_some_and(|known| !known.starts_with(MARK)) {
        return Ok(false);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::make_private_dir(parent)?;
    }
    files::write(path, text, Audience::Owner)?;
    Ok(true)
}

fn text(layout: &Layout, ports: &Ports, plain: &[ZonePath]) -> String {
    let plain: Vec<_> = plain.iter().map(|path| toml_string(Path::new(path.as_str()))).collect();
    let mut text = format!(
        "{MARK} Remove this line to keep your own changes.\n\
         kms = \"{}\"\n\
         metadata = \"{}\"\n\
         plain = [{}]\n\n\
         [defaults]\n\
         key = \"keyadmin\"\n\
         zone = \"fsadmin\"\n\
         fs = \"alice\"\n",
        ports.kms_remote(),
        ports.metadata_remote(),
        plain.join(", ")
    );
    for user in USERS {
        let tls = layout.tls(user);
        text.push_str(&format!(
            "\n[identities.{user}]\nca = {}\ncertificate = {}\nkey = {}\n",
            toml_string(&tls.ca),
            toml_string(&tls.certificate),
            toml_string(&tls.key)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::profile::Profile;

    fn fresh() -> (tempfile::TempDir, Layout, Ports) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, lock) = Layout::open(Some(&dir.path().join("da \"ta"))).expect("opens");
        drop(lock);
        let ports = Ports {
            kms: 7600,
            metadata: 7601,
            block: [7602, 7603, 7604],
        };
        (dir, layout, ports)
    }

    #[test]
    fn the_profile_is_one_that_commands_read() {
        let (dir, layout, ports) = fresh();
        let path = dir.path().join("somewhere/profile.toml");
        let written = write(&layout, &ports, Some(&path), &[]).expect("writes");
        assert_eq!((written.path.as_path(), written.is_default), (path.as_path(), false));
        for path in [&path, &layout.profile()] {
            let profile = Profile::load(path).expect("valid");
            assert_eq!(profile.metadata.to_string(), "localhost:7601");
            assert_eq!(
                profile.identity(&profile.defaults.fs).expect("known").key,
                layout.tls("alice").key
            );
        }
        write(
            &layout,
            &ports,
            Some(&path),
            &[ZonePath::parse(b"/landing").expect("a path")],
        )
        .expect("replaces its own");
    }

    #[test]
    fn a_profile_of_somebody_else_is_left_alone() {
        let (dir, layout, ports) = fresh();
        let path = dir.path().join("mine.toml");
        fs::write(&path, "# mine\n").expect("writes");
        let error = write(&layout, &ports, Some(&path), &[])
            .expect_err("in the way")
            .to_string();
        assert!(error.contains("--profile-out"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("is there"), "# mine\n");
    }
}
