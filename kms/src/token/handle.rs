//! The token as the rest of the key service sees it.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Mutex as StdMutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use strongroom_proto::{Failure, KeyName, KeyVersion, REASON_HEADER, Reason};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Response, Status, transport::Channel};

use super::{
    ImportKey, NewVersion, TokenConfig, TokenKeyVersion, TokenName, TokenObjectId, TokenProfile, TokenStartError,
    TokenState, UnfitVersion,
    board::Board,
    gather::Gather,
    limit::Limit,
    link::{Fault, Link},
    listing::Listings,
    pb::{self, token_worker_client::TokenWorkerClient},
    pin,
    pin_gate::PinGate,
    pin_mark::PinMark,
    supervisor::{Phase, Supervisor},
};

/// How long a call waits for a worker that is being restarted.
const RESTART_WAIT: Duration = Duration::from_secs(6);

/// A token, worked through a supervised worker process. Clones share the worker; when the last one goes, so does it.
#[derive(Clone)]
pub struct Token {
    inner: Arc<Inner>,
    patient: bool,
}

struct Inner {
    label: String,
    seats: Vec<Seat>,
    gather: Arc<Gather>,
    state: watch::Receiver<TokenState>,
    stop: watch::Sender<bool>,
    supervisors: Mutex<Vec<JoinHandle<()>>>,
    listings: Listings,
    /// What the last listing left out.
    unfit: StdMutex<Vec<UnfitVersion>>,
}

/// The place of one worker, whichever process has it now.
struct Seat {
    phase: watch::Receiver<Phase>,
    in_flight: AtomicUsize,
}

/// Counts a call while it is in flight.
struct InFlight<'s>(&'s AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({:?}, {:?})", self.inner.label, *self.inner.state.borrow())
    }
}

/// A gRPC call to a worker, under way.
pub(super) type WorkerCall<'a, T> = BoxFuture<'a, Result<Response<T>, Status>>;

/// What a call can do about a failed attempt.
pub(super) enum Attempt<T> {
    Answered(Result<T, Failure>),
    /// The worker is gone or hangs; whether it did the work is not known.
    Broken(Failure),
}

impl<T> Attempt<T> {
    pub(super) fn outcome(self) -> Result<T, Failure> {
        match self {
            Self::Answered(outcome) => outcome,
            Self::Broken(failure) => Err(failure),
        }
    }
}

impl Token {
    /// Starts the supervision and waits for the first outcome: ready, unavailable or PIN rejected. The last two are no
    /// error, since they can mend while the service runs; see [`Token::subscribe`].
    ///
    /// `executable` is run as `executable token-worker --module … --token-label … --pin-file …`; normally it is
    /// [`std::env::current_exe`]. `state_dir` is where the mark of a rejected PIN is kept.
    ///
    /// # Errors
    /// [`TokenStartError`] for what cannot mend by itself: no module, no PIN file or one open to others, no state directory.
    pub async fn start(executable: PathBuf, config: TokenConfig, state_dir: PathBuf) -> Result<Self, TokenStartError> {
        if !config.module.exists() {
            return Err(TokenStartError::ModuleMissing { path: config.module });
        }
        pin::check_file(&config.pin_file)?;
        let gate = Arc::new(PinGate::new(PinMark::open(
            &state_dir,
            &config.module,
            &config.label,
            &config.pin_file,
        )?)?);
        let board = Arc::new(Board::new(config.workers.into()));
        let (stop, stopped) = watch::channel(false);
        let (mut seats, mut supervisors) = (Vec::new(), Vec::new());
        for number in 0..usize::from(config.workers) {
            let (sender, phase) = watch::channel(Phase::Starting);
            let (gate, board) = (Arc::clone(&gate), Arc::clone(&board));
            let supervisor = Supervisor::new(executable.clone(), config.clone(), gate, sender, board, number);
            supervisors.push(tokio::spawn(supervisor.run(stopped.clone())));
            let in_flight = AtomicUsize::new(0);
            seats.push(Seat { phase, in_flight });
        }
        let inner = Inner {
            label: config.name().to_owned(),
            seats,
            gather: Arc::new(Gather::new(config.workers.into())),
            state: board.subscribe(),
            stop,
            supervisors: Mutex::new(supervisors),
            listings: Listings::default(),
            unfit: StdMutex::default(),
        };
        let token = Self {
            inner: Arc::new(inner),
            patient: true,
        };
        let mut state = token.subscribe();
        // An error means that the supervisor is gone, which calls will say.
        _ = state.wait_for(|state| *state != TokenState::Starting).await;
        Ok(token)
    }

