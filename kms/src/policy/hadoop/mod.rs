//! Importer of Hadoop's `kms-acls.xml`: policies in Cedar that decide about users as a Hadoop KMS does with these ACLs
//! (`KMSACLs`, `KeyAuthorizationKeyProvider`). What the file does not say, Hadoop's defaults say.
//!
//! A call of a Hadoop KMS passes two gates: the ACL and blacklist of its operation, which become `forbid … unless`, and
//! the ACLs of its key, which become permits. [`cedar`] has the table of operations.

mod acl;
mod cedar;
mod xml;

use self::acl::Acls;

/// The tag that has the value of Hadoop's key attribute of the same name: the name under which ACLs are looked up
/// instead of the key's own.
pub const ACL_NAME_TAG: &str = "key.acl.name";

/// What an import made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The policies, with a heading that says what they rely on.
    pub cedar: String,
    /// What does not take effect, or means something else than its writer may have thought.
    pub notes: Vec<String>,
}

/// Why a Hadoop configuration file is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not XML, or not a Hadoop configuration.
    #[error("{file}:{line}: {reason}")]
    Invalid {
        /// What the caller calls the file.
        file: String,
        /// The line, from 1.
        line: u32,
        /// What is wrong.
        reason: String,
    },
}

/// The policies that say what `acls`, the text of a `kms-acls.xml`, says. `site`, the text of the `kms-site.xml`
/// beside it, tells whether ACLs of keys are looked at; without it, they are.
///
/// # Errors
/// [`ImportError::Invalid`] with the line.
pub fn import(acls: &str, site: Option<&str>) -> Result<Imported, ImportError> {
    let per_key = match site {
        Some(site) => key_authorization(site)?,
        None => true,
    };
    let mut notes = Vec::new();
    let acls = Acls::parse(&xml::properties("kms-acls.xml", acls)?, &mut notes);
    let policies = if per_key {
        cedar::policies(&acls)
    } else {
        cedar::policies_without_keys(&acls)
    };
    let cedar = format!("{}{}", cedar::heading(&notes), policies.concat());
    Ok(Imported { cedar, notes })
}

/// `hadoop.kms.key.authorization.enable`, which is true unless said otherwise.
fn key_authorization(site: &str) -> Result<bool, ImportError> {
    let properties = xml::properties("kms-site.xml", site)?;
    let mut named = properties.iter().rev();
    let enable = named.find(|(name, _)| name == "hadoop.kms.key.authorization.enable");
    // As Hadoop reads booleans: what is neither is the default.
    Ok(!enable.is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("false")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::{Groups, Rules};

    fn file(properties: &[(&str, &str)]) -> String {
        let property =
            |(name, value): &(&str, &str)| format!("<property><name>{name}</name><value>{value}</value></property>\n");
        let inner: String = properties.iter().map(property).collect();
        format!("<?xml version=\"1.0\"?>\n<configuration>\n{inner}</configuration>\n")
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let acls = file(&[
            ("hadoop.kms.acl.CREATE", "alice, bob"),
            ("key.acl.payroll.READ_ALL", "*"),
            ("key.acl.MANAGEMENT", "*"),
            ("default.key.acl.ALL", "*"),
            ("whitelist.key.acl.ALL", "*"),
            ("hadoop.kms.acl.GET", "admin"),
            ("hadoop.kms.acl.DESTROY", "admin"),
        ]);
        let imported = import(&acls, None).expect("valid");
        let notes = imported.notes.join("\n");
        for word in [
            "hadoop.kms.acl.CREATE: only the first space",
            "key.acl.payroll.READ_ALL",
            "key.acl.MANAGEMENT",
            "default.key.acl.ALL",
            "whitelist.key.acl.ALL",
            "hadoop.kms.acl.GET",
            "hadoop.kms.acl.DESTROY",
        ] {
            assert!(notes.contains(word), "{word} is not among\n{notes}");
            assert!(imported.cedar.contains(word));
        }
        assert!(
            !imported.cedar.contains("Key::\"payroll\""),
            "an operation that is none makes no policy"
        );
        Rules::parse(Path::new("p.cedar"), &imported.cedar, Groups::default()).expect("valid policies");
    }

    #[test]
    fn strange_names_cannot_leave_their_strings() {
        let acls = file(&[
            ("key.acl.a\"b\\.READ", "x\"y,*z g\\\"1"),
            ("hadoop.kms.blacklist.CREATE", "o'neil"),
        ]);
        let imported = import(&acls, None).expect("valid");
        Rules::parse(Path::new("p.cedar"), &imported.cedar, Groups::default()).expect("valid policies");
    }

    #[test]
    fn files_that_are_none_are_refused_with_their_line() {
        for (text, reason) in [
            ("<configuration>\n<property>", "kms-acls.xml:"),
            ("<acls/>", "kms-acls.xml:1: "),
            (
                "<configuration>\n<property><name>a</name><value>${b}</value></property></configuration>",
                "kms-acls.xml:2: ",
            ),
            (
                "<configuration xmlns:xi='http://www.w3.org/2001/XInclude'>\n<xi:include href='b.xml'/></configuration>",
                "kms-acls.xml:2: ",
            ),
            ("<!DOCTYPE a [<!ENTITY b 'c'>]>\n<configuration/>", "kms-acls.xml:"),
        ] {
            let error = import(text, None).expect_err("must be refused").to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
