//! Files with secrets: nobody but their owner may read them.

use std::{
    env,
    fs::Metadata,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The permission bits of a file that others than its owner can read, write or run; `None` if there are none.
///
/// A credential of systemd counts as private: since version 254 it is root's, of mode 0440, below `$CREDENTIALS_DIRECTORY`, and
/// what looks like a right of its group is the mask of an access control list with the service's user in it.
#[must_use]
pub fn mode_open_to_others(path: &Path, metadata: &Metadata) -> Option<u32> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    open_to_others(path, metadata, credentials.as_deref())
}

fn open_to_others(path: &Path, metadata: &Metadata, credentials: Option<&Path>) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o777;
    let is_credential = credentials.is_some_and(|folder| path.starts_with(folder)) && metadata.uid() == 0;
    let closed = if is_credential { 0o037 } else { 0o077 };
    (mode & closed != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_credential_may_show_a_right_of_its_group() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("pin");
        fs::write(&path, "4711").expect("writable");
        let roots = fs::metadata(&path).expect("there").uid() == 0;
        for (mode, plain, credential) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o440, false, roots),
            (0o460, false, false),
            (0o444, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
            let metadata = fs::metadata(&path).expect("there");
            let elsewhere = Path::new("/run/credentials/another.service");
            for (credentials, private) in [
                (None, plain),
                (Some(elsewhere), plain),
                (Some(folder.path()), credential),
            ] {
                let open = open_to_others(&path, &metadata, credentials);
                assert_eq!(open, (!private).then_some(mode), "{mode:o} {credentials:?}");
            }
        }
    }
}