    /// The name by which people know it: its label, unless the configuration says another.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// The same token, for callers who have another one to turn to: a call that finds no worker that serves fails at
    /// once, and so does one whose worker is lost on the way.
    #[must_use]
    pub fn impatient(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            patient: false,
        }
    }

    /// Whether no worker that serves has answered anything for that long.
    #[must_use]
    pub fn silent_for(&self, limit: Duration) -> bool {
        !self.inner.seats.iter().any(|seat| match &*seat.phase.borrow() {
            Phase::Ready(link) => !link.silent_for(limit),
            _ => false,
        })
    }

    /// What the token is and can do.
    ///
    /// # Errors
    /// `token-unavailable`, `pin-rejected`.
    pub async fn profile(&self) -> Result<TokenProfile, Failure> {
        self.call(|mut client| async move { client.inspect(pb::InspectRequest {}).await })
            .await?
            .try_into()
    }

    /// What the last listing left out.
    pub(super) fn last_unfit(&self) -> MutexGuard<'_, Vec<UnfitVersion>> {
        // Whole lists are put in, so that a panic elsewhere leaves nothing half done.
        self.inner.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Generates a key version in the token and proves it. A repeat, by this call when the worker is lost on the way or by
    /// its caller, finds what the first attempt made.
    ///
    /// # Errors
    /// `already-exists` if the token holds that version with another id; `token-refused` if the token makes a key other than asked for; `token-unavailable`,
    /// `pin-rejected`.
    pub async fn generate(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        self.generate_as(pb::GenerateVersionRequest::from(new)).await
    }

    /// The same, for a version that other tokens are to get clones of: it can be wrapped under trusted keys.
    ///
    /// # Errors
    /// As [`Token::generate`].
    pub async fn generate_clonable(&self, new: &NewVersion) -> Result<TokenKeyVersion, Failure> {
        let mut request = pb::GenerateVersionRequest::from(new);
        request.clonable = true;
        self.generate_as(request).await
    }

    async fn generate_as(&self, request: pb::GenerateVersionRequest) -> Result<TokenKeyVersion, Failure> {
        let made = self.call(|mut client| {
            let request = request.clone();
            async move { client.generate_version(request).await }
        });
        made.await?.try_into()
    }

    /// Has every worker that serves do a call. One that is lost over it has done it too, in a way: nothing is left of what
    /// it knew.
    async fn on_each<T, F>(&self, request: impl Fn(TokenWorkerClient<Channel>) -> F + Sync) -> Result<(), Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let mut outcome = Ok(());
        for (number, seat) in self.inner.seats.iter().enumerate() {
            let Some(link) = seat.link() else { continue };
            if let Attempt::Answered(Err(failure)) = self.attempt(number, &link, Box::pin(request(link.client()))).await
            {
                outcome = outcome.and(Err(failure));
            }
        }
        outcome
    }

    /// Destroys a version, if its object has that `CKA_ID`, and what every worker has derived from it. One that is gone
    /// already is no failure. Answers which token it was looked for in afterwards, by its `CKA_ID` and by its label, and not
    /// found.
    ///
    /// # Errors
    /// `key-version-unusable` if the object has another id; `token-refused` if the token still holds it; `token-unavailable`,
    /// `overloaded`, `pin-rejected`, also if a worker was too busy to forget it: then the call is to be repeated.
    pub async fn destroy(&self, key: &KeyName, version: KeyVersion, id: TokenObjectId) -> Result<TokenName, Failure> {
        let request = pb::DestroyVersionRequest {
            key_name: key.as_str().to_owned(),
            version: version.0,
            token_id: id.into(),
        };
        let destroy = |mut client: TokenWorkerClient<Channel>| {
            let request = request.clone();
            async move { client.destroy_version(request).await }
        };
        self.call(destroy).await?;
        if self.inner.seats.len() > 1 {
            self.on_each(destroy).await?;
        }
        let TokenProfile { label, serial, .. } = self.profile().await?;
        Ok(TokenName { label, serial })
    }

    /// The key to wrap EZ keys to that are to be brought in; made when there is none, or anew if `renew`, which ends the
    /// one before.
    ///
    /// # Errors
    /// `token-refused` if the token has no RSA-OAEP; `token-unavailable`, `pin-rejected`.
    pub async fn import_key(&self, renew: bool) -> Result<ImportKey, Failure> {
        let request = pb::GetImportKeyRequest { renew };
        self.call_within(Limit::KeyPair, |mut client| async move {
            client.get_import_key(request).await
        })
        .await?
        .try_into()
    }

    /// Brings in a version, whose raw AES key is `wrapped` to the import key with the id `import_key`, and proves it as a
    /// generated one. A repeat finds what the first attempt made.
    ///
    /// # Errors
    /// As [`Token::generate`]; `invalid-argument` if there is no such import key, if `wrapped` does not open with it, or if
    /// the key has another size than was said.
    pub async fn import(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        self.import_as(pb::GenerateVersionRequest::from(new), import_key, wrapped)
            .await
    }

    /// The same, for a version that other tokens are to get clones of. The token cannot tell it from a clone afterwards.
    ///
    /// # Errors
    /// As [`Token::import`].
    pub async fn import_clonable(
        &self,
        new: &NewVersion,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        let mut version = pb::GenerateVersionRequest::from(new);
        version.clonable = true;
        self.import_as(version, import_key, wrapped).await
    }

    async fn import_as(
        &self,
        version: pb::GenerateVersionRequest,
        import_key: TokenObjectId,
        wrapped: Bytes,
    ) -> Result<TokenKeyVersion, Failure> {
        let request = pb::ImportVersionRequest {
            version: Some(version),
            import_key: import_key.into(),
            wrapped,
        };
        let imported = self.call(|mut client| {
            let request = request.clone();
            async move { client.import_version(request).await }
        });
        imported.await?.try_into()
    }

    /// The token's state now and from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<TokenState> {
        self.inner.state.clone()
    }

    /// Ends the worker and the supervision; every later call fails with `token-unavailable`.
    pub async fn stop(&self) {
        self.inner.stop.send_replace(true);
        for task in self.inner.supervisors.lock().await.drain(..) {
            // A supervisor that panicked has ended too.
            _ = task.await;
        }
    }

    /// Runs a call on a worker, and once more on another one, or the next in its place, if this one is lost.
    pub(super) async fn call<T, F>(
        &self,
        request: impl Fn(TokenWorkerClient<Channel>) -> F + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.call_within(Limit::Usual, request).await
    }

    /// The same with a limit of its own.
    pub(super) async fn call_within<T, F>(
        &self,
        limit: Limit,
        request: impl Fn(TokenWorkerClient<Channel>) -> F + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let first = self.seat(None);
        let link = self.link(first).await?;
        let attempt = self.attempt_within(limit, first, &link, Box::pin(request(link.client())));
        match attempt.await {
            Attempt::Answered(outcome) => return outcome,
            Attempt::Broken(failure) if !self.patient => return Err(failure),
            Attempt::Broken(_) => {}
        }
        let generation = link.generation();
        drop(link);
        let (second, link) = self.next_link(first, generation).await?;
        let attempt = self.attempt_within(limit, second, &link, Box::pin(request(link.client())));
        attempt.await.outcome()
    }

    /// Runs a call once more, on another worker than the one that was `lost`, or on the next in its place.
    pub(super) async fn again<T, F>(
        &self,
        lost: usize,
        generation: u64,
        request: impl Fn(TokenWorkerClient<Channel>) -> F + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let (second, link) = self.next_link(lost, generation).await?;
        self.attempt(second, &link, Box::pin(request(link.client())))
            .await
            .outcome()
    }

    /// Another worker than the one that was `lost`, or the next in its place.
    pub(super) async fn next_link(&self, lost: usize, generation: u64) -> Result<(usize, Link), Failure> {
        let second = self.seat(Some(lost));
        let after = if second == lost { generation } else { 0 };
        Ok((second, self.inner.seats[second].link_after(after).await?))
    }

    /// Whether callers wait for a worker that is being started.
    pub(super) const fn is_patient(&self) -> bool {
        self.patient
    }

    /// Where those who have the token listed meet.
    pub(super) fn listings(&self) -> &Listings {
        &self.inner.listings
    }

    /// How many workers there are.
    pub(super) fn seats(&self) -> usize {
        self.inner.seats.len()
    }

    /// Where calls about few EDEKs meet.
    pub(super) fn gather(&self) -> &Arc<Gather> {
        &self.inner.gather
    }

    /// The worker that serves on a seat now.
    pub(super) fn link_now(&self, seat: usize) -> Option<Link> {
        self.inner.seats[seat].link()
    }

    /// One attempt on the worker of a seat. The call is boxed: its future takes more than a KiB, and each function on the way
    /// up that takes it by value and awaits it would hold it twice, and copy it.
    pub(super) async fn attempt<T>(&self, seat: usize, link: &Link, call: WorkerCall<'_, T>) -> Attempt<T> {
        self.attempt_within(Limit::Usual, seat, link, call).await
    }

    async fn attempt_within<T>(&self, limit: Limit, seat: usize, link: &Link, call: WorkerCall<'_, T>) -> Attempt<T> {
        let in_flight = &self.inner.seats[seat].in_flight;
        in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(in_flight);
        attempt(limit, link, call).await
    }

    /// The worker of a seat; who is patient waits for one that is being started.
    pub(super) async fn link(&self, seat: usize) -> Result<Link, Failure> {
        let seat = &self.inner.seats[seat];
        match seat.link() {
            Some(link) => Ok(link),
            None if self.patient => seat.link_after(0).await,
            None => Err(self.away()),
        }
    }

    /// Why an impatient caller is not served.
    pub(super) fn away(&self) -> Failure {
        let state = self.inner.state.borrow();
        let why = match &*state {
            TokenState::PinRejected => "its PIN was rejected",
            TokenState::Unavailable { why } => why,
            TokenState::Starting | TokenState::Ready => "its worker is being started",
        };
        let text = format!("token {:?} is unavailable: {why}", self.inner.label);
        Failure::new(Reason::TokenUnavailable, text)
    }

    /// The least loaded of the workers that serve, or the least loaded of all; one that was just `lost` comes last.
    pub(super) fn seat(&self, lost: Option<usize>) -> usize {
        let seats = self.inner.seats.iter().enumerate();
        let best = seats.min_by_key(|&(number, seat)| {
            (
                lost == Some(number) || seat.link().is_none(),
                seat.in_flight.load(Ordering::Relaxed),
            )
        });
        best.expect("a token has at least one worker").0
    }
}

