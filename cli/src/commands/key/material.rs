//! `strongroom key import`: raw AES keys from files, which only their owner may read.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use strongroom_kms_admin::{Key, KeyAdminClient, KeyMaterial, NewKey};
use strongroom_proto::RequestId;
use zeroize::Zeroizing;

use crate::{cli::ImportArgs, error::Error};

/// The longest AES key, and one more to see that a file is longer.
const READ_MAX: usize = 33;

pub(super) async fn import(keys: &KeyAdminClient, args: ImportArgs) -> Result<Key, Error> {
    let material = args.material.iter().map(|path| read(path));
    let material = material.collect::<Result<Vec<_>, _>>()?;
    let new = NewKey {
        suite: Some(args.suite),
        key_bits: None,
        description: args.labels.description,
        tags: args.labels.tags.into_iter().collect(),
        sealed_required: args.labels.sealed_required,
        outside_zones: args.labels.outside_zones,
        rotation_period_ms: args.labels.rotate_every,
    };
    Ok(keys.import(&args.name, &new, &material, RequestId::generate()).await?)
}

/// The raw key in a file. Neither the key nor a part of it comes into a message.
fn read(path: &Path) -> Result<KeyMaterial, Error> {
    let local = |source| Error::Local {
        action: "cannot read the key material",
        path: PathBuf::from(path),
        source,
    };
    let refused = |why: String| Error::Usage {
        message: format!("{}: {why}", path.display()),
    };
    let file = File::open(path).map_err(local)?;
    let metadata = file.metadata().map_err(local)?;
    if !metadata.is_file() {
        return Err(refused("this is not a file".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(refused(format!(
            "others can read this key (mode {mode:o}), so it may be known already; if it is not: chmod 600 {path}"
        )));
    }
    // As large as it may get at once, so that no copy is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * READ_MAX));
    let mut bounded = file.take(READ_MAX as u64);
    let mut chunk = Zeroizing::new([0; READ_MAX]);
    loop {
        let read = bounded.read(chunk.as_mut_slice()).map_err(local)?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
    if !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace())
    {
        return Err(refused(
            "this is text; a key is the raw bytes, which `xxd -r -p` makes of hexadecimal digits".to_owned(),
        ));
    }
    KeyMaterial::new(bytes).map_err(|failure| refused(failure.message))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_key_file_is_raw_private_and_of_the_right_size() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("key");
        for (content, mode, words) in [
            (vec![0xa5; 32], 0o644, "chmod 600"),
            (vec![0xa5; 32], 0o640, "chmod 600"),
            (b"00112233445566778899aabbccddeeff".to_vec(), 0o600, "xxd -r -p"),
            (b"00112233445566778899aabbccddeeff\n".to_vec(), 0o600, "xxd -r -p"),
            (vec![0xa5; 31], 0o600, "not 31"),
            (vec![0xa5; 100], 0o600, "not 33"),
            (Vec::new(), 0o600, "not 0"),
        ] {
            fs::write(&path, &content).expect("own directory");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("own file");
            let error = read(&path).expect_err(words).to_string();
            assert!(error.contains(words), "{error} lacks {words}");
            assert!(!error.contains("a5a5") && !error.contains("0011"), "{error}");
        }
        read(directory.path()).expect_err("a directory");
        for bytes in [16, 24, 32] {
            fs::write(&path, vec![0xa5; bytes]).expect("own file");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("own file");
            read(&path).expect("a key");
        }
    }
}
