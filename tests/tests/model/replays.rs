//! A metadata service that hands out the same extent twice, and with it the same file and EDEK: between the real service and its clients
//! answers with grants are kept, and one of them takes the place of a later answer when the test says so. The service itself goes on as
//! it would, and knows nothing of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::HeaderMap,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tonic::service::Routes;

/// Calls whose answers have a grant.
const GRANTING: [&str; 4] = ["/CreateFile", "/ReopenFile", "/CommitFile", "/RewriteFile"];

/// What was granted, and what of it is to be granted again.
#[derive(Clone, Default)]
pub(crate) struct Replays(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    /// Answers of each call, with what they were for.
    kept: BTreeMap<String, Vec<(usize, Answer)>>,
    /// What the next call is for.
    label: usize,
    /// How many answers before the newest one is given next.
    armed: Option<usize>,
    /// What that was for which was given last.
    given: Option<usize>,
    total: u64,
}

#[derive(Clone)]
struct Answer {
    message: Bytes,
    trailers: Option<HeaderMap>,
}

impl Replays {
    /// Says what the next calls are for.
    pub(crate) fn label(&self, label: usize) {
        let mut plan = self.lock();
        (plan.label, plan.given) = (label, None);
    }

    /// Has the next grant be one that was given before, so many before the newest one of its call.
    pub(crate) fn arm(&self, back: usize) {
        self.lock().armed = Some(back);
    }

    /// What that was for which was given again in these calls.
    pub(crate) fn given(&self) -> Option<usize> {
        self.lock().given
    }

    /// How often something was given again.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// `routes`, with this in between.
    pub(crate) fn between(&self, routes: Routes) -> Routes {
        let router = routes.into_axum_router();
        router.layer(from_fn_with_state(self.clone(), pass)).into()
    }

    /// What is answered in the place of `fresh`.
    fn exchange(&self, call: &str, fresh: Answer) -> Answer {
        let mut plan = self.lock();
        let label = plan.label;
        let kept = plan.kept.entry(call.to_owned()).or_default();
        kept.push((label, fresh.clone()));
        // There is one before it.
        let Some(others) = kept.len().checked_sub(2) else {
            return fresh;
        };
        let (kept, armed) = (kept.clone(), plan.armed.take());
        let Some(back) = armed else { return fresh };
        let (of, answer) = kept[others - back % (others + 1)].clone();
        plan.given = Some(of);
        plan.total += 1;
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pass(State(replays): State<Replays>, request: Request, next: Next) -> Response {
    let call = request.uri().path().to_owned();
    let response = next.run(request).await;
    if !GRANTING.iter().any(|granting| call.ends_with(granting)) {
        return response;
    }
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body in memory");
    let trailers = body.trailers().cloned();
    let message = body.to_bytes();
    let fresh = Answer { message, trailers };
    // A refusal is a head alone.
    let answer = match fresh.message.is_empty() {
        true => fresh,
        false => replays.exchange(&call, fresh),
    };
    let trailers = answer.trailers.map(Ok);
    let body = Full::new(answer.message).with_trailers(std::future::ready(trailers));
    Response::from_parts(head, Body::new(body))
}
