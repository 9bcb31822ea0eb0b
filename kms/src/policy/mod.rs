//! Who may do what with which key. Decisions are Cedar's; the schema is compiled in, the policies and the groups of
//! users are files that are validated at load and watched ([`Policy`]). Nothing is permitted unless a policy says so,
//! and a policy that fails while it is evaluated refuses the call.

mod cache;
pub mod hadoop;
mod live;
mod load;
mod question;
mod rules;
mod watch;

use std::sync::Arc;

use strongroom_proto::{KeyName, transport::PeerIdentity};

pub use live::{Policy, PolicyStatus};
pub use load::PolicyError;
pub use question::{Action, Authentication, Context, KeyFacts, Principal, WordError};
pub use rules::{PolicyFiles, PolicyName, Rules};
pub use strongroom_proto::groups::{GroupName, Groups};

/// The policy file that comes with Strongroom, duties apart.
pub const SAMPLE: &str = include_str!("../../policy/sample.cedar");

/// An answer of the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// The `@id`s of the policies that decided, sorted; none if no policy permits the call.
    pub policies: Arc<[String]>,
    /// Whether a policy could not be evaluated, which refuses the call.
    pub failed: bool,
}

impl Decision {
    /// Says who may not do what with which key, and why.
    #[must_use]
    pub fn refusal(&self, who: &PeerIdentity, action: Action, key: &KeyName) -> String {
        let why = if self.failed {
            "a policy failed to evaluate; the key service's log says which".to_owned()
        } else if self.policies.is_empty() {
            "no policy permits it".to_owned()
        } else {
            format!("forbidden by {}", self.policies.join(", "))
        };
        format!("{} may not {} key {key} ({why})", who.short(), action.phrase())
    }
}

impl Decision {
    fn failure() -> Self {
        Self {
            allowed: false,
            policies: [].into(),
            failed: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strongroom_proto::{EdekSuite, ZoneId};

    use super::*;

    fn identity(text: &str) -> PeerIdentity {
        format!("spiffe://strongroom/{text}").parse().expect("an identity")
    }

    fn facts(key: &str) -> KeyFacts {
        KeyFacts::unknown(key.parse().expect("a key name"))
    }

    fn ask(policy: &Rules, who: &str, action: Action, key: &str) -> Decision {
        let who = identity(who);
        policy.decide(&Principal::certified(&who), action, &facts(key), &Context::of("test"))
    }

    fn rules(text: &str) -> Rules {
        Rules::parse(Path::new("p.cedar"), text, Groups::default()).expect("valid")
    }

    fn sample() -> Rules {
        rules(SAMPLE)
    }

    #[test]
    fn the_sample_keeps_duties_apart() {
        let policy = sample();
        for (who, allowed) in [
            ("user/keyadmin", &[Action::Manage, Action::View][..]),
            ("service/metadata", &[Action::Mint, Action::Rewrap]),
            ("user/alice", &[Action::Unwrap]),
            ("user/fsadmin", &[]),
            ("user/guest", &[]),
            ("user/metadata", &[]),
            ("service/kms", &[]),
            ("service/block/node-1", &[]),
        ] {
            for action in Action::ALL {
                let decision = ask(&policy, who, action, "payroll");
                assert_eq!(decision.allowed, allowed.contains(&action), "{who} {action}");
            }
        }
    }

    #[test]
    fn a_decision_names_its_policies_and_a_refusal_its_reason() {
        let policy = sample();
        let key: KeyName = "payroll".parse().expect("a key name");
        let alice = ask(&policy, "user/alice", Action::Unwrap, "payroll");
        assert_eq!(*alice.policies, ["alice-opens-files"]);
        for (who, sentence) in [
            (
                "user/guest",
                "user guest may not unwrap with key payroll (no policy permits it)",
            ),
            (
                "service/metadata",
                "service metadata may not unwrap with key payroll (forbidden by services-never-unwrap)",
            ),
        ] {
            let decision = ask(&policy, who, Action::Unwrap, "payroll");
            assert_eq!(decision.refusal(&identity(who), Action::Unwrap, &key), sentence);
        }
    }

    #[test]
    fn a_grant_of_one_key_is_a_grant_of_one_key() {
        let text = r#"@id("one") permit (principal == User::"bob", action == Action::"unwrap", resource == Key::"a");
            @id("prefix") permit (principal == User::"bob", action == Action::"view", resource)
            when { resource.name like "a*" };"#;
        let policy = rules(text);
        for (action, key, allowed) in [
            (Action::Unwrap, "a", true),
            (Action::Unwrap, "ab", false),
            (Action::View, "ab", true),
            (Action::View, "b", false),
        ] {
            let decision = ask(&policy, "user/bob", action, key);
            assert_eq!(decision.allowed, allowed, "{action} {key}");
        }
    }

    #[test]
    fn groups_tags_suites_zones_and_circumstances_decide() {
        let zone = ZoneId::generate();
        let text = format!(
            r#"@id("hr") permit (principal in Group::"hr", action == Action::"unwrap", resource)
            when {{ resource.hasTag("team") && resource.getTag("team") == "hr" && resource.suite == "kw" }};
            @id("zone") permit (principal, action == Action::"mint", resource)
            when {{ context has zone && context.zone == "{zone}" }};
            @id("sealed") forbid (principal, action == Action::"unwrap", resource)
            when {{ resource.sealed_required && !context.sealed }};
            @id("by-card") permit (principal, action == Action::"manage", resource)
            when {{ context.operation == "roll" && context.authentication == "certificate" }};"#
        );
        let policy = rules(&text);
        let (bob, hr) = (identity("user/bob"), ["hr".parse().expect("a group")]);
        let certified = Principal::certified(&bob);
        let in_hr = Principal {
            groups: &hr,
            authentication: Authentication::Bearer,
            ..certified
        };
        let mut key = facts("payroll");
        key.suite = Some(EdekSuite::Kw);
        key.tags.insert("team".to_owned(), "hr".to_owned());
        let mut strict = key.clone();
        strict.sealed_required = true;
        let (unwrap, roll) = (Context::of("unwrap"), Context::of("roll"));
        for (number, (who, action, key, context, allowed)) in [
            (&in_hr, Action::Unwrap, &key, unwrap, true),
            (&certified, Action::Unwrap, &key, unwrap, false),
            (&in_hr, Action::Unwrap, &facts("payroll"), unwrap, false),
            (&in_hr, Action::Unwrap, &strict, unwrap, false),
            (&in_hr, Action::Unwrap, &strict, unwrap.sealed(true), true),
            (&certified, Action::Mint, &key, Context::of("mint").zone(zone), true),
            (
                &certified,
                Action::Mint,
                &key,
                Context::of("mint").zone(ZoneId::generate()),
                false,
            ),
            (&certified, Action::Mint, &key, Context::of("mint"), false),
            (&certified, Action::Manage, &key, roll, true),
            (&in_hr, Action::Manage, &key, roll, false),
            (&certified, Action::Manage, &key, Context::of("destroy"), false),
        ]
        .into_iter()
        .enumerate()
        {
            let decision = policy.decide(who, action, key, &context);
            assert_eq!((decision.allowed, decision.failed), (allowed, false), "case {number}");
        }
    }
}
