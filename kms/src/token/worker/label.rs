//! Labels of key objects: `strongroom:1:<suite>:<name>@<version>`.

use std::fmt;

use strongroom_proto::{EdekSuite, KeyName, KeyVersion};

use crate::token::NewVersion;

/// Every label of ours starts so; the number is the version of this form.
pub(super) const PREFIX: &str = "strongroom:1:";

/// What a key object is, as its label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyLabel {
    pub(super) suite: EdekSuite,
    pub(super) name: KeyName,
    pub(super) version: KeyVersion,
}

impl KeyLabel {
    /// The label of a version that is to be made.
    pub(super) fn of(new: &NewVersion) -> Self {
        Self {
            suite: new.suite,
            name: new.key.clone(),
            version: new.version,
        }
    }

    /// Parses a label in exactly the form that [`fmt::Display`] gives it; anything else is not ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (suite, rest) = text.strip_prefix(PREFIX)?.split_once(':')?;
        let (name, version) = rest.rsplit_once('@')?;
        let label = Self {
            suite: suite.parse().ok()?,
            name: name.parse().ok()?,
            version: KeyVersion(version.parse().ok()?),
        };
        (label.to_string() == text).then_some(label)
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}@{}", self.suite, self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_one_spelling() {
        let text = "strongroom:1:kw:payroll.eu-1@4294967295";
        let label = KeyLabel::parse(text).expect("canonical");
        assert_eq!(label.version, KeyVersion(u32::MAX));
        assert_eq!(label.to_string(), text);
        for foreign in [
            "payroll@1",
            "strongroom:2:kw:payroll@1",
            "strongroom:1:xx:payroll@1",
            "strongroom:1:kw:payroll",
            "strongroom:1:kw:payroll@01",
            "strongroom:1:kw:payroll@+1",
            "strongroom:1:kw:payroll@4294967296",
            "strongroom:1:kw:a@b@1",
            "strongroom:1:kw:@1",
        ] {
            assert_eq!(KeyLabel::parse(foreign), None, "{foreign}");
        }
    }
}
