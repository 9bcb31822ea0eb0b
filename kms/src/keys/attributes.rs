//! What administrators say of a key: description, tags, and the demands on its use. Parsed once, bounded.

use std::collections::BTreeMap;

use strongroom_proto::{Failure, Reason};

/// Bytes of a description.
const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Tags of one key, and bytes of a tag's name and value.
const TAGS_MAX: usize = 32;
const TAG_NAME_BYTES_MAX: usize = 64;
const TAG_VALUE_BYTES_MAX: usize = 256;

/// What administrators say of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// DEKs of the key are given out only wrapped to a key of the client.
    pub(crate) sealed_required: bool,
    /// EDEKs of the key are kept by others than the metadata service, so that its proofs say nothing about them: the key
    /// is destroyed on approvals instead.
    pub(crate) outside_zones: bool,
}

/// Checks a description: up to 1024 bytes of text on one line.
pub(crate) fn description(text: String) -> Result<String, Failure> {
    if text.len() > DESCRIPTION_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "a description is one line of up to {DESCRIPTION_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Checks tags: up to 32, each name once.
pub(crate) fn tags(pairs: impl IntoIterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut tags = BTreeMap::new();
    for (name, value) in pairs {
        check_tag(&name, &value)?;
        if tags.insert(name.clone(), value).is_some() {
            return Err(invalid(format!("tag {name} is given twice")));
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(invalid(format!(
            "a key has at most {TAGS_MAX} tags, not {}",
            tags.len()
        )));
    }
    Ok(tags)
}

fn check_tag(name: &str, value: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let name_fits = (1..=TAG_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(allowed);
    if !name_fits {
        return Err(invalid(format!(
            "a tag's name is 1 to {TAG_NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ - /, not {:?}",
            name.chars().take(TAG_NAME_BYTES_MAX).collect::<String>()
        )));
    }
    if value.len() > TAG_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(invalid(format!(
            "the value of tag {name} is not one line of up to {TAG_VALUE_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_named() {
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (pairs, word) in [
            (vec![tag("", "x")], "name"),
            (vec![tag("a b", "x")], "a b"),
            (vec![tag(&"n".repeat(65), "x")], "name"),
            (vec![tag("team", &"v".repeat(257))], "tag team"),
            (vec![tag("team", "two\nlines")], "tag team"),
            (vec![tag("team", "a"), tag("team", "b")], "twice"),
            ((0..33).map(|n| tag(&n.to_string(), "x")).collect(), "at most 32"),
        ] {
            let failure = tags(pairs).expect_err("must be refused");
            assert_eq!(failure.reason, Reason::InvalidArgument);
            assert!(failure.message.contains(word), "{failure}");
        }
        assert!(tags([tag("cost/center", "größe 7"), tag("team", "")]).is_ok());
        assert!(description("x".repeat(1024)).is_ok());
        assert!(description("x".repeat(1025)).is_err() && description("a\nb".to_owned()).is_err());
    }
}
