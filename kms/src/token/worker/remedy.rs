//! The one table from what a token returns (`CKR_…`) to what is done about it, and the error type that carries it.

use cryptoki::error::{Error, RvError};
use strongroom_proto::{Failure, Reason};

/// What to do about a return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Short of something for the moment; the caller may repeat the call.
    Repeat,
    /// The session, the login or a handle is lost: open the session anew.
    Reopen,
    /// The library is lost: only another process can help.
    Restart,
    /// The PIN was refused: never try it again.
    Pin,
    /// Says only that something failed; what it means depends on the operation.
    Unclear,
    /// The token refuses the operation itself.
    Refuse,
}

/// What to do about a `CKR_` value (PKCS#11 3.1, section 5.1).
pub(super) const fn remedy_of(value: RvError) -> Remedy {
    match value {
        RvError::HostMemory | RvError::DeviceMemory | RvError::FunctionCanceled | RvError::SessionCount => {
            Remedy::Repeat
        }
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::UnwrappingKeyHandleInvalid
        | RvError::WrappingKeyHandleInvalid
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::DeviceError => Remedy::Reopen,
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
        _ => Remedy::Refuse,
    }
}

/// Whether a login that was answered so must not be repeated. A code that is no known trouble of sessions or devices may be
/// a vendor's word for a wrong PIN: it counts as one, since each further try could lock the token.
pub(in crate::token) const fn refuses_pin(value: RvError) -> bool {
    matches!(remedy_of(value), Remedy::Pin | Remedy::Refuse)
}

fn remedy_of_error(error: &Error) -> Remedy {
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
            Remedy::Reopen | Remedy::Unclear => Self::Lost(text),
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
            // Kryoptic says so of an EDEK that is wrong.
            _ if matches!(error, Error::Pkcs11(RvError::DeviceError, _)) => Self::Unclear,
            Remedy::Refuse => Self::Invalid,
            Remedy::Unclear => Self::Unclear,
            _ => Self::Trouble(Trouble::new("to unwrap an EDEK", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn return_values_lead_to_their_remedies() {
        for (value, remedy) in [
            (RvError::HostMemory, Remedy::Repeat),
            (RvError::SessionHandleInvalid, Remedy::Reopen),
            (RvError::UserNotLoggedIn, Remedy::Reopen),
            (RvError::DeviceError, Remedy::Reopen),
            (RvError::DeviceRemoved, Remedy::Restart),
            (RvError::CryptokiNotInitialized, Remedy::Restart),
            (RvError::PinIncorrect, Remedy::Pin),
            (RvError::PinLocked, Remedy::Pin),
            (RvError::GeneralError, Remedy::Unclear),
            (RvError::MechanismInvalid, Remedy::Refuse),
            (RvError::VendorDefined(0x8000_0001), Remedy::Refuse),
        ] {
            assert_eq!(remedy_of(value), remedy, "{value:?}");
        }
    }

    #[test]
    fn a_refused_unwrap_blames_the_edek_only_where_the_token_can_mean_it() {
        let of = |value| Refusal::of(&Error::Pkcs11(value, Function::UnwrapKey));
        assert!(matches!(of(RvError::WrappedKeyInvalid), Refusal::Invalid));
        assert!(matches!(of(RvError::GeneralError), Refusal::Unclear));
        assert!(matches!(of(RvError::DeviceError), Refusal::Unclear));
        assert!(matches!(of(RvError::SessionClosed), Refusal::Trouble(Trouble::Lost(_))));
        assert!(matches!(of(RvError::DeviceRemoved), Refusal::Trouble(Trouble::Gone(_))));
    }
}
