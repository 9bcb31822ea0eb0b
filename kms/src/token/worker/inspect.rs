//! `strongroom token inspect`: one look at a token, in a process of its own, as it loads the module.

use strongroom_proto::{Failure, Reason};

use super::{WorkerOptions, engine::Engine, queue::Gone};
use crate::token::{TokenKeyVersion, TokenProfile};

/// What there is to say of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it is and can do.
    pub profile: TokenProfile,
    /// The key versions in it; `None` without a login.
    pub versions: Option<Vec<TokenKeyVersion>>,
}

/// Looks at a token: without a login at what it offers, with one at what it was seen to do and which keys it holds. The login
/// is tried once.
///
/// # Errors
/// `token-unavailable`, `pin-rejected`.
pub fn inspect(options: &WorkerOptions, log_in: bool) -> Result<Inspection, Failure> {
    let mut engine = Engine::open(options)?;
    let versions = if log_in {
        engine.log_in().map_err(gone)??;
        Some(versions(&mut engine)?)
    } else {
        None
    };
    let profile = engine.inspect().map_err(gone)??;
    Ok(Inspection { profile, versions })
}

fn versions(engine: &mut Engine) -> Result<Vec<TokenKeyVersion>, Failure> {
    let mut versions = Vec::new();
    let (mut anew, mut after) = (true, None);
    loop {
        let page = engine.run(|vault| vault.list(anew, after.clone()));
        let page = page.map_err(gone)??;
        versions.extend(page.versions);
        if !page.more {
            return Ok(versions);
        }
        (anew, after) = (false, page.last);
    }
}

fn gone(_: Gone) -> Failure {
    Failure::new(
        Reason::TokenUnavailable,
        "the token was lost while it was looked at; the log above says how",
    )
}
