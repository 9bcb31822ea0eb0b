//! The importer of kms-acls.xml against an oracle written straight from Hadoop's evaluation order: random ACL files,
//! users, groups, operations and keys.

use std::{collections::BTreeMap, path::Path};

use proptest::{collection, option, prelude::*, sample::select};
use strongroom_kms::policy::{
    Action, Context, Groups, KeyFacts, Principal, Rules,
    hadoop::{self, ACL_NAME_TAG},
};
use strongroom_proto::transport::PeerIdentity;

use crate::seed;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const GROUPS: [&str; 3] = ["hr", "it", "ops"];
/// Names with dots, one the start of another, and one that looks like an operation.
const KEYS: [&str; 5] = ["payroll", "pay.roll", "pay", "pay.roll.READ", "other"];
const OPS: [&str; 9] = [
    "CREATE",
    "DELETE",
    "ROLLOVER",
    "GET",
    "GET_KEYS",
    "GET_METADATA",
    "SET_KEY_MATERIAL",
    "GENERATE_EEK",
    "DECRYPT_EEK",
];
const KEY_OPS: [&str; 5] = ["MANAGEMENT", "GENERATE_EEK", "DECRYPT_EEK", "READ", "ALL"];

/// A call of a Hadoop KMS: the operations whose ACLs it must pass, what it asks of the key, and our words for it.
struct Call {
    gates: &'static [&'static str],
    key_op: Option<&'static str>,
    action: Action,
    operation: &'static str,
}

const CALLS: [Call; 10] = [
    call(&["CREATE"], Some("MANAGEMENT"), Action::Manage, "create"),
    call(
        &["CREATE", "SET_KEY_MATERIAL"],
        Some("MANAGEMENT"),
        Action::Manage,
        "import",
    ),
    call(&["DELETE"], Some("MANAGEMENT"), Action::Manage, "delete"),
    call(&["ROLLOVER"], Some("MANAGEMENT"), Action::Manage, "roll"),
    call(&["ROLLOVER"], Some("MANAGEMENT"), Action::Manage, "confirm"),
    call(&["GET_KEYS"], None, Action::View, "list"),
    call(&["GET_METADATA"], Some("READ"), Action::View, "describe"),
    call(&["GENERATE_EEK"], Some("GENERATE_EEK"), Action::Mint, "mint"),
    call(&["GENERATE_EEK"], Some("GENERATE_EEK"), Action::Rewrap, "rewrap"),
    call(&["DECRYPT_EEK"], Some("DECRYPT_EEK"), Action::Unwrap, "unwrap"),
];

const fn call(
    gates: &'static [&'static str],
    key_op: Option<&'static str>,
    action: Action,
    operation: &'static str,
) -> Call {
    Call {
        gates,
        key_op,
        action,
        operation,
    }
}

/// The properties of a file; a later one of the same name counts.
type Properties = Vec<(String, String)>;

// The oracle.

struct Person<'a> {
    user: &'a str,
    groups: &'a [&'static str],
}

fn on_list(value: &str, person: &Person<'_>) -> bool {
    let parts: Vec<&str> = value.splitn(2, ' ').collect();
    let listed = |part: Option<&&str>, wanted: &str| {
        part.is_some_and(|part| {
            part.split(',')
                .any(|name| !name.trim().is_empty() && name.trim() == wanted)
        })
    };
    parts.iter().any(|part| part.trim() == "*")
        || listed(parts.first(), person.user)
        || person.groups.iter().any(|group| listed(parts.get(1), group))
}

fn oracle(properties: &Properties, call: &Call, person: &Person<'_>, key: &str, acl_name: Option<&str>) -> bool {
    let acls: BTreeMap<&str, &str> = properties.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let allows = |name: &str| acls.get(name).is_some_and(|value| on_list(value, person));
    // The operation: its ACL, by default everybody's, then its blacklist.
    for gate in call.gates {
        let acl = acls
            .get(format!("hadoop.kms.acl.{gate}").as_str())
            .copied()
            .unwrap_or("*");
        if !on_list(acl, person) || allows(&format!("hadoop.kms.blacklist.{gate}")) {
            return false;
        }
    }
    let Some(op) = call.key_op else {
        return true;
    };
    // 1. the name; 2. its own entry, 3. else the default, unless the name has any entry; 4. the whitelist; 5. ALL.
    let name = acl_name.unwrap_or(key);
    let has_any = acls.keys().any(|property| {
        let rest = property.strip_prefix("key.acl.").and_then(|rest| rest.rsplit_once('.'));
        rest.is_some_and(|(of, _)| of == name)
    });
    let own = if has_any {
        allows(&format!("key.acl.{name}.{op}"))
    } else {
        allows(&format!("default.key.acl.{op}"))
    };
    own || allows(&format!("whitelist.key.acl.{op}")) || (has_any && allows(&format!("key.acl.{name}.ALL")))
}

// What is drawn.

fn any_list() -> impl Strategy<Value = String> {
    let some = (
        collection::vec(select(&USERS[..]), 0..3),
        option::of(collection::vec(select(&GROUPS[..]), 0..3)),
    );
    let some = some.prop_map(|(users, groups)| match groups {
        Some(groups) => format!("{} {}", users.join(","), groups.join(", ")),
        None => users.join(","),
    });
    prop_oneof![
        6 => some,
        2 => Just("*".to_owned()),
        1 => select(vec!["", " ", " *", "alice *", "alice, bob", "bob hr it"]).prop_map(str::to_owned),
    ]
}

