//! The instances of the key service, for whom policies let view the key [`ALL_INSTANCES`].

use strongroom_proto::{Failure, KeyName, kms::v1::ListInstancesResponse};

use super::super::Desk;
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    policy::{Action, Context},
};

/// What policies take the instances for.
const ALL_INSTANCES: &str = "kms-instances";

impl<H: Hsm> Desk<H> {
    pub(super) async fn list_instances(&self, caller: &Caller) -> Result<ListInstancesResponse, Failure> {
        let name: KeyName = ALL_INSTANCES.parse()?;
        let (facts, context) = (self.keys.facts(&name), Context::of("list-instances"));
        let entry = Entry::new(caller, "list-instances");
        let entry = self.authorize(caller, Action::View, &facts, &context, entry).await?;
        let instances = self.keys.instances().await;
        self.recorded(entry, instances).await
    }
}
