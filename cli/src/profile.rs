//! The client profile: where the services are, and who the caller is to them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strongroom_proto::{
    ZonePath,
    transport::{BearerFiles, Remote, Remotes, TlsFiles},
};

use crate::error::Exit;

/// The environment variable that names a profile file.
pub(crate) const PROFILE_VARIABLE: &str = "STRONGROOM_PROFILE";

/// A profile file, parsed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The key service, at any of several addresses.
    pub(crate) kms: Remotes,
    /// The metadata service, at any of several addresses.
    pub(crate) metadata: Remotes,
    /// Whether DEKs are asked for by sealed delivery also where keys do not demand it.
    #[serde(default)]
    pub(crate) sealed: bool,
    /// Bits that new files and directories are made without, octal; 022 unless given.
    #[serde(default)]
    pub(crate) umask: Option<Umask>,
    /// Directories below which files may be read and written that are not encrypted; everywhere else they are refused.
    #[serde(default)]
    pub(crate) plain: Vec<PlainPath>,
    /// The key service's port for callers with bearer tokens.
    #[serde(default)]
    pub(crate) kms_bearer: Option<Remote>,
    /// Which identity each group of commands uses unless `--as` says otherwise.
    pub(crate) defaults: Defaults,
    /// Certificates and tokens by the name that `--as` takes.
    pub(crate) identities: BTreeMap<String, IdentityFiles>,
}

/// A umask, written as octal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Umask(u32);

impl Umask {
    /// At most 0o777.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl TryFrom<String> for Umask {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bits = u32::from_str_radix(&text, 8).ok().filter(|bits| *bits <= 0o777);
        bits.map(Self)
            .ok_or("umask is octal text from \"000\" to \"777\", for example \"027\"")
    }
}

impl From<Umask> for String {
    fn from(umask: Umask) -> Self {
        format!("{:03o}", umask.0)
    }
}

/// A directory in which files may be that are not encrypted, as the filesystem names it. Not the root: then nothing would be held against the
/// metadata service's word any more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PlainPath(ZonePath);

impl PlainPath {
    pub(crate) fn path(&self) -> ZonePath {
        self.0.clone()
    }
}

impl TryFrom<String> for PlainPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match ZonePath::parse(text.as_bytes()) {
            Ok(path) if path.is_root() => Err("plain lists single directories; with / no file would have to be encrypted, whatever zone it is in, if the metadata service said so".to_owned()),
            Ok(path) => Ok(Self(path)),
            Err(error) => Err(format!("plain lists directories by their paths: {error}")),
        }
    }
}

impl From<PlainPath> for String {
    fn from(path: PlainPath) -> Self {
        path.0.to_string()
    }
}

/// The files of an identity: a certificate with its key, or a bearer token.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityFiles {
    ca: PathBuf,
    #[serde(default)]
    certificate: Option<PathBuf>,
    #[serde(default)]
    key: Option<PathBuf>,
    #[serde(default)]
    bearer_token_file: Option<PathBuf>,
}

/// What an identity proves itself with.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    Certificate(TlsFiles),
    Bearer(BearerFiles),
}

impl IdentityFiles {
    fn proof(&self) -> Option<Proof> {
        let ca = self.ca.clone();
        match (
            self.certificate.clone(),
            self.key.clone(),
            self.bearer_token_file.clone(),
        ) {
            (Some(certificate), Some(key), None) => Some(Proof::Certificate(TlsFiles { ca, certificate, key })),
            (None, None, Some(bearer_token_file)) => Some(Proof::Bearer(BearerFiles { ca, bearer_token_file })),
            _ => None,
        }
    }

    fn relative_to(&self, base: &Path) -> Self {
        let below = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
        Self {
            ca: base.join(&self.ca),
            certificate: below(&self.certificate),
            key: below(&self.key),
            bearer_token_file: below(&self.bearer_token_file),
        }
    }
}

/// The identity of each group of commands.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Defaults {
    /// `strongroom key …`
    pub(crate) key: String,
    /// `strongroom zone …` and `strongroom status`
    pub(crate) zone: String,
    /// `strongroom fs …`
    pub(crate) fs: String,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("there is no client profile at {}; start a local Strongroom with `strongroom dev`, or name a profile with --profile", path.display())]
    Missing { path: PathBuf },
    #[error("no client profile can be looked for: neither XDG_CONFIG_HOME nor HOME is set; name one with --profile")]
    NoHome,
    #[error("cannot read the client profile {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the client profile {} is not valid", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("the identity {name} of the profile needs either certificate and key or bearer_token_file, besides ca")]
    NoProof { name: String },
    #[error("the identity {name} has a bearer token, which only strongroom key … can use; name another with --as")]
    TokenOnly { name: String },
    #[error(
        "the identity {name} has a bearer token; say in the profile where the key service takes them: kms_bearer = \"host:port\""
    )]
    NoBearerPort { name: String },
    #[error("the profile has no identity {name}; it has: {known}")]
    UnknownIdentity { name: String, known: String },
}

impl ProfileError {
    /// The exit code that this error ends the process with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } => Exit::NotFound,
            Self::Read { source, .. } => Exit::of_file(source),
            Self::NoHome
            | Self::Parse { .. }
            | Self::NoProof { .. }
            | Self::TokenOnly { .. }
            | Self::NoBearerPort { .. }
            | Self::UnknownIdentity { .. } => Exit::Usage,
        }
    }
}

