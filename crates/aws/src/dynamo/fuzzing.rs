//! Doors to the readers of items, for the fuzz targets alone. No part of the API: hidden, and may change at any time.

use anabranch_stream::notify::Notice;
use anabranch_stream::ports::PortError;

use super::api::{Condition, Item};
use super::leases::{KEY, lease_of, update_of};
use super::outbox;
use crate::kinesis::lease::Lease;

/// Reads a lease.
pub fn lease(item: &Item) -> Result<Lease, PortError> {
    lease_of(item)
}

/// The item of a new lease.
pub fn lease_item(lease: &Lease) -> Item {
    let update = update_of(lease, Condition::Always);
    let set = update.set.into_iter().map(|(name, value)| (name.to_owned(), value));
    set.chain([(KEY.to_owned(), update.key)]).collect()
}

/// Reads an item of the outbox; `None` of a finished one.
pub fn notice(item: &Item) -> Result<Option<Notice>, PortError> {
    outbox::read(item)
}

/// The item of a waiting notice.
pub fn notice_item(notice: &Notice) -> Item {
    outbox::waiting(notice, Condition::Always).item
}
