//! Who may do what with which key. Decisions are Cedar's; the schema is compiled in, the policies are one
//! file that is validated against it at load. Nothing is permitted unless a policy says so, and a policy
//! that fails while it is evaluated refuses the call.

mod load;

use std::{fmt, path::Path};

use cedar_policy::{
    Authorizer, Context, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId,
    PolicySet, Request, RestrictedExpression,
};
use strongroom_proto::{KeyName, transport::PeerIdentity};

pub use load::PolicyError;

/// The policy file that comes with Strongroom, duties apart.
pub const SAMPLE: &str = include_str!("../../policy/sample.cedar");

/// What somebody wants to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create, roll, confirm.
    Manage,
    /// Describe, list.
    View,
    /// Make EDEKs of fresh DEKs.
    Mint,
    /// Wrap EDEKs again under the newest version.
    Rewrap,
    /// Be given DEKs.
    Unwrap,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Self; 5] = [Self::Manage, Self::View, Self::Mint, Self::Rewrap, Self::Unwrap];

    /// The action's word in policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manage => "manage",
            Self::View => "view",
            Self::Mint => "mint",
            Self::Rewrap => "rewrap",
            Self::Unwrap => "unwrap",
        }
    }

    /// How a sentence says it: `may not …`.
    const fn phrase(self) -> &'static str {
        match self {
            Self::Manage => "manage",
            Self::View => "view",
            Self::Mint => "mint with",
            Self::Rewrap => "re-wrap with",
            Self::Unwrap => "unwrap with",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
    pub fn decide(&self, who: &PeerIdentity, action: Action, key: &KeyName) -> Decision {
        let resource = uid(&self.types.key, key.as_str());
        let Some((request, entities)) = self.question(who, action, &resource, key) else {
            return Decision::failure();
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            tracing::error!(%error, who = %who.short(), %action, %key, "a policy failed to evaluate: the call is refused");
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
        who: &PeerIdentity,
        action: Action,
        resource: &EntityUid,
        key: &KeyName,
    ) -> Option<(Request, Entities)> {
        let name = RestrictedExpression::new_string(key.as_str().to_owned());
        let entity = Entity::new(
            resource.clone(),
            [("name".to_owned(), name)].into(),
            std::collections::HashSet::new(),
        );
        let entities = Entities::from_entities([entity.ok()?], None).ok()?;
        let action = uid(&self.types.action, action.as_str());
        let request = Request::new(self.principal(who), action, resource.clone(), Context::empty(), None);
        Some((request.ok()?, entities))
    }

    fn principal(&self, who: &PeerIdentity) -> EntityUid {
        match who {
            PeerIdentity::User(name) => uid(&self.types.user, name.as_str()),
            PeerIdentity::Kms => uid(&self.types.service, "kms"),
            PeerIdentity::Metadata => uid(&self.types.service, "metadata"),
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
            service: name("Service"),
            key: name("Key"),
            action: name("Action"),
        }
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> PeerIdentity {
        format!("spiffe://strongroom/{text}").parse().expect("an identity")
    }

    fn sample() -> Policy {
        Policy::of(load::parse(Path::new("sample.cedar"), SAMPLE).expect("the sample is valid"))
    }

    #[test]
    fn the_sample_keeps_duties_apart() {
        let policy = sample();
        let key = "payroll".parse().expect("a key name");
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
                let decision = policy.decide(&identity(who), action, &key);
                assert_eq!(decision.allowed, allowed.contains(&action), "{who} {action}");
            }
        }
    }

    #[test]
    fn a_decision_names_its_policies_and_a_refusal_its_reason() {
        let policy = sample();
        let key: KeyName = "payroll".parse().expect("a key name");
        let alice = policy.decide(&identity("user/alice"), Action::Unwrap, &key);
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
            let who = identity(who);
            let decision = policy.decide(&who, Action::Unwrap, &key);
            assert_eq!(decision.refusal(&who, Action::Unwrap, &key), sentence);
        }
    }

    #[test]
    fn a_grant_of_one_key_is_a_grant_of_one_key() {
        let text = r#"@id("one") permit (principal == User::"bob", action == Action::"unwrap", resource == Key::"a");
            @id("prefix") permit (principal == User::"bob", action == Action::"view", resource)
            when { resource.name like "a*" };"#;
        let policy = Policy::of(load::parse(Path::new("p.cedar"), text).expect("valid"));
        let bob = identity("user/bob");
        for (action, key, allowed) in [
            (Action::Unwrap, "a", true),
            (Action::Unwrap, "ab", false),
            (Action::View, "ab", true),
            (Action::View, "b", false),
        ] {
            let decision = policy.decide(&bob, action, &key.parse().expect("a key name"));
            assert_eq!(decision.allowed, allowed, "{action} {key}");
        }
    }
}