impl Profile {
    /// Reads a profile; relative paths in it are taken from its directory.
    pub(crate) fn load(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ProfileError::Missing { path: path.to_owned() },
            _ => ProfileError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        let mut profile: Self = toml::from_str(&text).map_err(|source| ProfileError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for files in profile.identities.values_mut() {
            *files = files.relative_to(base);
        }
        Ok(profile)
    }

    /// The certificate files of the identity `name`.
    pub(crate) fn identity(&self, name: &str) -> Result<TlsFiles, ProfileError> {
        match self.proof(name)? {
            Proof::Certificate(files) => Ok(files),
            Proof::Bearer(_) => Err(ProfileError::TokenOnly { name: name.to_owned() }),
        }
    }

    /// What the identity `name` proves itself with.
    pub(crate) fn proof(&self, name: &str) -> Result<Proof, ProfileError> {
        let files = self.identities.get(name).ok_or_else(|| ProfileError::UnknownIdentity {
            name: name.to_owned(),
            known: self
                .identities
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        files
            .proof()
            .ok_or_else(|| ProfileError::NoProof { name: name.to_owned() })
    }

    /// Where the key service takes the token of the identity `name`.
    pub(crate) fn bearer_port(&self, name: &str) -> Result<&Remote, ProfileError> {
        let port = self.kms_bearer.as_ref();
        port.ok_or_else(|| ProfileError::NoBearerPort { name: name.to_owned() })
    }
}

/// The profile to use: `--profile` or `$STRONGROOM_PROFILE` if given, else the default path.
pub(crate) fn chosen_path(given: Option<&Path>) -> Result<PathBuf, ProfileError> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => default_path(|name| std::env::var_os(name).map(PathBuf::from)),
    }
}

/// `$XDG_CONFIG_HOME/strongroom/profile.toml`, else `~/.config/strongroom/profile.toml`. Relative values of the
/// variables are ignored, as the XDG base directory specification asks.
pub(crate) fn default_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, ProfileError> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .ok_or(ProfileError::NoHome)?;
    Ok(config.join("strongroom/profile.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
        kms = "localhost:7600"
        metadata = "localhost:7601"
        [defaults]
        key = "keyadmin"
        zone = "fsadmin"
        fs = "alice"
        [identities.alice]
        ca = "ca.pem"
        certificate = "/abs/alice.pem"
        key = "alice.key"
    "#;

    #[test]
    fn relative_paths_are_taken_from_the_profile() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("profile.toml");
        std::fs::write(&path, SAMPLE).expect("writable");
        let profile = Profile::load(&path).expect("valid");
        let alice = profile.identity("alice").expect("known");
        assert_eq!(alice.ca, dir.path().join("ca.pem"));
        assert_eq!(alice.certificate, Path::new("/abs/alice.pem"));
        let error = profile.identity("bob").expect_err("unknown").to_string();
        assert_eq!(error, "the profile has no identity bob; it has: alice");
    }

    #[test]
    fn unknown_fields_and_bad_addresses_are_refused() {
        for (from, to, expected) in [
            ("kms =", "kmss =", "unknown field `kmss`"),
            ("localhost:7600", "localhost", "host:port"),
            ("fs = \"alice\"", "", "missing field `fs`"),
            ("kms =", "plain = [\"landing\"]\nkms =", "plain lists directories"),
            ("kms =", "plain = [\"/\"]\nkms =", "plain lists single directories"),
        ] {
            let error = toml::from_str::<Profile>(&SAMPLE.replace(from, to))
                .expect_err("invalid")
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_default_path_follows_xdg() {
        let with = |config: Option<&str>, home: Option<&str>| {
            let (config, home) = (config.map(PathBuf::from), home.map(PathBuf::from));
            default_path(move |name| if name == "HOME" { home.clone() } else { config.clone() }).ok()
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(with(Some("/c"), Some("/h")), path("/c/strongroom/profile.toml"));
        assert_eq!(with(None, Some("/h")), path("/h/.config/strongroom/profile.toml"));
        assert_eq!(with(Some("c"), Some("/h")), path("/h/.config/strongroom/profile.toml"));
        assert_eq!(with(None, None), None);
    }

    #[test]
    fn an_identity_has_a_certificate_or_a_token() {
        let profile = |identity: &str| {
            let (start, _) = SAMPLE.split_once("[identities.alice]").expect("is there");
            toml::from_str::<Profile>(&format!("{start}[identities.alice]\nca = \"ca.pem\"\n{identity}")).expect("TOML")
        };
        let token = profile("bearer_token_file = \"token\"");
        assert!(
            matches!(token.proof("alice"), Ok(Proof::Bearer(files)) if files.bearer_token_file == Path::new("token"))
        );
        let error = token.identity("alice").expect_err("no certificate").to_string();
        assert!(error.contains("bearer token"), "{error}");
        let error = token.bearer_port("alice").expect_err("no port").to_string();
        assert!(error.contains("kms_bearer"), "{error}");
        for mixed in [
            "",
            "key = \"k\"",
            "certificate = \"c\"\nkey = \"k\"\nbearer_token_file = \"t\"",
        ] {
            let error = profile(mixed).proof("alice").expect_err("neither or both").to_string();
            assert!(error.contains("needs either"), "{error}");
        }
    }
}
