//! Pages of keys and aliases: of those that the caller may view.

use strongroom_proto::{
    Failure, KeyName, Reason,
    kms::v1::{ListAliasesResponse, ListKeysResponse},
};

use super::super::Desk;
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    keys::KeyPage,
    policy::{Action, Context, KeyFacts},
};

impl<H: Hsm> Desk<H> {
    /// A page of keys. Refused if there are keys and none of them may be seen.
    pub(super) async fn list(
        &self,
        caller: &Caller,
        after: Option<&KeyName>,
        limit: usize,
    ) -> Result<ListKeysResponse, Failure> {
        self.keys.try_lease().await;
        let context = Context::of("list");
        let may_view = |facts: &KeyFacts| self.decide_on(caller, Action::View, facts, &context).0.allowed;
        let page = self.keys.page(after, limit, may_view);
        let entry = Entry::new(caller, "list");
        if after.is_none() && sees_nothing(&page) {
            let failure = Failure::new(
                Reason::PermissionDenied,
                format!(
                    "{} may not view any key (no policy permits it)",
                    caller.identity.short()
                ),
            );
            self.record(vec![entry.denied(&failure)]).await?;
            return Err(failure);
        }
        let answer = ListKeysResponse {
            more: page.next.is_some(),
            next: page.next.map(|name| name.to_string()).unwrap_or_default(),
            keys: page.keys,
        };
        self.recorded(entry.count(answer.keys.len()), Ok(answer)).await
    }

    /// A page of aliases.
    pub(super) async fn list_aliases(
        &self,
        caller: &Caller,
        after: Option<&KeyName>,
        limit: usize,
    ) -> Result<ListAliasesResponse, Failure> {
        self.keys.try_lease().await;
        let context = Context::of("list");
        let may_view = |facts: &KeyFacts| self.decide_on(caller, Action::View, facts, &context).0.allowed;
        let page = self.keys.aliases(after, limit, may_view);
        let entry = Entry::new(caller, "list").count(page.aliases.len());
        self.recorded(entry, Ok(page)).await
    }
}

/// Whether there are keys and the caller may view none of them. With more keys than one page looks at, nobody can tell.
fn sees_nothing(page: &KeyPage) -> bool {
    page.keys.is_empty() && page.looked > 0 && page.next.is_none()
}
