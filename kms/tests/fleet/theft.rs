//! A clone on its way opens nowhere as a readable key, whatever the user's PIN is used for, past the token layer.

use std::process::Command;

use strongroom_kms::hsm::Hsm;

use crate::{
    fixture::{example, fresh, module},
    pair::{LABELS, Pair},
};

/// What is refused because it could be done under a trusted key only.
const UNTRUSTED: &str = "KeyNotWrappable";

#[tokio::test]
async fn no_clone_or_key_can_be_had_with_the_users_pin() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    fleet.stop().await;

    let clone = thief(&pair, "intercept", LABELS[0], true, &[]);
    for label in LABELS {
        let attempts = thief(&pair, "steal", label, true, &[clone.trim()]);
        let done: Vec<_> = attempts.lines().filter(|line| line.ends_with(": done")).collect();
        assert_eq!(done, [""; 0], "on {label}; all:\n{attempts}");
        assert!(attempts.lines().count() > 30, "{attempts}");
        let wrapped = attempts.lines().filter(|line| line.starts_with("EZ key wrapped"));
        for line in wrapped {
            assert!(line.ends_with(UNTRUSTED), "{line}");
        }
        let attempts = thief(&pair, "peep", label, false, &[]);
        assert!(!attempts.contains(": done"), "{attempts}");
    }
}

fn thief(pair: &Pair, command: &str, label: &str, with_pin: bool, rest: &[&str]) -> String {
    let mut process = Command::new(example("token_thief"));
    process.arg(command).arg(module()).arg(label);
    if with_pin {
        process.arg(pair.path("pin"));
    }
    let output = process.args(rest).envs([pair.environment(label)]).output();
    let output = output.expect("the example token_thief is built with the tests");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}
