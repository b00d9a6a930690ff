//! Lazy parcels: used by their holder while pages of them are still on their way.
//!
//! ```text
//! lent    its task stays resident, frozen, so that the source goes on serving; the arena is the holder's,
//!         which is tied to this node
//! whole   the task ends for the cluster, and the holder is as free as any            [`came`]
//! lost    the holder is lost with the pages (`migrate::lacking`)
//! ```
//!
//! Only a mobile task is lent anything: in its faults it is suspended, and it can end as lost. Who else takes a
//! parcel waits until all of it is here.

use super::pull;
use crate::cluster::cluster;
use crate::migrate::lacking;
use crate::task::current::{on_worker, wait_until};
use crate::task::header::Header;
use crate::task::pin::pin_here;
use crate::task::record::TaskRef;

/// A parcel that was lent to `holder` is whole, or nobody needs the rest of it. Whether no other such ties the holder.
pub(crate) fn came(parcel: &TaskRef, holder: &TaskRef) -> bool {
    let id = parcel.mobile().expect("a parcel is built as a mobile task").id;
    cluster().parcel_taken(id, parcel);
    parcel.state.release();
    pull::news(id);
    holder.mobile().expect("only mobile tasks are lent parcels").give_back(id)
}

/// Waits until all of a held parcel is here.
pub(super) fn wait_until_whole(header: &Header) {
    let slot = header.slot;
    if !header.prefix.has_travelled() {
        return;
    }
    if on_worker(|_| lacking::task_of(slot)).is_none() {
        return;
    }
    // Whoever waits may be in the middle of encoding a message, with addresses of the node's on its stack.
    let _pin = pin_here();
    wait_until(|waker| {
        let Some(id) = lacking::task_of(slot) else { return Some(()) };
        pull::note(id, waker);
        // It may have come before this one was noted.
        lacking::task_of(slot).is_none().then(|| pull::forget(waker))
    });
}
