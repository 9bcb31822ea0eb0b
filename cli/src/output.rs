//! What a command prints: text for people, or JSON with `--json`. Standard error carries progress, warnings and errors.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
};

use serde::Serialize;

use crate::error::{Error, chain};

/// Where results go and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Results as JSON (`--json`) or text.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// One result: `value` as a JSON line, or `text`'s lines.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { json_line(value) } else { print(&text()) }
    }

    /// An error, once, with its whole chain.
    pub(crate) fn error(self, error: &Error) {
        let message = chain(error);
        if self.json {
            let document = serde_json::json!({"error": {
                "reason": error.reason(),
                "message": message,
                "exit_code": error.exit() as u8,
            }});
            write_note(&document.to_string());
        } else {
            note(&format!("strongroom: {message}"));
        }
    }
}

/// One JSON document on a line of its own on standard output.
fn json_line<T: Serialize>(value: &T) -> Result<(), Error> {
    let line = serde_json::to_string(value).map_err(|error| Error::Output(error.into()))?;
    write_line(&line)
}

/// Lines for people on standard output, see [`harmless`]. An empty text prints nothing.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    write_line(&harmless(text))
}

fn write_line(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// A line for people on standard error, see [`harmless`].
pub(crate) fn note(line: &str) {
    write_note(&harmless(line));
}

/// Nobody is left to hear it if this fails.
fn write_note(line: &str) {
    _ = writeln!(io::stderr().lock(), "{line}");
}

/// `text` as a terminal may get it. Anybody may put a terminal's commands into a file's name: control characters, and
/// those that turn the direction of writing, appear as Rust writes them, `\u{1b}`. Line ends stay.
fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && commands_terminal(character))
}

/// A name or message on one line: [`harmless`], and line ends appear as `\n`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, commands_terminal)
}

fn escaped(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if wanted(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

fn commands_terminal(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether progress bars have somebody to look at them.
pub(crate) fn progress_wanted() -> bool {
    io::stderr().is_terminal()
}

/// Rows under headings, columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = vec![line(&widths, headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&widths, row.iter().map(String::as_str))));
    lines.join("\n")
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let padded: Vec<String> = widths
        .iter()
        .zip(cells)
        .map(|(width, cell)| format!("{cell:<width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned()
}

/// Bytes for people, in powers of 1024.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time in milliseconds since 1970 as people read it, UTC.
pub(crate) fn time_text(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || "-".to_owned(),
            |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(harmless("größe ☃\nnext"), "größe ☃\nnext");
        assert_eq!(harmless("a\u{1b}[31m\r\u{9b}2J"), "a\\u{1b}[31m\\r\\u{9b}2J");
        assert_eq!(one_line("exe\u{202e}gpj.\nfake"), "exe\\u{202e}gpj.\\nfake");
    }

    #[test]
    fn tables_align_and_end_without_spaces() {
        let rows = [["a".to_owned(), "1".to_owned()], ["größe".to_owned(), "22".to_owned()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME   N\na      1\ngröße  22");
    }

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00Z");
        assert_eq!(time_text(u64::MAX), "-");
        assert_eq!(human_bytes(1536), "1.50 KiB");
    }
}
