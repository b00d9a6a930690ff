//! The census: which memory of this node is in use, and what of it could hold a pointer.
//!
//! [`live`] maps the node's live blocks.
//!
//! Absent: memory of the region. Whose a slot is, and which of its bytes count, is `migrate`'s to say.

#![allow(dead_code, reason = "used by `migrate` step by step")]

pub(crate) mod live;
mod raw;
