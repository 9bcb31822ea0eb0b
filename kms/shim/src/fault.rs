//! What can be made to fail, and how.

use std::time::Duration;

/// Defines the functions by their place in `CK_FUNCTION_LIST` (PKCS#11 2.40).
macro_rules! functions {
    ($($name:ident = $index:literal),* $(,)?) => {
        /// A function of PKCS#11, without its `C_`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the standard explains them")]
        pub enum Function {
            $($name = $index),*
        }

        impl Function {
            /// All that can be made to fail.
            pub const ALL: [Self; [$($index),*].len()] = [$(Self::$name),*];
        }
    };
}

functions! {
    Initialize = 0, GetSlotList = 4, GetTokenInfo = 6, GetMechanismList = 7, OpenSession = 12, CloseSession = 13, Login = 18,
    CreateObject = 20, CopyObject = 21, DestroyObject = 22, GetAttributeValue = 24, SetAttributeValue = 25, FindObjectsInit = 26,
    FindObjects = 27, EncryptInit = 29, Encrypt = 30, DecryptInit = 33, Decrypt = 34, SignInit = 42, Sign = 43,
    GenerateKey = 58, GenerateKeyPair = 59, WrapKey = 60, UnwrapKey = 61, DeriveKey = 62, GenerateRandom = 64,
}

impl Function {
    /// Those that work with keys: what fails when a token's cryptography does.
    pub const KEY_USE: [Self; 9] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::Sign,
        Self::GenerateKey,
        Self::WrapKey,
        Self::UnwrapKey,
        Self::DeriveKey,
        Self::GetAttributeValue,
        Self::FindObjectsInit,
    ];

    pub(crate) const fn index(self) -> u64 {
        self as u64
    }
}

/// A return value (PKCS#11 3.1, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ckr(pub u64);

#[allow(missing_docs, reason = "the standard explains them")]
impl Ckr {
    pub const HOST_MEMORY: Self = Self(0x02);
    pub const GENERAL_ERROR: Self = Self(0x05);
    pub const FUNCTION_FAILED: Self = Self(0x06);
    pub const DEVICE_ERROR: Self = Self(0x30);
    pub const DEVICE_MEMORY: Self = Self(0x31);
    pub const DEVICE_REMOVED: Self = Self(0x32);
    pub const KEY_HANDLE_INVALID: Self = Self(0x60);
    pub const KEY_NOT_WRAPPABLE: Self = Self(0x69);
    pub const OBJECT_HANDLE_INVALID: Self = Self(0x82);
    pub const PIN_INCORRECT: Self = Self(0xa0);
    pub const PIN_LOCKED: Self = Self(0xa4);
    pub const SESSION_CLOSED: Self = Self(0xb0);
    pub const SESSION_COUNT: Self = Self(0xb1);
    pub const SESSION_HANDLE_INVALID: Self = Self(0xb3);
    pub const TOKEN_NOT_PRESENT: Self = Self(0xe0);
    pub const USER_NOT_LOGGED_IN: Self = Self(0x101);
    pub const CRYPTOKI_NOT_INITIALIZED: Self = Self(0x190);
    /// A code that only its vendor knows.
    pub const VENDOR_DEFINED: Self = Self(0x8000_0001);
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not made and returns this.
    Error(Ckr),
    /// It is made and returns this.
    ErrorAfter(Ckr),
    /// It is made later, by `least` and up to `jitter` more.
    Delay {
        /// The least delay.
        least: Duration,
        /// What may be added to it.
        jitter: Duration,
    },
    /// It is made after so long, or never.
    Hang(Option<Duration>),
    /// All sessions are closed, and it returns `CKR_SESSION_HANDLE_INVALID`: the token was reset.
    CloseSessions,
    /// The process dies of SIGSEGV before the call is made.
    Crash,
    /// The process dies of SIGSEGV when the call has been made.
    CrashAfter,
    /// One bit of the bytes that it answers with is wrong. Of attributes, only `CKA_VALUE`.
    FlipBit,
    /// The handle that it answers with is that of another, fresh AES key with the attributes asked for.
    OtherObject,
    /// It says that it succeeded and does nothing.
    Nothing,
    /// It loses so many bytes of the process' memory.
    Leak(u64),
    /// A boolean attribute of this type (`CKA_…`) reads back as false.
    Deny(u64),
    /// Of `C_EncryptInit` with AES-GCM: the token draws an IV of its own and writes it over the caller's once `C_Encrypt` has
    /// answered, as AWS CloudHSM and tokens in FIPS mode do.
    OwnIv,
    /// Of `C_GenerateKey`: an attribute of this type (`CKA_…`) in the template is taken and has no effect, as on a token that
    /// does not enforce it.
    Ignore(u64),
}

impl Fault {
    /// `CKA_NEVER_EXTRACTABLE` reads back as false.
    pub const EVER_EXTRACTABLE: Self = Self::Deny(0x164);

    /// `CKA_WRAP_WITH_TRUSTED` has no effect.
    pub const TRUST_IGNORED: Self = Self::Ignore(0x210);

    /// The number of the fault in `shim.c`, and its two values.
    pub(crate) fn words(self) -> [u64; 3] {
        match self {
            Self::Error(value) => [1, value.0, 0],
            Self::ErrorAfter(value) => [2, value.0, 0],
            Self::Delay { least, jitter } => [3, ms(least), ms(jitter)],
            Self::Hang(None) => [4, u64::from(u32::MAX), 0],
            Self::Hang(Some(time)) => [4, ms(time), 0],
            Self::CloseSessions => [5, Ckr::SESSION_HANDLE_INVALID.0, 0],
            Self::Crash => [6, 0, 0],
            Self::CrashAfter => [7, 0, 0],
            Self::FlipBit => [8, 0, 0],
            Self::OtherObject => [9, 0, 0],
            Self::Nothing => [10, 0, 0],
            Self::Leak(bytes) => [11, bytes, 0],
            Self::Deny(attribute) => [12, attribute, 0],
            Self::OwnIv => [13, 0, 0],
            Self::Ignore(attribute) => [14, attribute, 0],
        }
    }
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The next so many calls.
    Next(u64),
    /// Every call.
    Always,
    /// Calls drawn at random, the same ones for the same seed.
    Sometimes {
        /// How many of a thousand.
        per_mille: u32,
        /// Where the draws start.
        seed: u64,
    },
}

impl When {
    /// Calls left, chance in 2^32, and seed.
    pub(crate) fn words(self) -> [u64; 3] {
        match self {
            Self::Next(calls) => [calls, 1 << 32, 1],
            Self::Always => [u64::MAX, 1 << 32, 1],
            Self::Sometimes { per_mille, seed } => [u64::MAX, (u64::from(per_mille) << 32) / 1000, seed],
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
