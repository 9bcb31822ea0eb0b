//! Two key services as processes over one PostgreSQL database and one token, one of them stopped or killed at bad moments.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use strongroom_proto::{Failure, Reason, kms::v1 as kms};
use strongroom_tests::{KmsProcess, KmsSite, create_key, describe_key, mint, roll_key, until_async, unwrap};
use tonic::transport::Channel;

use crate::cluster::Cluster;

const LIMIT: Duration = Duration::from_secs(40);
/// How long the second journey goes on killing.
const KILLING: Duration = Duration::from_secs(20);

/// Waits until the service answers, its token being up.
async fn serving(service: &KmsProcess<'_>) {
    let channel = service.channel("user/prober");
    until_async("the key service serves", LIMIT, || {
        let channel = channel.clone();
        async move {
            let name = "probe";
            match create_key(channel, name).await {
                Ok(_) => Some(()),
                Err(failure) => (failure.reason == Reason::KeyExists).then_some(()),
            }
        }
    })
    .await;
}

fn version(edeks: &[kms::Edek]) -> u32 {
    edeks[0].key_version
}

async fn opens(channel: &Channel, edeks: Vec<kms::Edek>) {
    for opened in unwrap(channel.clone(), edeks).await.expect("an answer") {
        opened.expect("it opens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_answered_holds_at_the_other_at_once() {
    let cluster = Cluster::start();
    let site = KmsSite::new(cluster.fresh_url());
    let (one, two) = (site.start("one"), site.start("two"));
    serving(&one).await;
    serving(&two).await;
    let (admin, minter, reader) = (
        one.channel("user/keyadmin"),
        two.channel("service/metadata"),
        two.channel("user/alice"),
    );
    create_key(admin.clone(), "payroll").await.expect("made");
    let mut old = Vec::new();
    for round in 0..6 {
        let edeks = mint(minter.clone(), "payroll", 1).await.expect("minted at once");
        assert_eq!(version(&edeks), round);
        old.extend(edeks);
        opens(&reader, old.clone()).await;
        roll_key(admin.clone(), "payroll").await.expect("rolled");
    }
    // The other is paused, with its connection open.
    two.signal(Signal::STOP);
    let started = Instant::now();
    let rolled = roll_key(admin, "payroll").await.expect("rolled");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let newest = rolled.current_version.expect("it mints");
    two.signal(Signal::CONT);
    for _ in 0..20 {
        match mint(minter.clone(), "payroll", 1).await {
            Ok(edeks) => assert_eq!(version(&edeks), newest, "never under a replaced version"),
            Err(failure) => assert!(failure.is_transient(), "{failure}"),
        }
    }
    until_async("it mints again", LIMIT, || {
        let minter = minter.clone();
        async move { mint(minter, "payroll", 1).await.ok() }
    })
    .await;
    opens(&reader, old).await;
    two.stop();
    one.stop();
}

/// The versions that were answered, by key, and every key that was asked for.
#[derive(Clone, Default)]
struct Answered {
    current: BTreeMap<String, u32>,
    asked: Vec<String>,
}

/// Creates and rolls keys until the service is gone.
async fn churn(admin: Channel, round: u64, answered: Arc<Mutex<Answered>>) {
    for at in 0.. {
        let name = format!("k{round}-{at}");
        answered.lock().expect("no panic").asked.push(name.clone());
        let made = create_key(admin.clone(), &name).await;
        let Ok(key) = note(made, &answered) else { return };
        for _ in 0..2 {
            if note(roll_key(admin.clone(), &key).await, &answered).is_err() {
                return;
            }
        }
    }
}

fn note(answer: Result<kms::Key, Failure>, answered: &Mutex<Answered>) -> Result<String, Failure> {
    let key = answer?;
    let current = key.current_version.expect("it mints");
    let mut answered = answered.lock().expect("no panic");
    answered.current.insert(key.name.clone(), current);
    Ok(key.name)
}

/// Holds what the other service has against what was answered.
async fn holds(other: &KmsProcess<'_>, answered: &Answered, seed: u64) {
    let (admin, minter) = (other.channel("user/keyadmin"), other.channel("service/metadata"));
    for name in &answered.asked {
        let known = answered.current.get(name);
        let key = match describe_key(admin.clone(), name).await {
            Ok(key) => key,
            Err(failure) => {
                assert_eq!(failure.reason, Reason::KeyNotFound, "seed {seed}: {failure}");
                assert_eq!(known, None, "seed {seed}: key {name} was answered and is not there");
                continue;
            }
        };
        let current = key.current_version.unwrap_or_else(|| panic!("seed {seed}: {key:?}"));
        assert!(known.is_none_or(|&known| current >= known), "seed {seed}: {key:?}");
        let numbers: Vec<_> = key.versions.iter().map(|version| version.version).collect();
        assert_eq!(
            numbers,
            (0..=current).collect::<Vec<_>>(),
            "seed {seed}: nothing half made"
        );
        let edeks = mint(minter.clone(), name, 1).await.expect("every version works");
        opens(&minter, edeks).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_answered_is_there_and_nothing_half_made() {
    let seed = u64::from(std::process::id());
    let cluster = Cluster::start();
    let site = KmsSite::new(cluster.fresh_url());
    let other = site.start("other");
    serving(&other).await;
    let (started, mut random) = (Instant::now(), seed);
    let answered = Arc::new(Mutex::new(Answered::default()));
    for round in 0.. {
        let victim = site.start("victim");
        serving(&victim).await;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // A change is answered once every lease has seen it, and that of the process killed before runs for 5 s.
        let lives = Duration::from_millis(5300 + (random >> 33) % 2500);
        let work = tokio::spawn(churn(victim.channel("user/keyadmin"), round, Arc::clone(&answered)));
        tokio::time::sleep(lives).await;
        victim.signal(Signal::KILL);
        drop(victim);
        work.await.expect("no panic");
        // What it began last is settled by the other once its lease has lapsed; nothing stands in the way then.
        let last = answered.lock().expect("no panic").asked.last().cloned().expect("asked");
        let admin = other.channel("user/keyadmin");
        until_async("what was begun is settled", LIMIT, || {
            let (admin, last) = (admin.clone(), last.clone());
            async move {
                match roll_key(admin, &last).await {
                    Ok(_) => Some(()),
                    Err(failure) if failure.reason == Reason::KeyNotFound => Some(()),
                    Err(failure) => {
                        assert!(failure.is_transient(), "seed {seed}: {failure}");
                        None
                    }
                }
            }
        })
        .await;
        if started.elapsed() > KILLING {
            break;
        }
    }
    let answered = answered.lock().expect("no panic").clone();
    assert!(answered.current.len() > 3, "seed {seed}: too little was done");
    holds(&other, &answered, seed).await;
    other.stop();
}
