use std::{
    env::{self, VarError},
    fmt,
    str::FromStr,
    sync::OnceLock,
};

use crate::kernel::{self, Tier};

/// Names the fastest backend that [`Backend::best`] may choose; a name that [`Backend::from_str`] knows.
pub const BACKEND_VARIABLE: &str = "STRONGROOM_AES";

const TIERS: [(Tier, &str); 4] = [
    (Tier::Portable, "portable"),
    (Tier::AesNi, "aes-ni"),
    (Tier::Vaes256, "vaes256"),
    (Tier::Vaes512, "vaes512"),
];

/// A set of instructions that AES-CTR can be computed with. A value is the proof that this processor, and the operating
/// system on it, have them: there is no way to make one of instructions that are not there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend(Tier);

/// Why there is no such backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The name is of none.
    #[error("there is no AES backend {name:?}; there are portable, aes-ni, vaes256 and vaes512")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// This machine lacks the instructions.
    #[error("this processor lacks the instructions of the AES backend {name}")]
    Absent {
        /// What was asked for.
        name: &'static str,
    },
}

impl Backend {
    /// The fastest backend of this machine, or the one that the environment variable [`BACKEND_VARIABLE`] names if that is
    /// slower. Looked up once.
    ///
    /// # Panics
    /// If the variable holds a name that is no backend's.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Backend> = OnceLock::new();
        *BEST.get_or_init(|| {
            let detected = kernel::detect();
            let bound = env::var(BACKEND_VARIABLE).map(|name| tier(&name));
            match bound {
                Ok(Ok((bound, _))) => Self(detected.min(bound)),
                Ok(Err(error)) => panic!("{BACKEND_VARIABLE}: {error}"),
                Err(VarError::NotPresent) => Self(detected),
                Err(VarError::NotUnicode(_)) => panic!("{BACKEND_VARIABLE} is not text"),
            }
        })
    }

    /// Every backend that this machine has, the slowest first, whatever the environment says.
    pub fn all() -> impl Iterator<Item = Self> {
        let detected = kernel::detect();
        TIERS
            .iter()
            .map(|(tier, _)| *tier)
            .filter(move |tier| *tier <= detected)
            .map(Self)
    }

    /// The name that [`Self::from_str`] takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        TIERS[self.0 as usize].1
    }

    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only kernels of our own differ by it")
    )]
    pub(crate) const fn tier(self) -> Tier {
        self.0
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(name: &str) -> Result<Self, BackendError> {
        let (tier, name) = tier(name)?;
        if tier > kernel::detect() {
            return Err(BackendError::Absent { name });
        }
        Ok(Self(tier))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.name())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn tier(name: &str) -> Result<(Tier, &'static str), BackendError> {
    let known = TIERS.iter().find(|(_, known)| *known == name);
    known
        .copied()
        .ok_or_else(|| BackendError::Unknown { name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tiers_agree() {
        for (position, (tier, name)) in TIERS.iter().enumerate() {
            assert_eq!(*tier as usize, position);
            match name.parse::<Backend>() {
                Ok(backend) => assert_eq!(backend.name(), *name),
                Err(error) => assert_eq!(error, BackendError::Absent { name }),
            }
        }
        let error = "sse9".parse::<Backend>().expect_err("no such backend");
        assert_eq!(error, BackendError::Unknown { name: "sse9".into() });
        assert_eq!(Backend::all().next().map(Backend::name), Some("portable"));
    }
}
