//! One set of policies and groups: validated together, asked together, replaced together.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use cedar_policy::{
    Authorizer, Context as CedarContext, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, PolicyId, PolicySet, Request, RestrictedExpression,
};
use strongroom_proto::{EdekSuite, groups::has_end, transport::PeerIdentity};

use super::{
    Action, Context, Decision, Groups, KeyFacts, PolicyError, Principal,
    cache::{Cache, DECISIONS_MAX},
    load,
};

/// The files that a set is made of.
#[derive(Debug, Clone)]
pub struct PolicyFiles {
    /// Policies, in Cedar.
    pub policy: PathBuf,
    /// Who is in which group, in TOML; without it, only bearer tokens bring groups.
    pub groups: Option<PathBuf>,
}

/// What the files of a set say, read and not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Texts {
    policy: String,
    groups: Option<String>,
}

/// Where a policy is, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyName {
    /// Its `@id`, or the name that Cedar gave it: `policy0` is the first of the file.
    pub id: String,
    /// The line on which it starts, from 1.
    pub line: usize,
}

/// A validated set of policies and groups.
pub struct Rules {
    policies: PolicySet,
    names: HashMap<PolicyId, PolicyName>,
    groups: Groups,
    fingerprint: String,
    /// Whether the files say that they are whole: the policy and the groups.
    ends: (bool, bool),
    authorizer: Authorizer,
    types: Types,
    cache: Cache,
}

/// Names of the schema's entity types, parsed once.
struct Types {
    user: EntityTypeName,
    group: EntityTypeName,
    service: EntityTypeName,
    key: EntityTypeName,
    action: EntityTypeName,
}

impl Rules {
    /// Reads and validates the files.
    ///
    /// # Errors
    /// Names the file, the line and the reason.
    pub fn load(files: &PolicyFiles) -> Result<Self, PolicyError> {
        Self::of(files, &Texts::read(files)?)
    }

    /// Validates the text of a policy file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, policy: &str, groups: Groups) -> Result<Self, PolicyError> {
        let policies = load::parse(path, policy)?;
        Ok(Self {
            names: load::names(path, policy, &policies)?,
            policies,
            groups,
            fingerprint: fingerprint(&[policy.as_bytes()]),
            ends: (false, false),
            authorizer: Authorizer::new(),
            types: Types::new(),
            cache: Cache::new(DECISIONS_MAX),
        })
    }

    pub(super) fn of(files: &PolicyFiles, texts: &Texts) -> Result<Self, PolicyError> {
        let groups = match (&files.groups, &texts.groups) {
            (Some(path), Some(text)) => Groups::parse(path, text)?,
            _ => Groups::default(),
        };
        Ok(Self {
            fingerprint: texts.fingerprint(),
            ends: texts.ends(),
            ..Self::parse(&files.policy, &texts.policy, groups)?
        })
    }

    /// Refuses texts without the last line that these rules' files had: they may have been cut.
    pub(super) fn check_ends(&self, files: &PolicyFiles, texts: &Texts) -> Result<(), PolicyError> {
        let (had, has) = (self.ends, texts.ends());
        let cut = match &files.groups {
            _ if had.0 && !has.0 => &files.policy,
            Some(groups) if had.1 && !has.1 => groups,
            _ => return Ok(()),
        };
        Err(PolicyError::Cut { path: cut.clone() })
    }

    /// SHA-256 over the files, in hex.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many policies there are.
    #[must_use]
    pub fn policy_count(&self) -> usize {
        self.names.len()
    }

    /// The line of the policy that a decision calls by this name.
    #[must_use]
    pub fn line(&self, policy: &str) -> Option<usize> {
        let named = self.names.values().find(|name| name.id == policy);
        named.map(|name| name.line)
    }

    /// Decides whether `who` may do `action` with `key`. A decision that was made before is remembered.
    #[must_use]
    pub fn decide(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> Decision {
        self.cache
            .get(who, action, key, context, || self.evaluate(who, action, key, context))
    }

    /// As [`Self::decide`], by evaluating the policies, whatever is remembered.
    #[must_use]
    pub fn evaluate(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> Decision {
        let Some((request, entities)) = self.question(who, action, key, context) else {
            tracing::error!(who = %who.identity.short(), %action, key = %key.name, "a question cannot be put to the policies: the call is refused");
            return Decision::failure();
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            tracing::error!(%error, who = %who.identity.short(), %action, key = %key.name, "a policy failed to evaluate: the call is refused");
            return Decision::failure();
        }
        let name = |id: &PolicyId| {
            self.names
                .get(id)
                .map_or_else(|| id.to_string(), |name| name.id.clone())
        };
        let mut policies: Vec<_> = response.diagnostics().reason().map(name).collect();
        policies.sort();
        Decision {
            allowed: response.decision() == CedarDecision::Allow,
            policies: policies.into(),
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
        let caller = Entity::new(principal.clone(), HashMap::new(), self.groups_of(who));
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

    /// Only users are in groups.
    fn groups_of(&self, who: &Principal<'_>) -> HashSet<EntityUid> {
        let PeerIdentity::User(user) = who.identity else {
            return HashSet::new();
        };
        let groups = who.groups.iter().chain(self.groups.of(user));
        groups.map(|group| uid(&self.types.group, group.as_str())).collect()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({} policies, {})", self.names.len(), self.fingerprint)
    }
}

impl Texts {
    pub(super) fn read(files: &PolicyFiles) -> Result<Self, PolicyError> {
        Ok(Self {
            policy: load::read(&files.policy)?,
            groups: files.groups.as_deref().map(load::read).transpose()?,
        })
    }

    fn ends(&self) -> (bool, bool) {
        let groups = self.groups.as_deref().is_some_and(has_end);
        (has_end(&self.policy), groups)
    }

    pub(super) fn fingerprint(&self) -> String {
        let groups = self.groups.as_ref().map(String::as_bytes);
        let parts: Vec<&[u8]> = [Some(self.policy.as_bytes()), groups].into_iter().flatten().collect();
        fingerprint(&parts)
    }
}

/// SHA-256 over the parts, each preceded by its length.
fn fingerprint(parts: &[&[u8]]) -> String {
    let mut sum = digest::Context::new(&digest::SHA256);
    for part in parts {
        sum.update(&(part.len() as u64).to_be_bytes());
        sum.update(part);
    }
    hex::encode(sum.finish())
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

fn attributes(key: &KeyFacts) -> HashMap<String, RestrictedExpression> {
    [
        ("name".to_owned(), text(key.name.as_str())),
        ("suite".to_owned(), text(key.suite.map_or("", EdekSuite::as_str))),
        ("sealed_required".to_owned(), truth(key.sealed_required)),
    ]
    .into()
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
