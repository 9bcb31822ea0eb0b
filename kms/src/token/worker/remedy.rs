//! The one table from what a token returns (`CKR_…`) to what is done about it, and the error type that carries it.

use cryptoki::error::{Error, RvError};
use strongroom_proto::{Failure, Reason};

/// What to do about a return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Short of something for the moment; the caller may repeat the call.
    Repeat,
    /// The session or the login is lost: open the session anew.
    Reopen,
    /// A handle names no object: where objects are looked through, that one is gone; elsewhere open the session anew, since the
    /// handle may be from another.
    Stale,
    /// The device says that it failed: open the session anew. Of an EDEK that is to be opened Kryoptic says so when it is wrong,
    /// so there it is unclear.
    Device,
    /// The library is lost: only another process can help.
    Restart,
    /// The PIN was refused: never try it again.
    Pin,
    /// Says only that something failed; what it means depends on the operation.
    Unclear,
    /// The token refuses the operation itself.
    Refuse,
}

/// What to do about a `CKR_` value (PKCS#11 3.1, section 5.1). Every value has its place here: a new one of the binding does
/// not compile until it has one. Whatever the remedy, the call itself fails over: what reaches the fleet is a reason for which
/// it asks another token, since no return value says that another token would answer the same.
pub(super) const fn remedy_of(value: RvError) -> Remedy {
    match value {
        RvError::HostMemory | RvError::DeviceMemory | RvError::FunctionCanceled | RvError::SessionCount => {
            Remedy::Repeat
        }
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::OperationActive
        | RvError::OperationNotInitialized => Remedy::Reopen,
        RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::UnwrappingKeyHandleInvalid
        | RvError::WrappingKeyHandleInvalid => Remedy::Stale,
        RvError::DeviceError => Remedy::Device,
        RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::CryptokiNotInitialized
        | RvError::CantLock
        | RvError::MutexBad
        | RvError::MutexNotLocked
        | RvError::NeedToCreateThreads
        | RvError::LibraryLoadFailed
        | RvError::FipsSelfTestFailed => Remedy::Restart,
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::PinTooWeak
        | RvError::UserPinNotInitialized => Remedy::Pin,
        RvError::GeneralError | RvError::FunctionFailed => Remedy::Unclear,
        RvError::Cancel
        | RvError::ArgumentsBad
        | RvError::NoEvent
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::ActionProhibited
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::FunctionNotParallel
        | RvError::FunctionNotSupported
        | RvError::CurveNotSupported
        | RvError::KeySizeRange
        | RvError::KeyTypeInconsistent
        | RvError::KeyNotNeeded
        | RvError::KeyChanged
        | RvError::KeyNeeded
        | RvError::KeyIndigestible
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyNotWrappable
        | RvError::KeyUnextractable
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::SessionParallelNotSupported
        | RvError::SessionReadOnly
        | RvError::SessionExists
        | RvError::SessionReadOnlyExists
        | RvError::SessionReadWriteSoExists
        | RvError::SignatureInvalid
        | RvError::SignatureLenRange
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::TokenWriteProtected
        | RvError::UnwrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::UserAlreadyLoggedIn
        | RvError::UserTypeInvalid
        | RvError::UserAnotherAlreadyLoggedIn
        | RvError::UserTooManyTypes
        | RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange
        | RvError::WrappingKeySizeRange
        | RvError::WrappingKeyTypeInconsistent
        | RvError::RandomSeedNotSupported
        | RvError::RandomNoRng
        | RvError::DomainParamsInvalid
        | RvError::BufferTooSmall
        | RvError::SavedStateInvalid
        | RvError::InformationSensitive
        | RvError::StateUnsaveable
        | RvError::CryptokiAlreadyInitialized
        | RvError::NewPinMode
        | RvError::NextOtp
        | RvError::ExceededMaxIterations
        | RvError::PublicKeyInvalid
        | RvError::FunctionRejected
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => Remedy::Refuse,
    }
}

/// Whether a login that was answered so must not be repeated. A code that is no known trouble of sessions or devices may be
/// a vendor's word for a wrong PIN: it counts as one, since each further try could lock the token.
pub(in crate::token) const fn refuses_pin(value: RvError) -> bool {
    matches!(remedy_of(value), Remedy::Pin | Remedy::Refuse)
}