impl Seat {
    /// The worker that serves here now.
    fn link(&self) -> Option<Link> {
        match &*self.phase.borrow() {
            Phase::Ready(link) => Some(link.clone()),
            _ => None,
        }
    }

    /// The link to a worker younger than `generation`, waiting for one that is being started.
    async fn link_after(&self, generation: u64) -> Result<Link, Failure> {
        let mut phase = self.phase.clone();
        let settled = phase.wait_for(|phase| match phase {
            Phase::Starting => false,
            Phase::Ready(link) => link.generation() > generation,
            Phase::Unavailable(_) | Phase::PinRejected(_) | Phase::Stopped => true,
        });
        let unavailable =
            |why: &str| Failure::new(Reason::TokenUnavailable, format!("the token is unavailable: {why}"));
        match timeout(RESTART_WAIT, settled).await {
            Err(_) => Err(unavailable("its worker is being restarted")),
            Ok(Err(_)) => Err(unavailable("its supervisor has ended")),
            Ok(Ok(phase)) => match &*phase {
                Phase::Ready(link) => Ok(link.clone()),
                Phase::Starting => Err(unavailable("its worker is being started")),
                Phase::Unavailable(why) => Err(unavailable(why)),
                Phase::PinRejected(failure) => Err(failure.clone()),
                Phase::Stopped => Err(unavailable("it was stopped")),
            },
        }
    }
}