fn any_property() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        2 => select(&OPS[..]).prop_map(|op| format!("hadoop.kms.acl.{op}")),
        1 => select(&OPS[..]).prop_map(|op| format!("hadoop.kms.blacklist.{op}")),
        5 => (select(&KEYS[..]), select(&KEY_OPS[..])).prop_map(|(key, op)| format!("key.acl.{key}.{op}")),
        2 => select(&KEY_OPS[..]).prop_map(|op| format!("default.key.acl.{op}")),
        1 => select(&KEY_OPS[..]).prop_map(|op| format!("whitelist.key.acl.{op}")),
    ];
    (name, any_list())
}

fn xml(properties: &Properties) -> String {
    let property = |(name, value): &(String, String)| {
        format!("  <property>\n    <name>{name}</name>\n    <value>{value}</value>\n  </property>\n")
    };
    let inner: String = properties.iter().map(property).collect();
    format!("<?xml version=\"1.0\"?>\n<!-- ACLs -->\n<configuration>\n{inner}</configuration>\n")
}

/// What the rules say of a user in groups, of a key with an ACL name in its tag.
fn imported(rules: &Rules, call: &Call, person: &Person<'_>, key: &str, acl_name: Option<&str>) -> bool {
    let identity: PeerIdentity = format!("spiffe://strongroom/user/{}", person.user)
        .parse()
        .expect("an identity");
    let groups: Vec<_> = person
        .groups
        .iter()
        .map(|group| group.parse().expect("a group"))
        .collect();
    let principal = Principal {
        groups: &groups,
        ..Principal::certified(&identity)
    };
    let tag = acl_name.map(|name| (ACL_NAME_TAG.to_owned(), name.to_owned()));
    let facts = KeyFacts {
        tags: tag.into_iter().collect(),
        ..KeyFacts::unknown(key.parse().expect("a key name"))
    };
    let decision = rules.evaluate(&principal, call.action, &facts, &Context::of(call.operation));
    assert!(!decision.failed);
    decision.allowed
}

#[test]
fn imported_policies_decide_as_hadoop_does() {
    let person = (select(&USERS[..]), collection::vec(select(&GROUPS[..]), 0..3));
    let key = (select(&KEYS[..]), option::weighted(0.3, select(&KEYS[..])));
    let asked = collection::vec((person, key), 1..12);
    let values = (collection::vec(any_property(), 0..14), asked);
    seed::check(150, &values, |(properties, asked)| {
        let imported_file = hadoop::import(&xml(&properties), None).map_err(|error| error.to_string())?;
        let text = &imported_file.cedar;
        let rules =
            Rules::parse(Path::new("p.cedar"), text, Groups::default()).map_err(|e| format!("{e} in\n{text}"))?;
        for ((user, groups), (key, acl_name)) in &asked {
            let person = Person { user, groups };
            for call in &CALLS {
                let expected = oracle(&properties, call, &person, key, *acl_name);
                let found = imported(&rules, call, &person, key, *acl_name);
                if found != expected {
                    return Err(format!(
                        "{user} {groups:?} {} {key} {acl_name:?}: {found} instead of {expected}\n{properties:#?}\n{text}",
                        call.operation
                    ));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn switching_off_key_authorization_leaves_the_operations_gates() {
    let acls = xml(&vec![
        ("hadoop.kms.acl.DECRYPT_EEK".to_owned(), "alice".to_owned()),
        ("key.acl.payroll.DECRYPT_EEK".to_owned(), "nobody".to_owned()),
    ]);
    let site = xml(&vec![(
        "hadoop.kms.key.authorization.enable".to_owned(),
        " False ".to_owned(),
    )]);
    for (site, alice_unwraps) in [(None, false), (Some(site.as_str()), true)] {
        let text = hadoop::import(&acls, site).expect("valid").cedar;
        let rules = Rules::parse(Path::new("p.cedar"), &text, Groups::default()).expect("valid policies");
        for (user, allowed) in [("alice", alice_unwraps), ("bob", false)] {
            let person = Person { user, groups: &[] };
            assert_eq!(imported(&rules, &CALLS[9], &person, "payroll", None), allowed, "{user}");
        }
    }
}

#[test]
fn services_are_left_to_other_policies() {
    let acls = xml(&vec![("hadoop.kms.acl.GENERATE_EEK".to_owned(), "hdfs".to_owned())]);
    let text = hadoop::import(&acls, None).expect("valid").cedar
        + r#"@id("metadata") permit (principal == Service::"metadata", action == Action::"mint", resource);"#;
    let rules = Rules::parse(Path::new("p.cedar"), &text, Groups::default()).expect("valid policies");
    let identity: PeerIdentity = "spiffe://strongroom/service/metadata".parse().expect("an identity");
    let key = KeyFacts::unknown("payroll".parse().expect("a key name"));
    let decide = |action| {
        rules
            .decide(&Principal::certified(&identity), action, &key, &Context::of("mint"))
            .allowed
    };
    assert!(decide(Action::Mint));
    assert!(!decide(Action::Unwrap));
}
