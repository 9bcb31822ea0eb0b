//! `strongroom token list` and `token resync`: the tokens behind a running key service.

use strongroom_kms_admin::{ResyncedToken, TokenAlarm, TokenInfo, Tokens};
use strongroom_proto::{Failure, Reason};

use super::session::Session;
use crate::{
    error::Error,
    output::{Output, note, table, time_text},
};

/// `strongroom token list`
pub(super) async fn list(session: &Session, output: Output) -> Result<(), Error> {
    let seen = session.tokens()?.list().await?;
    output.result(&list_json(&seen), || list_text(&seen))
}

/// `strongroom token resync`
pub(super) async fn resync(session: &Session, label: &str, output: Output) -> Result<(), Error> {
    let so_far = |done: &ResyncedToken| note(&format!("token {label}: {} versions cloned so far", done.cloned));
    let done = session.tokens()?.resync(label, so_far).await?;
    let document = serde_json::json!({
        "label": label,
        "cloned": done.cloned,
        "left": done.left,
        "reasons": done.reasons.iter().map(|(version, why)| serde_json::json!({"version": version, "why": why}))
            .collect::<Vec<_>>(),
    });
    output.result(&document, || resync_text(label, &done))?;
    if done.left == 0 {
        return Ok(());
    }
    Err(Error::from(Failure::new(
        Reason::TokenRefused,
        format!(
            "token {label:?} still lacks {} versions; see the reasons, and repeat the command once they are mended",
            done.left
        ),
    )))
}

fn list_json(seen: &Tokens) -> serde_json::Value {
    let token = |token: &TokenInfo| {
        serde_json::json!({
            "label": token.label,
            "state": token.state,
            "why": token.why,
            "calls": token.calls,
            "edeks": token.edeks,
            "held": token.held,
            "lacking": token.lacking,
            "checked_ms": token.checked_ms,
        })
    };
    let alarm =
        |alarm: &TokenAlarm| serde_json::json!({"time_ms": alarm.time_ms, "token": alarm.token, "what": alarm.what});
    serde_json::json!({
        "tokens": seen.tokens.iter().map(token).collect::<Vec<_>>(),
        "alarms": seen.alarms.iter().map(alarm).collect::<Vec<_>>(),
    })
}

fn list_text(seen: &Tokens) -> String {
    let row = |token: &TokenInfo| {
        [
            token.label.clone(),
            token.state.to_owned(),
            token.calls.to_string(),
            token.edeks.to_string(),
            token.held.to_string(),
            token.lacking.to_string(),
            token.checked_ms.map_or_else(|| "-".to_owned(), time_text),
            token.why.clone(),
        ]
    };
    let rows: Vec<_> = seen.tokens.iter().map(row).collect();
    let mut text = table(
        [
            "TOKEN", "STATE", "CALLS", "EDEKS", "VERSIONS", "LACKING", "COMPARED", "WHY",
        ],
        &rows,
    );
    for alarm in &seen.alarms {
        text.push_str(&format!("\nALARM {} {}", time_text(alarm.time_ms), alarm.what));
    }
    text
}

fn resync_text(label: &str, done: &ResyncedToken) -> String {
    let mut text = format!(
        "token {label}: {} versions cloned, {} still lacking",
        done.cloned, done.left
    );
    for (version, why) in &done.reasons {
        text.push_str(&format!("\n  {version}: {why}"));
    }
    text
}
