//! `strongroom policy …`: what policies say, offline. No service is asked and no profile is needed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use strongroom_kms::policy::{Context, Decision, GroupName, KeyFacts, PolicyFiles, Principal, Rules, hadoop};
use strongroom_proto::transport::PeerIdentity;

use crate::{
    cli::{Global, ImportHadoopArgs, PolicyCheckArgs, PolicyCommand, PolicyTestArgs},
    error::Error,
    output::{Output, note, print},
};

/// `strongroom policy …`; of the global options `--as` and `--sealed` count.
pub(super) fn run(command: PolicyCommand, global: &Global, output: Output) -> Result<(), Error> {
    match command {
        PolicyCommand::Check(args) => check(args, output),
        PolicyCommand::Test(args) => test(args, global, output),
        PolicyCommand::ImportHadoop(args) => import_hadoop(&args, output),
    }
}

fn check(args: PolicyCheckArgs, output: Output) -> Result<(), Error> {
    let rules = load(args.policy, args.groups)?;
    let document = serde_json::json!({"policies": rules.policy_count(), "fingerprint": rules.fingerprint()});
    output.result(&document, || format!("valid: {} policies", rules.policy_count()))
}

/// An answer in `--json`.
#[derive(Serialize)]
struct Answer {
    allowed: bool,
    policies: Vec<Rule>,
}

/// A policy that decided.
#[derive(Serialize)]
struct Rule {
    id: String,
    line: Option<usize>,
}

fn test(args: PolicyTestArgs, global: &Global, output: Output) -> Result<(), Error> {
    let identity = identity(global.identity.as_deref())?;
    let path = args.policy.clone();
    let rules = load(args.policy, args.groups)?;
    let groups: Vec<GroupName> = args.group;
    let principal = Principal {
        groups: &groups,
        authentication: args.authentication,
        ..Principal::certified(&identity)
    };
    let key = KeyFacts {
        suite: args.suite,
        sealed_required: args.sealed_required,
        tags: args.tag.into_iter().collect::<BTreeMap<_, _>>(),
        ..KeyFacts::unknown(args.key)
    };
    let operation = args.operation.unwrap_or_else(|| args.action.as_str().to_owned());
    let context = Context {
        zone: args.zone,
        ..Context::of(&operation).sealed(global.sealed)
    };
    let decision = rules.decide(&principal, args.action, &key, &context);
    let answer = Answer::of(&decision, &rules);
    if decision.allowed {
        return output.result(&answer, || answer.text(&path));
    }
    output.result(&answer, || answer.text(&path))?;
    Err(Error::PolicyDenies {
        sentence: decision.refusal(&identity, args.action, &key.name),
    })
}

impl Answer {
    fn of(decision: &Decision, rules: &Rules) -> Self {
        let rule = |id: &String| Rule {
            line: rules.line(id),
            id: id.clone(),
        };
        Self {
            allowed: decision.allowed,
            policies: decision.policies.iter().map(rule).collect(),
        }
    }

    fn text(&self, path: &Path) -> String {
        let mut text = if self.allowed { "allowed" } else { "denied" }.to_owned();
        if self.policies.is_empty() {
            text.push_str(": no policy permits it");
        }
        for rule in &self.policies {
            let line = rule.line.map(|line| format!(":{line}")).unwrap_or_default();
            text.push_str(&format!("\nby {} ({}{line})", rule.id, path.display()));
        }
        text
    }
}

/// `user:alice`, `service:metadata`, `service:block/node-1`.
fn identity(who: Option<&str>) -> Result<PeerIdentity, Error> {
    let usage = |message: &str| Error::Usage {
        message: message.to_owned(),
    };
    let who = who.ok_or_else(|| usage("say who asks, with --as user:NAME or --as service:NAME"))?;
    match who.split_once(':') {
        Some((kind @ ("user" | "service"), name)) => Ok(format!("spiffe://strongroom/{kind}/{name}").parse()?),
        _ => Err(usage(
            "--as takes user:NAME or service:NAME here, for example user:alice or service:metadata",
        )),
    }
}

fn load(policy: PathBuf, groups: Option<PathBuf>) -> Result<Rules, Error> {
    Ok(Rules::load(&PolicyFiles { policy, groups })?)
}

fn import_hadoop(args: &ImportHadoopArgs, output: Output) -> Result<(), Error> {
    let read = |path: &Path| fs::read_to_string(path).map_err(Error::local("cannot read", path));
    let acls = read(&args.acls)?;
    let site = args.kms_site.as_deref().map(read).transpose()?;
    let imported = hadoop::import(&acls, site.as_deref())?;
    for line in &imported.notes {
        note(line);
    }
    let Some(path) = &args.output else {
        return print(imported.cedar.trim_end());
    };
    let mut file = fs::File::create_new(path).map_err(Error::local("cannot make", path))?;
    std::io::Write::write_all(&mut file, imported.cedar.as_bytes()).map_err(Error::local("cannot write", path))?;
    let document = serde_json::json!({"policy": path, "notes": imported.notes});
    output.result(&document, || {
        format!(
            "wrote {}; look at it, then: strongroom policy check {}",
            path.display(),
            path.display()
        )
    })
}
