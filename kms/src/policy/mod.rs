//! Who may do what with which key. Decisions are Cedar's; the schema is compiled in, the policies are one
//! file that is validated against it at load. Nothing is permitted unless a policy says so, and a policy
//! that fails while it is evaluated refuses the call.

mod load;
mod question;

use std::{collections::HashMap, fmt, path::Path};

use cedar_policy::{
    Authorizer, Context as CedarContext, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, PolicyId, PolicySet, Request, RestrictedExpression,
};
use strongroom_proto::{EdekSuite, KeyName, transport::PeerIdentity};

pub use load::PolicyError;
pub use question::{Action, Authentication, Context, GroupName, KeyFacts, Principal, WordError};

/// The policy file that comes with Strongroom, duties apart.
pub const SAMPLE: &str = include_str!("../../policy/sample.cedar");

/// An answer of the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// The `@id`s of the policies that decided, sorted; none if no policy permits the call.
    pub policies: Vec<String>,
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

/// A validated set of policies.
pub struct Policy {
    policies: PolicySet,
    authorizer: Authorizer,
    types: Types,
}

/// Names of the schema's entity types, parsed once.
struct Types {
    user: EntityTypeName,
    group: EntityTypeName,
    service: EntityTypeName,
    key: EntityTypeName,
    action: EntityTypeName,
}

impl Policy {
    /// Reads and validates a policy file.
    ///
    /// # Errors
    /// Names the file, the line and the reason.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        load::read(path).map(Self::of)
    }

    fn of(policies: PolicySet) -> Self {
        Self {
            policies,
            authorizer: Authorizer::new(),
            types: Types::new(),
        }
    }

    /// Decides whether `who` may do `action` with `key`.
    #[must_use]
    pub fn decide(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> Decision {
        let Some((request, entities)) = self.question(who, action, key, context) else {
            tracing::error!(who = %who.identity.short(), %action, key = %key.name, "a question cannot be put to the policies: the call is refused");
            return Decision::failure();
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            tracing::error!(%error, who = %who.identity.short(), %action, key = %key.name, "a policy failed to evaluate: the call is refused");
            return Decision::failure();
        }
        let mut policies: Vec<_> = response.diagnostics().reason().map(|id| self.name(id)).collect();
        policies.sort();
        Decision {
            allowed: response.decision() == CedarDecision::Allow,
            policies,
            failed: false,
        }
    }

    fn question(
        &self,
        who: &Principal<'_>,
        action: Action,
        key: &KeyFacts,
        context: &Context<'_>,
    ) -> Option<(Request, Entities)> {
        let principal = self.principal(who.identity);
        let groups = who.groups.iter().map(|group| uid(&self.types.group, group.as_str()));
        let caller = Entity::new(principal.clone(), HashMap::new(), groups.collect());
        let resource = uid(&self.types.key, key.name.as_str());
        let tags = key.tags.iter().map(|(name, value)| (name.clone(), text(value)));
        let key = Entity::new_with_tags(resource.clone(), attributes(key), [], tags);
        let entities = Entities::from_entities([caller.ok()?, key.ok()?], None).ok()?;
        let action = uid(&self.types.action, action.as_str());
        let request = Request::new(principal, action, resource, circumstances(who, context)?, None);
        Some((request.ok()?, entities))
    }

    fn principal(&self, who: &PeerIdentity) -> EntityUid {
        match who {
            PeerIdentity::User(name) => uid(&self.types.user, name.as_str()),
            PeerIdentity::Kms => uid(&self.types.service, "kms"),
            PeerIdentity::Metadata => uid(&self.types.service, "metadata"),
            PeerIdentity::TokenWorker => uid(&self.types.service, "token-worker"),
            PeerIdentity::Block(node) => uid(&self.types.service, &format!("block/{node}")),
        }
    }

    /// The policy's `@id`, or the name Cedar gave it.
    fn name(&self, id: &PolicyId) -> String {
        match self.policies.annotation(id, "id") {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => id.to_string(),
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({} policies)", self.policies.policies().count())
    }
}

impl Decision {
    const fn failure() -> Self {
        Self {
            allowed: false,
            policies: Vec::new(),
            failed: true,
        }
    }
}

impl Types {
    fn new() -> Self {
        let name = |text: &str| text.parse().expect("a plain identifier is an entity type name");
        Self {
            user: name("User"),
            group: name("Group"),
            service: name("Service"),
            key: name("Key"),
            action: name("Action"),
        }
    }
}

fn attributes(key: &KeyFacts) -> [(String, RestrictedExpression); 3] {
    [
        ("name".to_owned(), text(key.name.as_str())),
        ("suite".to_owned(), text(key.suite.map_or("", EdekSuite::as_str))),
        ("sealed_required".to_owned(), truth(key.sealed_required)),
    ]
}

fn circumstances(who: &Principal<'_>, context: &Context<'_>) -> Option<CedarContext> {
    let always = [
        ("operation".to_owned(), text(context.operation)),
        ("authentication".to_owned(), text(who.authentication.as_str())),
        ("sealed".to_owned(), truth(context.sealed)),
    ];
    let zone = context.zone.map(|zone| ("zone".to_owned(), text(&zone.to_string())));
    CedarContext::from_pairs(always.into_iter().chain(zone)).ok()
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn truth(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use strongroom_proto::ZoneId;

    use super::*;

    fn identity(text: &str) -> PeerIdentity {
        format!("spiffe://strongroom/{text}").parse().expect("an identity")
    }

    fn facts(key: &str) -> KeyFacts {
        KeyFacts::unknown(key.parse().expect("a key name"))
    }

    fn ask(policy: &Policy, who: &str, action: Action, key: &str) -> Decision {
        let who = identity(who);
        policy.decide(&Principal::certified(&who), action, &facts(key), &Context::of("test"))
    }

    fn sample() -> Policy {
        Policy::of(load::parse(Path::new("sample.cedar"), SAMPLE).expect("the sample is valid"))
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
        assert_eq!(alice.policies, ["alice-opens-files"]);
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
        let policy = Policy::of(load::parse(Path::new("p.cedar"), text).expect("valid"));
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
        let policy = Policy::of(load::parse(Path::new("p.cedar"), &text).expect("valid"));
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
