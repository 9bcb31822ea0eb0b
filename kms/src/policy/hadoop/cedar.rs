//! ACLs as Cedar policies.
//!
//! | Hadoop | gate of the operation | gate of the key | here |
//! |---|---|---|---|
//! | create | CREATE | MANAGEMENT | `manage`, operation `create` |
//! | create or roll with material | CREATE and SET_KEY_MATERIAL | MANAGEMENT | `manage`, operation `import` |
//! | delete | DELETE | MANAGEMENT | `manage`, operations `delete`, `cancel-delete` |
//! | roll | ROLLOVER | MANAGEMENT | `manage`, every other operation |
//! | names of keys | GET_KEYS | – | `view`, operation `list` |
//! | metadata | GET_METADATA | READ | `view`, every other operation |
//! | generate, re-encrypt EEK | GENERATE_EEK | GENERATE_EEK | `mint`, `rewrap` |
//! | decrypt EEK | DECRYPT_EEK | DECRYPT_EEK | `unwrap` |
//! | key material | GET | READ | nothing: nobody gets it |
//!
//! All policies are about users: what services may do is not Hadoop's to say.

use super::{
    ACL_NAME_TAG,
    acl::{AccessList, Acls, KeyOp, Op},
};

/// Operations that delete a key or take that back.
const DELETING: &str = r#"["delete", "cancel-delete"]"#;
/// Operations that have an ACL of their own; what else changes a key counts as a roll.
const NOT_ROLLING: &str = r#"["create", "import", "delete", "cancel-delete"]"#;

/// What goes before the policies.
pub(super) fn heading(notes: &[String]) -> String {
    let mut heading = format!(
        "// Imported from Hadoop's kms-acls.xml by: strongroom policy import-hadoop\n\
         //\n\
         // Users and groups have Hadoop's names: users are to be in these groups by the groups file or their bearer tokens. A\n\
         // key with the tag {ACL_NAME_TAG:?} has the ACLs of that name, as with Hadoop's key attribute. Services (the metadata\n\
         // service mints and re-wraps) need policies of their own, see policy/sample.cedar; nobody may audit or approve yet.\n"
    );
    for note in notes {
        let line: String = note.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        heading.push_str(&format!("// Note: {line}\n"));
    }
    heading
}

/// Both gates.
pub(super) fn policies(acls: &Acls) -> Vec<String> {
    let mut policies = policies_of_operations(acls);
    for (name, ops) in &acls.keys {
        let this = format!("{} == {}", acl_name(), quoted(name));
        let permits = ops
            .iter()
            .map(|(op, list)| permit(&format!("key.acl.{name}"), *op, list, Some(&this)));
        policies.extend(permits.flatten());
    }
    let unnamed = unnamed(acls);
    for (op, list) in &acls.defaults {
        policies.extend(permit("default.key.acl", *op, list, unnamed.as_deref()));
    }
    for (op, list) in &acls.whitelist {
        policies.extend(permit("whitelist.key.acl", *op, list, None));
    }
    policies
}

/// With `hadoop.kms.key.authorization.enable` off: the gates of operations alone.
pub(super) fn policies_without_keys(acls: &Acls) -> Vec<String> {
    let mut policies = policies_of_operations(acls);
    let everybody = AccessList::parse("*");
    policies.extend(permit("hadoop.kms.key.authorization", KeyOp::All, &everybody, None));
    policies
}

