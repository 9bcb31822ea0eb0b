//! The PostgreSQL engine: the contract, and what concerns its server and the connections to it.

mod cluster;
mod contract;
mod proxy;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use cluster::Cluster;
use proxy::{AtCommit, Proxy};
use strongroom_kv::{CommitError, PostgresConfig, PostgresStore, Reader, Store, StoreError, Txn};
use strongroom_pki::{Authority, PrivateKey, Request, Validity};

fn config(url_file: PathBuf) -> PostgresConfig {
    PostgresConfig {
        url_file,
        ca: None,
        connections: 16,
        connect_timeout_ms: 3_000,
        statement_timeout_ms: 5_000,
    }
}

async fn open(url_file: PathBuf) -> PostgresStore {
    PostgresStore::open(&config(url_file)).await.expect("open")
}

async fn put(store: &PostgresStore, key: &[u8], value: &[u8]) -> Result<(), CommitError> {
    let mut txn = store.begin().await?;
    txn.put(key, value.to_vec());
    txn.commit().await
}

async fn get(store: &PostgresStore, key: &[u8]) -> Option<bytes::Bytes> {
    store.begin().await.expect("begin").get(key).await.expect("get")
}

/// Repeats until the store works again.
async fn put_until_done(store: &PostgresStore, key: &[u8], value: &[u8]) {
    let started = std::time::Instant::now();
    while let Err(error) = put(store, key, value).await {
        assert!(started.elapsed() < Duration::from_secs(30), "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_contract() {
    let cluster = Cluster::start();
    contract::check_all(async || open(cluster.fresh_url()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_share_a_store() {
    let cluster = Cluster::start();
    let url = cluster.fresh_url();
    // Both find the tables missing.
    let (one, two) = tokio::join!(open(url.clone()), open(url));
    put(&one, b"a", b"1").await.expect("commit");
    assert_eq!(get(&two, b"a").await.as_deref(), Some(&b"1"[..]));
    let mut txn = one.begin().await.expect("begin");
    txn.get(b"a").await.expect("get");
    txn.put(b"b", "from one");
    put(&two, b"a", b"2").await.expect("commit");
    assert!(matches!(txn.commit().await, Err(CommitError::Conflict)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_commits_survive_kill() {
    let mut cluster = Cluster::start();
    let store = open(cluster.fresh_url()).await;
    for round in 0..2_u32 {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..4_u32)
            .map(|task| {
                let (store, stop) = (store.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for n in 0_u32.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let key = format!("{round}/{task}/{n}");
                        match put(&store, key.as_bytes(), &[7; 100]).await {
                            Ok(()) => acknowledged.push(key),
                            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill();
        stop.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.restart();
        let mut count = 0;
        for task in tasks {
            for key in task.await.expect("no panic") {
                assert!(get(&store, key.as_bytes()).await.is_some(), "{key} was acknowledged");
                count += 1;
            }
        }
        assert!(count > 50, "only {count} commits before the crash");
        put(&store, b"after", b"1")
            .await
            .expect("usable again without opening it anew");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_answer_is_lost_is_told_as_it_ended() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let store = open(cluster.fresh_url_at("127.0.0.1", proxy.port(), "sslmode=disable")).await;
    put(&store, b"before", b"1").await.expect("commit");
    for (n, (at_commit, happens)) in [
        (AtCommit::LoseTheAnswer, true),
        (AtCommit::LoseTheCommand, false),
        (AtCommit::HoldTheCommand, false),
        (AtCommit::LoseTheAnswer, true),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("key {n}");
        let mut txn = store.begin().await.expect("begin");
        assert_eq!(txn.get(b"counter").await.expect("get"), None);
        txn.put(key.as_bytes(), "x");
        proxy.next_commit(at_commit);
        let outcome = txn.commit().await;
        if happens {
            assert!(outcome.is_ok(), "{at_commit:?}: {outcome:?}");
        } else {
            assert!(
                matches!(outcome, Err(CommitError::Conflict)),
                "{at_commit:?}: {outcome:?}"
            );
        }
        assert_eq!(get(&store, key.as_bytes()).await.is_some(), happens, "{at_commit:?}");
    }
}

/// On one thread both are in the queue before it is looked at, so that they are one batch.
#[tokio::test]
async fn what_is_refused_for_the_sake_of_another_is_refused_once_that_is_written() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let store = open(cluster.fresh_url_at("127.0.0.1", proxy.port(), "sslmode=disable")).await;
    let add = async |by: i64| {
        let mut txn = store.begin().await.expect("begin");
        txn.add(b"counter", by, 5);
        txn
    };
    for (at_commit, happens) in [(AtCommit::LoseTheCommand, false), (AtCommit::LoseTheAnswer, true)] {
        let (first, second) = (add(5).await, add(1).await);
        proxy.next_commit(at_commit);
        let (first, second) = tokio::join!(first.commit(), second.commit());
        assert_eq!(first.is_ok(), happens, "{first:?}");
        let second = second.expect_err("it is over the bound, or was told nothing");
        let is_over = matches!(second, CommitError::Store(StoreError::CounterOver { .. }));
        assert_eq!(is_over, happens, "{at_commit:?}: {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_nobody_can_ask_about_is_unknown() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let url = cluster.fresh_url_at("127.0.0.1", proxy.port(), "sslmode=disable");
    let short = PostgresConfig {
        connect_timeout_ms: 1_000,
        statement_timeout_ms: 1_000,
        ..config(url)
    };
    let store = PostgresStore::open(&short).await.expect("open");
    proxy.next_commit(AtCommit::GoAway);
    let outcome = put(&store, b"a", b"1").await;
    let Err(CommitError::Store(error @ StoreError::OutcomeUnknown { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.to_string().contains("not known"), "{error}");
    let refused = store.begin().await.err().expect("the database is away");
    assert!(matches!(refused, StoreError::Unreachable { .. }), "{refused:?}");
    proxy.come_back();
    put_until_done(&store, b"b", b"1").await;
    assert!(get(&store, b"a").await.is_some(), "the server had it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_committer_holds_nobody_up_for_long() {
    let cluster = Cluster::start();
    let store = open(cluster.fresh_url()).await;
    put(&store, b"a", b"1").await.expect("commit");
    // As a process that is stopped in the middle of its commit.
    let mut silent = std::process::Command::new("sh")
        .args(["-c", "(echo 'BEGIN; SET LOCAL idle_in_transaction_session_timeout = 2000; UPDATE strongroom_kv_head SET seq = seq + 1;'; sleep 20) | \"$@\"", "sh"])
        .args(cluster.psql_command("db0"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a shell");
    while cluster
        .run_sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        .trim()
        == "0"
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    put(&store, b"a", b"2").await.expect("it gets its turn");
    assert_eq!(get(&store, b"a").await.as_deref(), Some(&b"2"[..]));
    silent.kill().expect("killed");
    silent.wait().expect("ends");
}

/// As databases do that let a transaction begin and find out at a read that its place among the others is taken.
#[tokio::test]
async fn what_the_database_undoes_at_a_read_runs_again() {
    let cluster = Cluster::start();
    let url = cluster.fresh_url();
    put(&open(url.clone()).await, b"a", b"1").await.expect("commit");
    cluster.run_sql_in(
        "db0",
        // What a transaction may do that only reads, and that outlives it: a session's lock for each time.
        "CREATE FUNCTION is_in_time() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
         DECLARE times bigint := count(*) FROM pg_locks WHERE locktype = 'advisory';
         BEGIN
             IF times < 3 THEN
                 PERFORM pg_advisory_lock(times);
                 RAISE EXCEPTION 'restart read required' USING ERRCODE = '40001';
             END IF;
             RETURN true;
         END $$;
         ALTER TABLE strongroom_kv RENAME TO kept;
         CREATE VIEW strongroom_kv AS SELECT * FROM kept WHERE is_in_time()",
    );
    let store = open(url).await;
    let overtaken = store.begin().await.expect("begin").get(b"a").await;
    let error = overtaken.expect_err("undone");
    assert!(matches!(error, StoreError::Contended { attempts: 1 }), "{error:?}");
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let found = strongroom_kv::transact(&store, |txn| {
        let runs = Arc::clone(&counted);
        Box::pin(async move {
            runs.fetch_add(1, Ordering::SeqCst);
            txn.get(b"a").await
        })
    });
    assert_eq!(found.await.expect("read").as_deref(), Some(&b"1"[..]));
    assert_eq!(runs.load(Ordering::SeqCst), 3, "twice more it was undone");
}

#[tokio::test]
async fn a_full_pool_is_overload_not_a_hang() {
    let cluster = Cluster::start();
    let two = PostgresConfig {
        connections: 2,
        connect_timeout_ms: 300,
        ..config(cluster.fresh_url())
    };
    let store = PostgresStore::open(&two).await.expect("open");
    let _held = (store.begin().await.expect("begin"), store.begin().await.expect("begin"));
    let refused = store.begin().await.err().expect("none is free");
    assert!(
        matches!(
            refused,
            StoreError::Overloaded {
                waited_ms: 300,
                lack: "no free connection to its database"
            }
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn keys_are_ordered_by_their_bytes_whatever_the_collation() {
    let cluster = Cluster::start();
    let store = open(cluster.fresh_url()).await;
    let keys: [&[u8]; 5] = [b"", b"\0", b"B", b"a", &[0xff, 0xfe]];
    for key in keys.iter().rev() {
        put(&store, key, b"").await.expect("commit");
    }
    let found = store.begin().await.expect("begin").range(b"", &[0xff, 0xff], 10).await;
    let found: Vec<_> = found.expect("range").into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys);
}

#[tokio::test]
async fn a_newer_format_and_a_server_that_forgets_are_refused() {
    let cluster = Cluster::start();
    let url = cluster.fresh_url();
    drop(open(url.clone()).await);
    cluster.run_sql_in("db0", "UPDATE strongroom_kv_head SET format = 2");
    let message = refusal(&config(url)).await;
    assert!(message.contains("has format 2"), "{message}");
    let forgets = cluster.fresh_url();
    cluster.run_sql("ALTER DATABASE db1 SET synchronous_commit = off");
    let message = refusal(&config(forgets)).await;
    assert!(message.contains("synchronous_commit = off"), "{message}");
}

async fn refusal(config: &PostgresConfig) -> String {
    let error = PostgresStore::open(config).await.err().expect("refused");
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        message = format!("{message}: {error}");
        source = error.source();
    }
    message
}

#[tokio::test]
async fn the_server_must_prove_who_it_is() {
    let key = || PrivateKey::generate().expect("random numbers");
    let validity = || Validity::starting(SystemTime::now(), Duration::from_secs(3600));
    let authority = Authority::new("database CA", key(), validity()).expect("signs itself");
    let stranger = Authority::new("stranger", key(), validity()).expect("signs itself");
    let cluster = Cluster::start_with(|directory| {
        let request = Request {
            common_name: "database",
            uri: None,
            names: &["127.0.0.1"],
            validity: validity(),
        };
        let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
        authority
            .issue(&request)
            .expect("issued")
            .write(&certificate, &key)
            .expect("written");
        vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ]
    });
    let ca = |name: &str, authority: &Authority| {
        let path = cluster.directory().join(name);
        authority.write_certificate(&path).expect("written");
        Some(path)
    };
    let (right, wrong) = (ca("ca.pem", &authority), ca("stranger.pem", &stranger));
    let at = |host: &str, ca: &Option<PathBuf>| PostgresConfig {
        ca: ca.clone(),
        ..config(cluster.fresh_url_at(host, cluster.port(), "sslmode=verify-full"))
    };
    let store = PostgresStore::open(&at("127.0.0.1", &right)).await.expect("proved");
    put(&store, b"a", b"1").await.expect("commit");
    let encrypted = cluster.run_sql(
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL",
    );
    assert_eq!(encrypted.trim(), "t");
    for (host, ca, word) in [
        ("127.0.0.1", &wrong, "UnknownIssuer"),
        ("localhost", &right, "not valid for name"),
    ] {
        let message = refusal(&at(host, ca)).await;
        assert!(message.contains(word), "{host}: {message}");
    }
    let plain = Cluster::start();
    let without_tls = PostgresConfig {
        ca: right,
        ..config(plain.fresh_url_at("127.0.0.1", plain.port(), ""))
    };
    let message = refusal(&without_tls).await;
    assert!(
        message.contains("does not support TLS"),
        "no fallback to plain text: {message}"
    );
}
