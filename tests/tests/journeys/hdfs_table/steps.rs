//! What a row does to show itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use strongroom_tests::{Cli, Dev, Outcome, until};

use super::{Places, pointers};

/// Something that shows a row. `user> ` before a command has that user run it.
pub(super) enum Step {
    /// A command that succeeds.
    Done(&'static str),
    /// Steps that make ready for others.
    Given(&'static [Self]),
    /// One that succeeds and says these words on standard output.
    Says(&'static str, &'static [&'static str]),
    /// One that succeeds and does not say these words.
    Lacks(&'static str, &'static [&'static str]),
    /// One that succeeds and says these words, now or soon.
    Comes(&'static str, &'static [&'static str]),
    /// One that fails with this code and says these words on standard error.
    Refused(&'static str, i32, &'static [&'static str]),
    /// One whose JSON has this field, which from then on fills the field's name in braces.
    Keeps(&'static str, &'static str),
    /// The metadata service is killed and comes back.
    CrashesMetadata,
    /// What is so while the key service is away.
    WithoutKms(&'static [Self]),
    /// A test elsewhere: file and function.
    Test(&'static str, &'static str),
}

/// How long to wait for what comes soon.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// Runs steps in their order, up to the first that is not as it should be.
///
/// # Errors
/// What was otherwise.
pub(super) fn run(dev: &Dev, steps: &[Step], places: &mut Places) -> Result<(), String> {
    steps.iter().try_for_each(|step| step.run(dev, places))
}

impl Step {
    fn run(&self, dev: &Dev, places: &mut Places) -> Result<(), String> {
        match self {
            Self::Done(command) => says(dev, places, command, &[]),
            Self::Given(steps) => run(dev, steps, places),
            Self::Says(command, words) => says(dev, places, command, words),
            Self::Lacks(command, words) => lacks(dev, places, command, words),
            Self::Comes(command, words) => comes(dev, places, command, words),
            Self::Refused(command, code, words) => refused(dev, places, command, *code, words),
            Self::Keeps(command, field) => keep(dev, places, command, field),
            Self::CrashesMetadata => {
                crash_metadata(dev);
                Ok(())
            }
            Self::WithoutKms(steps) => without_kms(dev, steps, places),
            Self::Test(file, function) => pointers::check(file, function),
        }
    }
}

fn command(dev: &Dev, places: &Places, command: &str) -> Outcome {
    let command = places.fill(command);
    match command.split_once("> ") {
        Some((user, line)) => dev.cli().as_user(user).line(line),
        None => dev.cli().line(&command),
    }
}

/// Standard output of a command that has to succeed.
fn done(dev: &Dev, places: &Places, line: &str) -> Result<String, String> {
    let outcome = command(dev, places, line);
    if outcome.code == Some(0) {
        return Ok(String::from_utf8_lossy(&outcome.stdout).into_owned());
    }
    let (code, stderr) = (outcome.code, outcome.stderr);
    Err(format!("{}: code {code:?}: {stderr}", places.fill(line)))
}

fn says(dev: &Dev, places: &Places, line: &str, words: &[&str]) -> Result<(), String> {
    let said = done(dev, places, line)?;
    has(places, line, &said, words)
}

fn lacks(dev: &Dev, places: &Places, line: &str, words: &[&str]) -> Result<(), String> {
    let said = done(dev, places, line)?;
    let found = words
        .iter()
        .map(|word| places.fill(word))
        .find(|word| said.contains(word));
    found.map_or(Ok(()), |word| {
        Err(format!("{} says {word:?}: {said}", places.fill(line)))
    })
}

fn comes(dev: &Dev, places: &Places, line: &str, words: &[&str]) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        match says(dev, places, line, words) {
            Err(_) if Instant::now() < end => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn refused(dev: &Dev, places: &Places, line: &str, code: i32, words: &[&str]) -> Result<(), String> {
    let outcome = command(dev, places, line);
    if outcome.code != Some(code) {
        let (code, stderr) = (outcome.code, outcome.stderr);
        return Err(format!("{}: code {code:?}: {stderr}", places.fill(line)));
    }
    has(places, line, &outcome.stderr, words)
}

fn has(places: &Places, line: &str, said: &str, words: &[&str]) -> Result<(), String> {
    let words = words.iter().map(|word| places.fill(word));
    let missing: Vec<_> = words.filter(|word| !said.contains(word.as_str())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("{} does not say {missing:?}: {said}", places.fill(line)))
}

fn keep(dev: &Dev, places: &mut Places, line: &str, field: &str) -> Result<(), String> {
    let said = done(dev, places, line)?;
    let documents = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut values = documents.filter_map(|document| document[field].as_str().map(ToOwned::to_owned));
    let value = values.next().ok_or_else(|| format!("{line} has no {field}: {said}"))?;
    places.values.push((field.to_owned(), value));
    Ok(())
}

/// Kills the metadata service, and waits until the new process knows the block nodes again.
fn crash_metadata(dev: &Dev) {
    dev.crash("metadata");
    until("three nodes", LIMIT, || {
        let status = dev.cli().line("--json status");
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let alive = status["nodes"].as_array()?.iter().filter(|node| node["alive"] == true);
        (alive.count() == 3).then_some(())
    });
}

fn without_kms(dev: &Dev, steps: &[Step], places: &mut Places) -> Result<(), String> {
    dev.take_down("kms");
    let outcome = run(dev, steps, places);
    dev.bring_back("kms");
    until("the key service", LIMIT, || serves(&dev.cli()).then_some(()));
    outcome
}

fn serves(cli: &Cli) -> bool {
    cli.line("key show payroll").code == Some(0)
}
