//! What many rows begin with. It makes ready, and shows nothing.

use super::steps::Step::{self, Done, Given};

/// `{d}` is a zone of alice's under the key `{k}`.
pub(super) const ZONE: Step = Given(&[Done("key create {k}"), Done("zone create {d} --key {k} --owner alice")]);

/// Its file `a` has an EDEK of a version before the key's newest.
pub(super) const OLD_FILE: Step = Given(&[ZONE, Done("fs put {f} {d}/a"), Done("key roll {k}")]);

/// Its 20 files in `tree` are being re-encrypted, one a second.
pub(super) const UNDER_WAY: Step = Given(&[
    ZONE,
    Done("fs put -r {t} {d}"),
    Done("key roll {k}"),
    Done("zone reencrypt {d} --throttle 1"),
]);