/// Whether the token has said no to what was asked, and has not merely failed at it.
pub(in crate::token) const fn refuses(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(..)) && matches!(remedy_of_error(error), Remedy::Refuse)
}

/// Whether a call failed because its handle names no object.
pub(super) const fn names_nothing(error: &Error) -> bool {
    matches!(remedy_of_error(error), Remedy::Stale)
}

const fn remedy_of_error(error: &Error) -> Remedy {
    match error {
        Error::Pkcs11(value, _) => remedy_of(*value),
        _ => Remedy::Refuse,
    }
}

/// Why a token operation did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// An answer for the caller.
    Failed(Failure),
    /// The session has to be opened anew.
    Lost(String),
    /// The process has to be started anew.
    Gone(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Trouble {
    /// What an error of the token means while it was `doing` something.
    pub(super) fn new(doing: &str, error: &Error) -> Self {
        let text = format!("the token failed {doing}: {error}");
        match remedy_of_error(error) {
            Remedy::Repeat => Self::Failed(Failure::new(Reason::TokenUnavailable, text)),
            // Outside an unwrap, a failure that gives no reason is taken for a broken session.
            Remedy::Reopen | Remedy::Stale | Remedy::Device | Remedy::Unclear => Self::Lost(text),
            Remedy::Restart => Self::Gone(text),
            Remedy::Pin | Remedy::Refuse => Self::Failed(Failure::new(Reason::TokenRefused, text)),
        }
    }
}

/// For `map_err`: [`Trouble::new`] with its errors.
pub(super) fn while_doing(doing: &'static str) -> impl Fn(Error) -> Trouble {
    move |error| Trouble::new(doing, &error)
}

/// What a refused unwrap says of the EDEK. Tokens choose all sorts of codes for a wrong one, so the operation decides.
pub(super) enum Refusal {
    /// The token says that the wrapped key is wrong.
    Invalid,
    /// It says only that something failed: the key must be seen to work before the EDEK is blamed.
    Unclear,
    /// It is not the EDEK.
    Trouble(Trouble),
}

impl Refusal {
    pub(super) fn of(error: &Error) -> Self {
        match remedy_of_error(error) {
            Remedy::Refuse => Self::Invalid,
            Remedy::Unclear | Remedy::Device => Self::Unclear,
            Remedy::Repeat | Remedy::Reopen | Remedy::Stale | Remedy::Restart | Remedy::Pin => {
                Self::Trouble(Trouble::new("to unwrap an EDEK", error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;
    use crate::fleet::fails_over;

    const EVERY: [RvError; 95] = [
        RvError::Cancel,
        RvError::HostMemory,
        RvError::SlotIdInvalid,
        RvError::GeneralError,
        RvError::FunctionFailed,
        RvError::ArgumentsBad,
        RvError::NoEvent,
        RvError::NeedToCreateThreads,
        RvError::CantLock,
        RvError::AttributeReadOnly,
        RvError::AttributeSensitive,
        RvError::AttributeTypeInvalid,
        RvError::AttributeValueInvalid,
        RvError::ActionProhibited,
        RvError::DataInvalid,
        RvError::DataLenRange,
        RvError::DeviceError,
        RvError::DeviceMemory,
        RvError::DeviceRemoved,
        RvError::EncryptedDataInvalid,
        RvError::EncryptedDataLenRange,
        RvError::FunctionCanceled,
        RvError::FunctionNotParallel,
        RvError::FunctionNotSupported,
        RvError::CurveNotSupported,
        RvError::KeyHandleInvalid,
        RvError::KeySizeRange,
        RvError::KeyTypeInconsistent,
        RvError::KeyNotNeeded,
        RvError::KeyChanged,
        RvError::KeyNeeded,
        RvError::KeyIndigestible,
        RvError::KeyFunctionNotPermitted,
        RvError::KeyNotWrappable,
        RvError::KeyUnextractable,
        RvError::MechanismInvalid,
        RvError::MechanismParamInvalid,
        RvError::ObjectHandleInvalid,
        RvError::OperationActive,
        RvError::OperationNotInitialized,
        RvError::PinIncorrect,
        RvError::PinInvalid,
        RvError::PinLenRange,
        RvError::PinExpired,
        RvError::PinLocked,
        RvError::SessionClosed,
        RvError::SessionCount,
        RvError::SessionHandleInvalid,
        RvError::SessionParallelNotSupported,
        RvError::SessionReadOnly,
        RvError::SessionExists,
        RvError::SessionReadOnlyExists,
        RvError::SessionReadWriteSoExists,
        RvError::SignatureInvalid,
        RvError::SignatureLenRange,
        RvError::TemplateIncomplete,
        RvError::TemplateInconsistent,
        RvError::TokenNotPresent,
        RvError::TokenNotRecognized,
        RvError::TokenWriteProtected,
        RvError::UnwrappingKeyHandleInvalid,
        RvError::UnwrappingKeySizeRange,
        RvError::UnwrappingKeyTypeInconsistent,
        RvError::UserAlreadyLoggedIn,
        RvError::UserNotLoggedIn,
        RvError::UserPinNotInitialized,
        RvError::UserTypeInvalid,
        RvError::UserAnotherAlreadyLoggedIn,
        RvError::UserTooManyTypes,
        RvError::WrappedKeyInvalid,
        RvError::WrappedKeyLenRange,
        RvError::WrappingKeyHandleInvalid,
        RvError::WrappingKeySizeRange,
        RvError::WrappingKeyTypeInconsistent,
        RvError::RandomSeedNotSupported,
        RvError::RandomNoRng,
        RvError::DomainParamsInvalid,
        RvError::BufferTooSmall,
        RvError::SavedStateInvalid,
        RvError::InformationSensitive,
        RvError::StateUnsaveable,
        RvError::CryptokiNotInitialized,
        RvError::CryptokiAlreadyInitialized,
        RvError::MutexBad,
        RvError::MutexNotLocked,
        RvError::NewPinMode,
        RvError::NextOtp,
        RvError::ExceededMaxIterations,
        RvError::FipsSelfTestFailed,
        RvError::LibraryLoadFailed,
        RvError::PinTooWeak,
        RvError::PublicKeyInvalid,
        RvError::FunctionRejected,
        RvError::VendorDefined(0x8000_0001),
        RvError::UnknownErrorCode(0x8000_0001),
    ];

    /// What is done about each value, as it was last agreed on: a change here is a change of `remedies.txt`, for all to see.
    const AGREED: &str = include_str!("remedies.txt");

    #[test]
    fn every_return_value_leads_to_the_remedy_that_was_agreed_on() {
        let mut table = String::new();
        for value in EVERY {
            let (call, unwrap) = (call_of(value), unwrap_of(value));
            let login = if refuses_pin(value) { "never again" } else { "again" };
            table += &format!("{:<30}{call:<16}{unwrap:<16}{login}\n", format!("{value:?}"));
        }
        let agreed = AGREED.lines().filter(|line| !line.starts_with('#'));
        let agreed: Vec<_> = agreed.map(str::trim_end).collect();
        let found: Vec<_> = table.lines().collect();
        assert_eq!(found, agreed, "remedies.txt should have the lines:\n{table}");
    }

    fn call_of(value: RvError) -> &'static str {
        let trouble = Trouble::new("to try", &Error::Pkcs11(value, Function::Encrypt));
        match &trouble {
            Trouble::Failed(failure) if failure.is_transient() => "try later",
            Trouble::Failed(_) => "refused",
            Trouble::Lost(_) => "session anew",
            Trouble::Gone(_) => "worker anew",
        }
    }

    fn unwrap_of(value: RvError) -> &'static str {
        match Refusal::of(&Error::Pkcs11(value, Function::UnwrapKey)) {
            Refusal::Invalid => "wrong EDEK",
            Refusal::Unclear => "unclear",
            Refusal::Trouble(_) => "as any call",
        }
    }

    /// Whatever the value: what reaches the fleet is a reason for which it asks another token.
    #[test]
    fn every_return_value_lets_the_call_go_to_another_token() {
        for value in EVERY {
            match Trouble::new("to try", &Error::Pkcs11(value, Function::UnwrapKey)) {
                Trouble::Failed(failure) => assert!(fails_over(failure.reason), "{value:?}: {failure}"),
                // The supervisor answers `token-unavailable` for a worker that cannot go on.
                Trouble::Lost(_) | Trouble::Gone(_) => assert!(fails_over(Reason::TokenUnavailable)),
            }
        }
    }
}
