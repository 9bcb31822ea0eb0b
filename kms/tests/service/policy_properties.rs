//! Policy decisions against a naive oracle: random sets of policies and groups, random questions, and an evaluation
//! written by hand that knows nothing of Cedar. Remembered decisions are held against fresh ones on the way.

use std::{collections::BTreeMap, path::Path};

use proptest::{collection, option, prelude::*, sample::select};
use strongroom_kms::policy::{Action, Authentication, Context, Groups, KeyFacts, Principal, Rules};
use strongroom_proto::{EdekSuite, ZoneId, transport::PeerIdentity};

use crate::seed;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const GROUPS: [&str; 3] = ["hr", "it", "/eu/it"];
const SERVICES: [&str; 2] = ["metadata", "block/node-1"];
const KEYS: [&str; 4] = ["a", "ab", "b", "a.b"];
const TAGS: [&str; 2] = ["team", "env"];
const VALUES: [&str; 2] = ["x", "y"];
const OPERATIONS: [&str; 3] = ["create", "roll", "unwrap"];
const ZONES: [u8; 2] = [1, 2];

/// Whom a policy is about.
#[derive(Debug, Clone)]
enum Who {
    Any,
    User(&'static str),
    Service(&'static str),
    InGroup(&'static str),
    AnyUser,
    AnyService,
}

/// What a policy demands of key and circumstances.
#[derive(Debug, Clone)]
enum Demand {
    NameStarts(&'static str),
    NameIs(&'static str),
    HasTag(&'static str),
    TagIs(&'static str, &'static str),
    SuiteIs(&'static str),
    SealedRequired,
    Sealed,
    ZoneIs(u8),
    OperationIs(&'static str),
    ByToken,
    Member(&'static str),
    Not(Box<Demand>),
    And(Box<Demand>, Box<Demand>),
    Or(Box<Demand>, Box<Demand>),
}

#[derive(Debug, Clone)]
struct Statement {
    permit: bool,
    who: Who,
    /// None means every action.
    actions: Option<Vec<Action>>,
    key: Option<&'static str>,
    when: Option<Demand>,
    unless: Option<Demand>,
}

#[derive(Debug, Clone)]
struct Question {
    user: Option<&'static str>,
    service: &'static str,
    token_groups: Vec<&'static str>,
    by_token: bool,
    action: Action,
    key: &'static str,
    suite: Option<EdekSuite>,
    sealed_required: bool,
    tags: BTreeMap<&'static str, &'static str>,
    operation: &'static str,
    sealed: bool,
    zone: Option<u8>,
}

fn zone(number: u8) -> ZoneId {
    ZoneId::from_bytes([number; 16])
}

// The oracle.

impl Question {
    /// `membership` is what the groups file says.
    fn in_group(&self, group: &str, membership: &[(&str, &str)]) -> bool {
        self.user
            .is_some_and(|user| self.token_groups.contains(&group) || membership.contains(&(group, user)))
    }
}

impl Who {
    fn is(&self, question: &Question, membership: &[(&str, &str)]) -> bool {
        match *self {
            Self::Any => true,
            Self::User(name) => question.user == Some(name),
            Self::Service(name) => question.user.is_none() && question.service == name,
            Self::InGroup(group) => question.in_group(group, membership),
            Self::AnyUser => question.user.is_some(),
            Self::AnyService => question.user.is_none(),
        }
    }
}

impl Demand {
    fn holds(&self, question: &Question, membership: &[(&str, &str)]) -> bool {
        match self {
            Self::NameStarts(start) => question.key.starts_with(start),
            Self::NameIs(name) => question.key == *name,
            Self::HasTag(tag) => question.tags.contains_key(tag),
            Self::TagIs(tag, value) => question.tags.get(tag) == Some(value),
            Self::SuiteIs(suite) => question.suite.map_or("", EdekSuite::as_str) == *suite,
            Self::SealedRequired => question.sealed_required,
            Self::Sealed => question.sealed,
            Self::ZoneIs(zone) => question.zone == Some(*zone),
            Self::OperationIs(operation) => question.operation == *operation,
            Self::ByToken => question.by_token,
            Self::Member(group) => question.in_group(group, membership),
            Self::Not(inner) => !inner.holds(question, membership),
            Self::And(a, b) => a.holds(question, membership) && b.holds(question, membership),
            Self::Or(a, b) => a.holds(question, membership) || b.holds(question, membership),
        }
    }
}

impl Statement {
    fn applies(&self, question: &Question, membership: &[(&str, &str)]) -> bool {
        self.who.is(question, membership)
            && self
                .actions
                .as_ref()
                .is_none_or(|actions| actions.contains(&question.action))
            && self.key.is_none_or(|key| key == question.key)
            && self
                .when
                .as_ref()
                .is_none_or(|demand| demand.holds(question, membership))
            && !self
                .unless
                .as_ref()
                .is_some_and(|demand| demand.holds(question, membership))
    }
}

/// Whether the call may go on, and the numbers of the statements that decided.
fn oracle(statements: &[Statement], question: &Question, membership: &[(&str, &str)]) -> (bool, Vec<String>) {
    let applying = |permit: bool| -> Vec<String> {
        let all = statements.iter().enumerate();
        let applying = all.filter(|(_, s)| s.permit == permit && s.applies(question, membership));
        let mut names: Vec<_> = applying.map(|(number, _)| format!("p{number}")).collect();
        names.sort();
        names
    };
    let (forbids, permits) = (applying(false), applying(true));
    if forbids.is_empty() {
        (!permits.is_empty(), permits)
    } else {
        (false, forbids)
    }
}

// The same in Cedar.

impl Who {
    fn cedar(&self) -> String {
        match self {
            Self::Any => "principal".to_owned(),
            Self::User(name) => format!("principal == User::{name:?}"),
            Self::Service(name) => format!("principal == Service::{name:?}"),
            Self::InGroup(group) => format!("principal in Group::{group:?}"),
            Self::AnyUser => "principal is User".to_owned(),
            Self::AnyService => "principal is Service".to_owned(),
        }
    }
}

impl Demand {
    fn cedar(&self) -> String {
        match self {
            Self::NameStarts(start) => format!("resource.name like \"{start}*\""),
            Self::NameIs(name) => format!("resource == Key::{name:?}"),
            Self::HasTag(tag) => format!("resource.hasTag({tag:?})"),
            Self::TagIs(tag, value) => format!("(resource.hasTag({tag:?}) && resource.getTag({tag:?}) == {value:?})"),
            Self::SuiteIs(suite) => format!("resource.suite == {suite:?}"),
            Self::SealedRequired => "resource.sealed_required".to_owned(),
            Self::Sealed => "context.sealed".to_owned(),
            Self::ZoneIs(number) => format!("(context has zone && context.zone == \"{}\")", zone(*number)),
            Self::OperationIs(operation) => format!("context.operation == {operation:?}"),
            Self::ByToken => "context.authentication == \"bearer\"".to_owned(),
            Self::Member(group) => format!("principal in Group::{group:?}"),
            Self::Not(inner) => format!("!({})", inner.cedar()),
            Self::And(a, b) => format!("({} && {})", a.cedar(), b.cedar()),
            Self::Or(a, b) => format!("({} || {})", a.cedar(), b.cedar()),
        }
    }
}

impl Statement {
    fn cedar(&self, number: usize) -> String {
        let actions = self.actions.as_ref().map_or_else(String::new, |actions| {
            let list: Vec<_> = actions.iter().map(|action| format!("Action::\"{action}\"")).collect();
            format!(" in [{}]", list.join(", "))
        });
        let key = self.key.map_or_else(String::new, |key| format!(" == Key::{key:?}"));
        let clause = |word: &str, demand: &Option<Demand>| {
            let demand = demand
                .as_ref()
                .map(|demand| format!("\n{word} {{ {} }}", demand.cedar()));
            demand.unwrap_or_default()
        };
        format!(
            "@id(\"p{number}\") {} ({}, action{actions}, resource{key}){}{};\n",
            if self.permit { "permit" } else { "forbid" },
            self.who.cedar(),
            clause("when", &self.when),
            clause("unless", &self.unless),
        )
    }
}

/// The groups file.
fn toml(membership: &[(&str, &str)]) -> String {
    let line = |group: &&str| {
        let users = membership
            .iter()
            .filter(|(of, _)| of == group)
            .map(|(_, user)| format!("{user:?}"));
        format!("{group:?} = [{}]\n", users.collect::<Vec<_>>().join(", "))
    };
    GROUPS.iter().map(line).collect()
}

// What is drawn.

fn any_who() -> impl Strategy<Value = Who> {
    prop_oneof![
        Just(Who::Any),
        select(&USERS[..]).prop_map(Who::User),
        select(&SERVICES[..]).prop_map(Who::Service),
        select(&GROUPS[..]).prop_map(Who::InGroup),
        Just(Who::AnyUser),
        Just(Who::AnyService),
    ]
}

fn any_demand() -> impl Strategy<Value = Demand> {
    let leaf = prop_oneof![
        select(vec!["a", "ab", "b", ""]).prop_map(Demand::NameStarts),
        select(&KEYS[..]).prop_map(Demand::NameIs),
        select(&TAGS[..]).prop_map(Demand::HasTag),
        (select(&TAGS[..]), select(&VALUES[..])).prop_map(|(tag, value)| Demand::TagIs(tag, value)),
        select(vec!["kw", "gcm", ""]).prop_map(Demand::SuiteIs),
        Just(Demand::SealedRequired),
        Just(Demand::Sealed),
        select(&ZONES[..]).prop_map(Demand::ZoneIs),
        select(&OPERATIONS[..]).prop_map(Demand::OperationIs),
        Just(Demand::ByToken),
        select(&GROUPS[..]).prop_map(Demand::Member),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|demand| Demand::Not(demand.into())),
            pair.clone().prop_map(|(a, b)| Demand::And(a.into(), b.into())),
            pair.prop_map(|(a, b)| Demand::Or(a.into(), b.into())),
        ]
    })
}

fn any_statement() -> impl Strategy<Value = Statement> {
    let actions = option::of(collection::vec(select(&Action::ALL[..]), 1..4));
    let (when, unless) = (option::of(any_demand()), option::of(any_demand()));
    (
        prop::bool::weighted(0.7),
        any_who(),
        actions,
        option::of(select(&KEYS[..])),
        when,
        unless,
    )
        .prop_map(|(permit, who, actions, key, when, unless)| Statement {
            permit,
            who,
            actions,
            key,
            when,
            unless,
        })
}

fn any_question() -> impl Strategy<Value = Question> {
    let who = (
        option::weighted(0.8, select(&USERS[..])),
        select(&SERVICES[..]),
        collection::vec(select(&GROUPS[..]), 0..3),
        any::<bool>(),
    );
    let key = (
        select(&KEYS[..]),
        option::of(select(vec![EdekSuite::Kw, EdekSuite::Gcm])),
        any::<bool>(),
        collection::btree_map(select(&TAGS[..]), select(&VALUES[..]), 0..3),
    );
    let call = (
        select(&Action::ALL[..]),
        select(&OPERATIONS[..]),
        any::<bool>(),
        option::of(select(&ZONES[..])),
    );
    (who, key, call).prop_map(|(who, key, call)| Question {
        user: who.0,
        service: who.1,
        token_groups: who.2,
        by_token: who.3,
        key: key.0,
        suite: key.1,
        sealed_required: key.2,
        tags: key.3,
        action: call.0,
        operation: call.1,
        sealed: call.2,
        zone: call.3,
    })
}

/// What the rules say, remembered and fresh, which must be the same.
fn ask(rules: &Rules, question: &Question) -> (bool, Vec<String>) {
    let who = match question.user {
        Some(user) => format!("user/{user}"),
        None => format!("service/{}", question.service),
    };
    let identity: PeerIdentity = format!("spiffe://strongroom/{who}").parse().expect("an identity");
    let groups: Vec<_> = question
        .token_groups
        .iter()
        .map(|g| g.parse().expect("a group"))
        .collect();
    let authentication = if question.by_token {
        Authentication::Bearer
    } else {
        Authentication::Certificate
    };
    let principal = Principal {
        identity: &identity,
        groups: &groups,
        authentication,
    };
    let tags = question
        .tags
        .iter()
        .map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned()));
    let facts = KeyFacts {
        suite: question.suite,
        sealed_required: question.sealed_required,
        tags: tags.collect(),
        ..KeyFacts::unknown(question.key.parse().expect("a key name"))
    };
    let mut context = Context::of(question.operation).sealed(question.sealed);
    if let Some(number) = question.zone {
        context = context.zone(zone(number));
    }
    let fresh = rules.evaluate(&principal, question.action, &facts, &context);
    for _ in 0..2 {
        let remembered = rules.decide(&principal, question.action, &facts, &context);
        assert_eq!(remembered, fresh, "remembering shows in {question:?}");
    }
    assert!(!fresh.failed, "{question:?}");
    (fresh.allowed, fresh.policies.to_vec())
}

#[test]
fn decisions_are_those_of_the_oracle() {
    let statements = collection::vec(any_statement(), 0..8);
    let membership = collection::vec((select(&GROUPS[..]), select(&USERS[..])), 0..5);
    let questions = collection::vec(any_question(), 1..40);
    seed::check(
        200,
        &(statements, membership, questions),
        |(statements, membership, questions)| {
            let text: String = statements
                .iter()
                .enumerate()
                .map(|(number, s)| s.cedar(number))
                .collect();
            let groups =
                Groups::parse(Path::new("groups.toml"), &toml(&membership)).map_err(|error| error.to_string())?;
            let rules = Rules::parse(Path::new("policy.cedar"), &text, groups)
                .map_err(|error| format!("{error} in\n{text}"))?;
            for question in &questions {
                let (found, expected) = (ask(&rules, question), oracle(&statements, question, &membership));
                if found != expected {
                    return Err(format!(
                        "{found:?} instead of {expected:?} for {question:?} under\n{text}"
                    ));
                }
            }
            Ok(())
        },
    );
}
