//! What workers still know of a version that was destroyed: each has a session of its own, with keys derived in it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use strongroom_kms::token::{Token, TokenConfig};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};
use strongroom_proto::{Edek, EdekSuite, KeyName, KeyVersion, Reason};

use crate::fixture::{Fixture, fresh, name, zone};

const V0: KeyVersion = KeyVersion(0);
/// Versions that nobody destroys.
const OTHERS: u32 = 20;

fn payroll() -> [(KeyName, KeyVersion); 1] {
    [(name("payroll"), V0)]
}

async fn mint(token: &Token, zone_byte: u8) -> Result<Edek, Reason> {
    let minted = token.mint(&name("payroll"), V0, &zone(zone_byte), 1).await;
    let wrapped = minted.map_err(|failure| failure.reason)?.remove(0);
    Ok(Edek {
        key: name("payroll"),
        version: V0,
        zone: zone(zone_byte),
        suite: EdekSuite::Kw,
        wrapped,
    })
}

async fn unwrap(token: &Token, edek: &Edek) -> Result<(), Reason> {
    let mut results = token.unwrap(std::slice::from_ref(edek)).await.expect("called");
    results.remove(0).map(drop).map_err(|failure| failure.reason)
}

/// Another instance of the key service destroys a version. Its workers never ask those of this one.
#[tokio::test]
async fn workers_forget_what_they_derived_from_a_version_that_others_destroyed() {
    let fixture = Fixture::new();
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    let (here, there) = (fixture.start().await, {
        let config = TokenConfig {
            module: shim.module(),
            ..fixture.config()
        };
        Token::start(fixture.worker(), config, fixture.path("state-there"))
            .await
            .expect("module and PIN file are there")
    });
    let made = here.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    let edek = mint(&there, 0).await.expect("minted");
    for zone in 1..3 {
        mint(&there, zone).await.expect("minted");
    }
    for version in 1..=OTHERS {
        here.generate(&fresh("other", version)).await.expect("a fresh version");
    }
    here.destroy(&made.key, V0, made.token_id).await.expect("destroyed");
    unwrap(&there, &edek).await.expect("it goes by what it derived");
    let (before, reads) = (
        shim.calls(Function::DestroyObject),
        shim.calls(Function::GetAttributeValue),
    );
    there.look_again(&payroll()).await.expect("looked");
    let destroyed = shim.calls(Function::DestroyObject) - before;
    assert_eq!(destroyed, 3, "a wrapping key for each zone");
    let reads = shim.calls(Function::GetAttributeValue) - reads;
    assert!(
        reads < OTHERS.into(),
        "{reads} looks at objects: the others are no business of it"
    );
    assert_eq!(unwrap(&there, &edek).await, Err(Reason::KeyVersionUnusable));
}

/// A program in the place of the worker that works the second one started through another module.
fn write_worker(fixture: &Fixture, first: &Path, second: &Path) {
    let path = fixture.worker();
    let script = fs::read_to_string(&path).expect("the fixture's");
    let (start, exec) = script.trim_end().rsplit_once('\n').expect("three lines");
    let swap = format!(
        "if [ $(wc -l < '{}') -eq 2 ]; then for part; do shift; [ \"$part\" = '{}' ] && part='{}'; set -- \"$@\" \"$part\"; done; fi",
        fixture.path("starts").display(),
        first.display(),
        second.display(),
    );
    fs::write(&path, format!("{start}\n{swap}\n{exec}\n")).expect("writable");
}

/// Waits until a call to every worker that serves reaches both, and again: a worker looks for keys at its start too.
async fn both_serve(token: &Token, shims: &[Shim; 2]) {
    let searches = || shims.each_ref().map(|shim| shim.calls(Function::FindObjectsInit));
    let (started, mut reached) = (Instant::now(), 0);
    while reached < 2 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "one of the workers does not serve"
        );
        let before = searches();
        token.look_again(&payroll()).await.expect("looked");
        let both = searches().iter().zip(before).all(|(now, before)| *now > before);
        reached = if both { reached + 1 } else { 0 };
    }
}

#[tokio::test]
async fn a_version_counts_as_destroyed_only_when_every_worker_has_forgotten_it() {
    let fixture = Fixture::new();
    let module = fixture.config().module;
    let shims = [(); 2].map(|()| Shim::in_front_of(&module).expect("the module is written"));
    write_worker(&fixture, &shims[0].module(), &shims[1].module());
    let config = TokenConfig {
        module: shims[0].module(),
        workers: 2,
        ..fixture.config()
    };
    let token = fixture.try_start(config).await.expect("all is there");
    both_serve(&token, &shims).await;
    let made = token.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    token.look_again(&payroll()).await.expect("both know it");

    // An idle token gives its calls to the same worker; the other one fails.
    let wraps = || shims.each_ref().map(|shim| shim.calls(Function::WrapKey));
    let before = wraps();
    let edek = mint(&token, 1).await.expect("minted");
    let other = usize::from(wraps()[0] > before[0]);
    shims[other].set(Function::FindObjectsInit, Fault::Error(Ckr::HOST_MEMORY), When::Always);
    let failure = token
        .destroy(&made.key, V0, made.token_id)
        .await
        .expect_err("one knows it");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
    shims[other].clear_all();
    token.destroy(&made.key, V0, made.token_id).await.expect("a repeat");
    assert_eq!(fixture.starts().len(), 2, "it cost no worker");
    assert_eq!(unwrap(&token, &edek).await, Err(Reason::KeyVersionUnusable));
}
