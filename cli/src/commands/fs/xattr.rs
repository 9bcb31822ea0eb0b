//! `fs getfattr`, `fs setfattr`: attributes that users attach to files and directories.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Serialize;
use strongroom_fs::ZoneFs;
use strongroom_proto::ZonePath;

use super::{for_each, parse_all};
use crate::{
    cli::SetfattrArgs,
    error::Error,
    output::{Output, one_line},
};

/// Attributes in `--json`, with values as `setfattr` takes them.
#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    xattrs: BTreeMap<String, String>,
}

/// Shows the attributes of each path.
pub(super) async fn show(
    fs: &ZoneFs,
    paths: &[ZonePath],
    name: Option<String>,
    dump: bool,
    output: Output,
) -> Result<(), Error> {
    let with_values = dump || name.is_some();
    let names: Vec<String> = name.into_iter().collect();
    for_each(paths, output, async |path| {
        let xattrs = fs.xattrs(path, &names).await?;
        let xattrs = xattrs
            .into_iter()
            .map(|(name, value)| (name, written(&value)))
            .collect();
        let path = path.as_str();
        let shown = Shown { path, xattrs };
        output.result(&shown, || text(&shown, with_values))
    })
    .await
}

/// Sets or removes an attribute of each path.
pub(super) async fn set(fs: &ZoneFs, args: SetfattrArgs, output: Output) -> Result<(), Error> {
    let value = read(args.value.as_deref().unwrap_or_default())?;
    for_each(&parse_all(&args.paths)?, output, async |path| {
        let stat = match (&args.change.name, &args.change.remove) {
            (Some(name), _) => fs.set_xattr(path, name, value.clone()).await?,
            (None, Some(name)) => fs.remove_xattr(path, name).await?,
            (None, None) => return Ok(()),
        };
        output.result(&stat, String::new)
    })
    .await
}

/// As `getfattr` writes it.
fn text(shown: &Shown<'_>, with_values: bool) -> String {
    if shown.xattrs.is_empty() {
        return String::new();
    }
    let mut lines = vec![format!("# file: {}", one_line(shown.path))];
    lines.extend(shown.xattrs.iter().map(|(name, value)| match with_values {
        true => format!("{}={}", one_line(name), one_line(value)),
        false => one_line(name).to_string(),
    }));
    lines.join("\n")
}

/// A value as it is read again: text as it is unless that could be taken for something else, other bytes in Base64 after `0s`.
fn written(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.starts_with("0s") && !text.starts_with("0x") && !text.contains(char::is_control) => {
            text.to_owned()
        }
        _ => format!("0s{}", BASE64_STANDARD.encode(value)),
    }
}

/// The bytes that are written as `text`.
fn read(text: &str) -> Result<Bytes, Error> {
    let wrong = |how: &str| Error::Usage {
        message: format!("the value {text:?} is not {how}; write text that begins so in Base64 after 0s"),
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return Ok(hex::decode(digits).map_err(|_| wrong("hexadecimal"))?.into());
    }
    match text.strip_prefix("0s") {
        Some(encoded) => Ok(BASE64_STANDARD.decode(encoded).map_err(|_| wrong("Base64"))?.into()),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_they_are_read_again() {
        for value in [
            &b""[..],
            b"text",
            "größe".as_bytes(),
            b"0x12",
            b"0sq",
            b"a\nb",
            &[0, 255, 7],
        ] {
            assert_eq!(read(&written(value)).expect("it is written so"), value);
        }
        assert_eq!(read("0x00ff").expect("hexadecimal"), &[0, 255][..]);
        assert!(read("0xf").is_err() && read("0s?").is_err());
    }
}
