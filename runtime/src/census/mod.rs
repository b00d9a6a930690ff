//! The census: which memory of this node is in use, and what of it could hold a pointer.
//!
//! [`live`] maps the node's live blocks, kept by the router; [`stop`] has all other threads stand
//! still; [`roots`] walks all that they can reach, [`scan`] looks through it; [`node_memory`] tells
//! what an address is, while everybody runs.
//!
//! Relies on the router reporting each node block. Absent: memory of the region. Whose a slot is, and
//! which of its bytes count, is `migrate`'s to say.

#![allow(dead_code, unused_imports, reason = "used by `migrate` step by step")]

pub(crate) mod exclude;
mod image;
pub(crate) mod live;
mod maps;
pub(crate) mod node_memory;
pub(crate) mod roots;
pub(crate) mod scan;
mod stale;
mod stop;

pub(crate) use exclude::{exclude, unexclude};
pub(crate) use image::for_each_image_word;
pub(crate) use node_memory::{NodeMemory, is_node_memory};
pub(crate) use roots::{Root, Scratch, TaskSight, for_each_root_range};
pub(crate) use scan::scan_words;
pub(crate) use stale::{clear_always, clear_stack, clear_whole_stack, clearing, is_clearing};
pub(crate) use stop::{StoppedThread, install, why_given_up, with_stopped_threads};

#[cfg(test)]
#[cfg(target_feature = "crt-static")]
pub(crate) mod tests;
