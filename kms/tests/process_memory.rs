//! Real processes: the memory of the key service is searched for DEKs that it delivered, in the clear and sealed.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
#[path = "support/pki.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of what they share"
)]
mod pki;
#[path = "support/sealed_user.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of what they share"
)]
mod sealed_user;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fixture::Fixture;
use pki::{Pki, load};
use sealed_user::SealedUser;
use strongroom_proto::{
    Edek, Failure, Reason, RequestId, ZoneId,
    kms::v1::{self as pb, key_admin_client::KeyAdminClient, mint_client::MintClient, unwrap_client::UnwrapClient},
    transport::{self, Role},
};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);
const DEKS: u32 = 100;
const DEK_BYTES: usize = 32;

/// The key service as a process of its own.
struct Service {
    process: Child,
    pki: Pki,
    address: String,
    _fixture: Fixture,
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Service {
    async fn start() -> Self {
        let (fixture, pki) = (Fixture::new(), Pki::new());
        let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let (tls, worker) = (
            pki.issue("kms", "service/kms"),
            pki.issue("token-worker", "service/token-worker"),
        );
        fs::write(pki.path("policy.cedar"), strongroom_kms::policy::SAMPLE).expect("writable");
        let path = |path: &std::path::Path| format!("{:?}", path.display().to_string());
        let config = format!(
            "listen = {address:?}\npolicy = {}\ndata_dir = {}\n\
             [tls]\nca = {}\ncertificate = {}\nkey = {}\n\
             [[tokens]]\nmodule = {}\nlabel = {:?}\npin_file = {}\n\
             [sealed]\ncertificate = {}\nkey = {}\nonly = ['strict']\n",
            path(&pki.path("policy.cedar")),
            path(&pki.path("data")),
            path(&tls.ca),
            path(&tls.certificate),
            path(&tls.key),
            path(&fixture::module()),
            fixture::LABEL,
            path(&fixture.path("pin")),
            path(&worker.certificate),
            path(&worker.key),
        );
        fs::write(pki.path("kms.toml"), config).expect("writable");
        let process = Command::new(fixture::program())
            .args(["kms", "--config"])
            .arg(pki.path("kms.toml"))
            .env("SOFTHSM2_CONF", fixture.path("softhsm2.conf"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the example is built with the tests");
        Self {
            process,
            pki,
            address,
            _fixture: fixture,
        }
    }

    fn channel(&self, who: &str) -> Channel {
        let tls = load(&self.pki.issue(&who.replace('/', "-"), who));
        transport::connect(&self.address.parse().expect("an address"), &tls, Role::Kms)
    }

    /// Makes a key, as soon as the service is up, and EDEKs of it.
    async fn edeks(&self, name: &str) -> Vec<Edek> {
        let (started, id) = (Instant::now(), RequestId::generate());
        let mut admin = KeyAdminClient::new(self.channel("user/keyadmin"));
        loop {
            let request = pb::CreateKeyRequest {
                name: name.to_owned(),
                request_id: id.into(),
                ..Default::default()
            };
            match admin.create_key(request).await {
                Ok(_) => break,
                Err(status) => assert!(started.elapsed() < PATIENCE, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let zone = ZoneId::generate();
        let request = pb::MintRequest {
            key_name: name.to_owned(),
            zone_id: zone.into(),
            count: DEKS,
        };
        let minted = MintClient::new(self.channel("service/metadata")).mint(request).await;
        let minted = minted.expect("minted").into_inner();
        let edek = |wrapped| Edek {
            key: name.parse().expect("a key name"),
            version: strongroom_proto::KeyVersion(minted.key_version),
            zone,
            suite: minted.suite.parse().expect("a suite"),
            wrapped,
        };
        minted.wrapped.iter().cloned().map(edek).collect()
    }

    /// How many of these DEKs are somewhere in the memory of the key service.
    fn holds(&self, deks: &[Vec<u8>]) -> usize {
        let process = format!("/proc/{}", self.process.id());
        let maps = fs::read_to_string(format!("{process}/maps")).expect("a child's memory may be looked at");
        let mut memory = fs::File::open(format!("{process}/mem")).expect("a child's memory may be read");
        let mut search = Search::new(deks);
        for line in maps
            .lines()
            .filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
        {
            let (range, _) = line.split_once(' ').expect("a range and a mode");
            let (start, end) = range.split_once('-').expect("two addresses");
            let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            let (start, end) = (number(start), number(end));
            let mut bytes = vec![0; usize::try_from(end - start).expect("64 bits")];
            // A mapping may have gone meanwhile.
            if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut bytes).is_err() {
                continue;
            }
            search.look_through(&bytes);
        }
        search.found.len()
    }
}

/// Looks for DEKs at every address. Quick enough without optimisation: what was never written to is stepped over.
struct Search<'a> {
    deks: &'a [Vec<u8>],
    /// Whether a DEK starts with these two bytes.
    starts: Vec<bool>,
    found: HashSet<&'a [u8]>,
}

impl<'a> Search<'a> {
    fn new(deks: &'a [Vec<u8>]) -> Self {
        let mut starts = vec![false; 1 << 16];
        for dek in deks {
            starts[start(dek, 0)] = true;
        }
        Self {
            deks,
            starts,
            found: HashSet::new(),
        }
    }

    fn look_through(&mut self, bytes: &[u8]) {
        const PAGE: usize = 4096;
        let zeros = [0; PAGE];
        for page in (0..bytes.len()).step_by(PAGE) {
            let end = bytes.len().min(page + PAGE);
            if bytes[page..end] != zeros[..end - page] {
                // With the DEKs that begin on the page before or end on the one after it.
                let around = page.saturating_sub(DEK_BYTES - 1)..bytes.len().min(end + DEK_BYTES - 1);
                self.look_at(&bytes[around]);
            }
        }
    }

    fn look_at(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at + DEK_BYTES <= bytes.len() {
            if self.starts[start(bytes, at)] {
                let here = &bytes[at..at + DEK_BYTES];
                self.found
                    .extend(self.deks.iter().map(Vec::as_slice).filter(|dek| *dek == here));
            }
            at += 1;
        }
    }
}

fn start(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

async fn in_the_clear(service: &Service, edeks: &[Edek]) -> Vec<Vec<u8>> {
    let request = pb::UnwrapRequest {
        edeks: edeks.iter().cloned().map(Into::into).collect(),
    };
    let answer = UnwrapClient::new(service.channel("user/alice")).unwrap(request).await;
    let results = answer.expect("opened").into_inner().results.into_iter();
    results
        .map(|result| match result.result {
            Some(pb::unwrap_result::Result::Dek(dek)) => dek.to_vec(),
            _ => panic!("an EDEK does not open"),
        })
        .collect()
}

async fn sealed(service: &Service, user: &SealedUser, edeks: &[Edek]) -> Vec<Vec<u8>> {
    let mut client = UnwrapClient::new(service.channel("user/alice"));
    let started = Instant::now();
    loop {
        let signed = user.sign(user.request(edeks));
        let request = pb::UnwrapSealedRequest {
            request: signed.encoded.clone(),
            signature: Some(signed.signature.clone().into()),
        };
        match client.unwrap_sealed(request).await.map_err(Failure::from) {
            Ok(answer) => {
                let answer = answer.into_inner();
                let signature = answer.signature.expect("signed").try_into().expect("a signature");
                let opened = user.open(&signed, &answer.answer, &signature).into_iter();
                return opened.map(|result| result.expect("opens").1).collect();
            }
            Err(failure) => {
                assert_eq!(failure.reason, Reason::SignedTooEarly, "{failure}");
                assert!(started.elapsed() < PATIENCE, "{failure}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_deks_are_nowhere_in_the_key_service() {
    let service = Service::start().await;
    let strict = service.edeks("strict").await;
    let alice = SealedUser::new(load(&service.pki.issue("alice", "user/alice")));
    let deks = sealed(&service, &alice, &strict).await;
    assert_eq!(deks.len(), DEKS as usize);
    assert_eq!(service.holds(&deks), 0, "right after the first delivery");
    for _ in 0..3 {
        let (again, found) = tokio::join!(sealed(&service, &alice, &strict), async { service.holds(&deks) });
        assert_eq!((found, again == deks), (0, true), "during deliveries");
    }
    assert_eq!(service.holds(&deks), 0, "after all deliveries");

    // That the search finds what there is: delivered in the clear, buffers of the connection keep DEKs.
    let open = service.edeks("open").await;
    let deks = in_the_clear(&service, &open).await;
    assert!(service.holds(&deks) > 0, "the search finds nothing at all");
}