fn policies_of_operations(acls: &Acls) -> Vec<String> {
    let mut policies = Vec::new();
    for op in Op::ALL {
        if let Some(list) = acls.ops.get(&op).filter(|list| !list.everybody) {
            let name = format!("hadoop.kms.acl.{}", op.as_str());
            policies.push(forbid(&name, op, "unless", list));
        }
        if let Some(list) = acls
            .blacklists
            .get(&op)
            .filter(|list| list.everybody || !list.is_empty())
        {
            let name = format!("hadoop.kms.blacklist.{}", op.as_str());
            policies.push(forbid(&name, op, "when", list));
        }
    }
    // The names of keys are listed without a look at their ACLs.
    policies.push(statement(
        "hadoop.kms.acl.GET_KEYS: names",
        "permit",
        r#"action == Action::"view""#,
        &[("when", r#"context.operation == "list""#.to_owned())],
    ));
    policies
}

/// Forbids an operation when, or unless, somebody is on a list.
fn forbid(name: &str, op: Op, word: &str, list: &AccessList) -> String {
    let (action, operation) = asked_for(op);
    let mut clauses: Vec<_> = operation.map(|condition| ("when", condition)).into_iter().collect();
    clauses.push((word, on_list(list)));
    statement(name, "forbid", action, &clauses)
}

/// The calls that an operation's ACL is about.
fn asked_for(op: Op) -> (&'static str, Option<String>) {
    const MANAGE: &str = r#"action == Action::"manage""#;
    const VIEW: &str = r#"action == Action::"view""#;
    match op {
        Op::Create => (
            MANAGE,
            Some(r#"["create", "import"].contains(context.operation)"#.to_owned()),
        ),
        Op::SetKeyMaterial => (MANAGE, Some(r#"context.operation == "import""#.to_owned())),
        Op::Delete => (MANAGE, Some(format!("{DELETING}.contains(context.operation)"))),
        Op::Rollover => (MANAGE, Some(format!("!{NOT_ROLLING}.contains(context.operation)"))),
        Op::GetKeys => (VIEW, Some(r#"context.operation == "list""#.to_owned())),
        Op::GetMetadata => (VIEW, Some(r#"context.operation != "list""#.to_owned())),
        Op::GenerateEek => (r#"action in [Action::"mint", Action::"rewrap"]"#, None),
        Op::DecryptEek => (r#"action == Action::"unwrap""#, None),
    }
}

/// Permits an operation on keys to who is on the list; nothing if nobody is.
fn permit(prefix: &str, op: KeyOp, list: &AccessList, keys: Option<&str>) -> Option<String> {
    if !list.everybody && list.is_empty() {
        return None;
    }
    let action = match op {
        KeyOp::Management => r#"action == Action::"manage""#,
        KeyOp::GenerateEek => r#"action in [Action::"mint", Action::"rewrap"]"#,
        KeyOp::DecryptEek => r#"action == Action::"unwrap""#,
        KeyOp::Read => r#"action == Action::"view""#,
        KeyOp::All => {
            r#"action in [Action::"manage", Action::"mint", Action::"rewrap", Action::"unwrap", Action::"view"]"#
        }
    };
    let mut clauses: Vec<_> = keys.map(|keys| ("when", keys.to_owned())).into_iter().collect();
    if !list.everybody {
        clauses.push(("when", on_list(list)));
    }
    Some(statement(
        &format!("{prefix}.{}", op.as_str()),
        "permit",
        action,
        &clauses,
    ))
}

impl AccessList {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

fn on_list(list: &AccessList) -> String {
    if list.everybody {
        return "true".to_owned();
    }
    let users = list
        .users
        .iter()
        .map(|user| format!("principal == User::{}", quoted(user)));
    let groups = list
        .groups
        .iter()
        .map(|group| format!("principal in Group::{}", quoted(group)));
    let all: Vec<_> = users.chain(groups).collect();
    if all.is_empty() {
        "false".to_owned()
    } else {
        all.join(" || ")
    }
}

/// The name under which a key's ACLs are looked up.
fn acl_name() -> String {
    let tag = quoted(ACL_NAME_TAG);
    format!("(if resource.hasTag({tag}) then resource.getTag({tag}) else resource.name)")
}

/// That a key's ACL name has no entry of its own; none if no name has.
fn unnamed(acls: &Acls) -> Option<String> {
    let names: Vec<_> = acls.keys.keys().map(|name| quoted(name)).collect();
    (!names.is_empty()).then(|| format!("![{}].contains({})", names.join(", "), acl_name()))
}

fn statement(id: &str, effect: &str, action: &str, clauses: &[(&str, String)]) -> String {
    let clauses: String = clauses
        .iter()
        .map(|(word, condition)| format!("\n{word} {{ {condition} }}"))
        .collect();
    format!(
        "\n@id({})\n{effect} (principal is User, {action}, resource){clauses};\n",
        quoted(id)
    )
}

/// A string of Cedar.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => quoted.extend(character.escape_unicode()),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
