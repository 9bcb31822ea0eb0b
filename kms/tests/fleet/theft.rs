//! A clone on its way opens nowhere as a readable key, whatever the user's PIN is used for, past the token layer.

use strongroom_kms::hsm::Hsm;

use crate::{
    fixture::fresh,
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

    let clone = pair.thief("intercept", LABELS[0], true, &[]);
    for label in LABELS {
        let attempts = pair.thief("steal", label, true, &[clone.trim()]);
        let done: Vec<_> = attempts.lines().filter(|line| line.ends_with(": done")).collect();
        assert_eq!(done, [""; 0], "on {label}; all:\n{attempts}");
        assert!(attempts.lines().count() > 40, "{attempts}");
        let wrapped = attempts.lines().filter(|line| line.starts_with("EZ key wrapped"));
        for line in wrapped {
            assert!(line.ends_with(UNTRUSTED), "{line}");
        }
        let attempts = pair.thief("peep", label, false, &[]);
        assert!(!attempts.contains(": done"), "{attempts}");
    }
}