async fn attempt<T>(limit: Limit, link: &Link, call: WorkerCall<'_, T>) -> Attempt<T> {
    let waiting = link.begin(limit);
    match timeout(limit.time(), call).await {
        Ok(Ok(response)) => {
            link.answered();
            Attempt::Answered(Ok(response.into_inner()))
        }
        Ok(Err(status)) => judge(link, status),
        Err(_) if link.silent_for(waiting.patience()) => {
            link.report(Fault::Hanging);
            Attempt::Broken(lost_worker(&format!("no answer within {} s", limit.time().as_secs())))
        }
        // The worker answers others, or is making a key pair: it is slow, not stuck.
        Err(_) => Attempt::Answered(Err(lost_worker("the token is too slow for the calls that wait for it"))),
    }
}

/// Tells the worker's own answers from a broken link: only the former carry a reason.
fn judge<T>(link: &Link, status: Status) -> Attempt<T> {
    if !status.metadata().contains_key(REASON_HEADER) && is_broken(status.code()) {
        link.report(Fault::Broken);
        return Attempt::Broken(lost_worker(status.message()));
    }
    link.answered();
    let failure = Failure::from(status);
    if failure.reason == Reason::PinRejected {
        link.report(Fault::PinRejected);
    }
    Attempt::Answered(Err(failure))
}

const fn is_broken(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DataLoss
    )
}

pub(super) fn lost_worker(why: &str) -> Failure {
    Failure::new(Reason::TokenUnavailable, format!("the token's worker was lost: {why}"))
}
