//! Labels of key objects: `strongroom:1:<suite>:<name>@<version>`, and `/<bits>` behind it where the token cannot be relied on
//! for the size of the key: SoftHSM2 does not record it of keys that it unwraps.

use std::fmt;

use strongroom_proto::{EdekSuite, KeyName, KeyVersion};

use super::suite::suite;
use crate::token::NewVersion;

/// Every label of ours starts so; the number is the version of this form.
pub(super) const PREFIX: &str = "strongroom:1:";

/// What a key object is, as its label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyLabel {
    pub(super) suite: EdekSuite,
    pub(super) name: KeyName,
    pub(super) version: KeyVersion,
    /// Bits of the key, said for keys that were unwrapped in a suite that has several sizes.
    pub(super) bits: Option<u32>,
}

impl KeyLabel {
    /// The label of a version that is to be made.
    pub(super) fn of(new: &NewVersion) -> Self {
        Self {
            suite: new.suite,
            name: new.key.clone(),
            version: new.version,
            bits: None,
        }
    }

    /// The same for a key that comes into the token wrapped and has that size.
    pub(super) fn unwrapped(self, bits: u32) -> Self {
        let bits = (suite(self.suite).key_bits().len() > 1).then_some(bits);
        Self { bits, ..self }
    }

    /// Every label that a version can have.
    pub(super) fn variants(name: &KeyName, version: KeyVersion) -> impl Iterator<Item = Self> {
        EdekSuite::ALL.into_iter().flat_map(move |kind| {
            let plain = Self {
                suite: kind,
                name: name.clone(),
                version,
                bits: None,
            };
            let sizes = suite(kind).key_bits().iter().map({
                let plain = plain.clone();
                move |&bits| plain.clone().unwrapped(bits)
            });
            let sized = sizes.filter(|label| label.bits.is_some());
            std::iter::once(plain).chain(sized).collect::<Vec<_>>()
        })
    }

    /// Parses a label in exactly the form that [`fmt::Display`] gives it; anything else is not ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (suite, rest) = text.strip_prefix(PREFIX)?.split_once(':')?;
        let (name, version) = rest.rsplit_once('@')?;
        let (version, bits) = match version.split_once('/') {
            Some((version, bits)) => (version, Some(bits.parse().ok()?)),
            None => (version, None),
        };
        let label = Self {
            suite: suite.parse().ok()?,
            name: name.parse().ok()?,
            version: KeyVersion(version.parse().ok()?),
            bits,
        };
        (label.to_string() == text).then_some(label)
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}@{}", self.suite, self.name, self.version)?;
        self.bits.map_or(Ok(()), |bits| write!(f, "/{bits}"))
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
        let sized = label.clone().unwrapped(256);
        assert_eq!(sized, label, "of one size only");
        let hadoop = KeyLabel::parse("strongroom:1:hadoop:lake@7").expect("canonical");
        let sized = hadoop.unwrapped(128);
        assert_eq!(sized.to_string(), "strongroom:1:hadoop:lake@7/128");
        assert_eq!(KeyLabel::parse(&sized.to_string()), Some(sized.clone()));
        assert!(KeyLabel::variants(&sized.name, sized.version).any(|label| label == sized));
        for foreign in [
            "strongroom:1:hadoop:lake@7/",
            "strongroom:1:hadoop:lake@7/0128",
            "strongroom:1:hadoop:lake@7/128/128",
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
