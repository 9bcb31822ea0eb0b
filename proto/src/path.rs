use std::fmt;

use crate::{
    ParseError,
    limits::{NAME_BYTES_MAX, PATH_BYTES_MAX},
};

/// An absolute, normalised path in the zone filesystem: `/` or `/a/b`, UTF-8, no empty, `.` or `..` part.
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
        if let Err(rule) = check_name(name) {
            return Err(ParseError::new("file name", name, rule));
        }
        let base = if self.is_root() { "" } else { &self.0 };
        Self::parse(format!("{base}/{name}").as_bytes())
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
