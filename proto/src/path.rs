use std::fmt;

use crate::{
    ParseError,
    limits::{NAME_BYTES_MAX, PATH_BYTES_MAX},
};

/// Bytes shown of a path that is too long.
const SHOWN_OF_TOO_LONG: usize = 255;

/// An absolute, normalised path in the zone filesystem: `/` or `/a/b`, UTF-8, no empty, `.` or `..` part. One that comes from
/// outside has at most [`PATH_BYTES_MAX`] bytes; only where a rename further up moved something too far down it is longer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZonePath(String);

impl ZonePath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Parses what came over the wire or the command line. A trailing slash and doubled slashes are folded.
    ///
    /// # Errors
    /// Names the path and the rule that it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let bad = |rule| Err(ParseError::new("path", &String::from_utf8_lossy(bytes), rule));
        let Ok(text) = std::str::from_utf8(bytes) else {
            return bad("names must be UTF-8");
        };
        if !text.starts_with('/') {
            return bad("paths are absolute: they start with /");
        }
        if text.len() > PATH_BYTES_MAX {
            return bad("a path has at most 4095 bytes");
        }
        let mut path = String::with_capacity(text.len());
        for name in text.split('/').filter(|name| !name.is_empty()) {
            if let Err(rule) = check_name(name) {
                return bad(rule);
            }
            path.push('/');
            path.push_str(name);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this path and the last name; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Some((Self(parent.to_owned()), name))
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// If `name` is not one valid name or the path grows too long.
    pub fn join(&self, name: &str) -> Result<Self, ParseError> {
        Self::parse(self.child(name)?.0.as_bytes())
    }

    /// The path of something that stands under `name` in the directory of this path, however long it is.
    ///
    /// # Errors
    /// If `name` is not one valid name.
    pub fn child(&self, name: &str) -> Result<Self, ParseError> {
        if let Err(rule) = check_name(name) {
            return Err(ParseError::new("file name", name, rule));
        }
        let base = if self.is_root() { "" } else { &self.0 };
        Ok(Self(format!("{base}/{name}")))
    }

    /// Whether it is longer than a path may be that is asked for.
    #[must_use]
    pub const fn is_too_long(&self) -> bool {
        self.0.len() > PATH_BYTES_MAX
    }

    /// Whether this path is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root() || self.0 == other.0 || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("a name must not be empty");
    }
    if name == "." || name == ".." {
        return Err("a name must not be . or ..");
    }
    if name.contains('/') {
        return Err("a name must not contain /");
    }
    if name.contains('\0') {
        return Err("a name must not contain NUL");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("a name has at most 255 bytes");
    }
    Ok(())
}

impl fmt::Display for ZonePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_too_long() {
            // Messages have bounds; the end tells more than the beginning.
            let cut = self.0.ceil_char_boundary(self.0.len() - SHOWN_OF_TOO_LONG);
            return write!(f, "…{}", &self.0[cut..]);
        }
        f.write_str(&self.0)
    }
}

impl From<&ZonePath> for bytes::Bytes {
    fn from(path: &ZonePath) -> Self {
        Self::copy_from_slice(path.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_parse_or_say_why_not() {
        for (input, expected) in [
            (&b"/"[..], "/"),
            (b"//", "/"),
            (b"/a//b/", "/a/b"),
            ("/größe/…".as_bytes(), "/größe/…"),
        ] {
            assert_eq!(ZonePath::parse(input).map(|p| p.0), Ok(expected.to_owned()));
        }
        let long_name = [b"/".as_slice(), &[b'x'; 256]].concat();
        let long_path = b"/xxxxxxx".repeat(512);
        for (input, rule) in [
            (&b""[..], "start with /"),
            (b"a", "start with /"),
            (b"/a/../b", ". or .."),
            (b"/./b", ". or .."),
            (b"/a\0b", "NUL"),
            (b"/\xff", "UTF-8"),
            (&long_name, "255 bytes"),
            (&long_path, "4095 bytes"),
        ] {
            let error = ZonePath::parse(input).expect_err("must be refused").to_string();
            assert!(error.contains(rule), "{error:?} does not mention {rule:?}");
        }
    }

    #[test]
    fn what_a_rename_moved_too_far_down_still_has_a_path_and_a_short_name() {
        let deepest = ZonePath::parse(format!("/{}", "x/".repeat(2047)).as_bytes()).expect("4095 bytes");
        assert!(!deepest.is_too_long());
        assert!(deepest.join("ä").is_err());
        let below = deepest.child("ä").expect("a name");
        assert!(below.is_too_long() && below.is_within(&deepest));
        let shown = below.to_string();
        assert!(
            shown.starts_with('…') && shown.ends_with("/x/ä") && shown.len() < 300,
            "{shown}"
        );
        assert!(deepest.child("..").is_err());
    }

    #[test]
    fn containment_goes_by_whole_names() {
        let path = |s: &str| ZonePath::parse(s.as_bytes()).expect("valid");
        assert!(path("/a/b").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/")));
        assert!(!path("/ab").is_within(&path("/a")));
        assert_eq!(path("/a").split_last(), Some((path("/"), "a")));
        assert_eq!(path("/").split_last(), None);
    }
}
