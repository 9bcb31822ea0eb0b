//! What a directory is, in a local tree of ciphertext: a file in it says it, since nobody may give local files to users of another cluster.

use std::{io::Read as _, path::Path};

use strongroom_fs::{RawDirectory, RawError, ZoneFs};
use strongroom_proto::ZonePath;

use super::super::put::not_made;
use crate::{
    error::Error,
    transfer::{PartFile, blocking, is_part, open_regular},
};

/// The file of a directory that says what the directory is.
const NAME: &str = ".strongroom-directory";

/// Whether a name in a local tree of ciphertext is not one of those that were carried: the file that says what a directory is, or a file that a
/// command did not finish.
pub(in crate::commands::fs) fn is_own(name: &str) -> bool {
    name == NAME || is_part(name)
}

/// Writes what a directory is into its local counterpart.
pub(in crate::commands::fs) async fn describe(fs: &ZoneFs, remote: &ZonePath, local: &Path) -> Result<(), Error> {
    let bytes = fs.raw_directory(remote).await?.to_bytes();
    let target = local.join(NAME);
    blocking(move || {
        let mut part = PartFile::create(&target)?;
        part.write(&bytes)?;
        part.sync()?;
        // It is of this command's making, and what it said before may have changed.
        part.finish(0o600, 0, true)
    })
    .await
}

/// Makes the directory that a local one is a copy of, and answers with what it is to become when it is filled.
pub(in crate::commands::fs) async fn make_directory(
    fs: &ZoneFs,
    local: &Path,
    remote: &ZonePath,
) -> Result<RawDirectory, Error> {
    let path = local.to_owned();
    let directory = blocking(move || read(&path)).await?;
    fs.make_raw_directory(remote, &directory).await.map_err(not_made)?;
    Ok(directory)
}

fn read(local: &Path) -> Result<RawDirectory, Error> {
    let raw = |error| Error::raw(local.display().to_string(), error);
    let (file, _) = open_regular(&local.join(NAME), false).map_err(|error| match error {
        Error::Local { source, .. } if source.kind() == std::io::ErrorKind::NotFound => raw(RawError::NotADirectory),
        error => error,
    })?;
    let mut bytes = Vec::new();
    let read = file.take(RawDirectory::BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(Error::local("cannot read", local))?;
    RawDirectory::from_bytes(&bytes).map_err(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_not_carried_are_known() {
        for (name, own) in [
            (".strongroom-directory", true),
            (".strongroom-0a1b.part", true),
            (".strongroom-directory.raw", false),
            ("strongroom-0a1b.part", false),
            ("directory", false),
        ] {
            assert_eq!(is_own(name), own, "{name}");
        }
    }
}
