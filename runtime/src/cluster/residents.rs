//! The mobile tasks that are on this node, by id.
//!
//! Every spawn, end and join of a mobile task looks here, so ids are hashed by one multiplication:
//! they are dealt out by the nodes themselves and nobody can choose them to collide.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;

use migrt_proto::TaskId;

use crate::task::record::TaskRef;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Residents(Mutex<HashMap<TaskId, TaskRef, BuildHasherDefault<IdHasher>>>);

impl Residents {
    pub(crate) fn insert(&self, task: TaskId, record: TaskRef) {
        let old = self.0.lock().unwrap().insert(task, record);
        drop(old);
    }

    pub(crate) fn remove(&self, task: TaskId) -> Option<TaskRef> {
        self.0.lock().unwrap().remove(&task)
    }

    /// Removes the task if it is still this record's: it may have come back meanwhile, under another.
    pub(crate) fn remove_this(&self, task: TaskId, record: &TaskRef) {
        let mut all = self.0.lock().unwrap();
        if all.get(&task).is_some_and(|found| std::ptr::eq(found.as_ptr(), record.as_ptr())) {
            let old = all.remove(&task);
            drop(all);
            drop(old);
        }
    }

    pub(crate) fn get(&self, task: TaskId) -> Option<TaskRef> {
        self.0.lock().unwrap().get(&task).cloned()
    }

    /// Calls `look` with the record, if it is here, without a reference of its own.
    pub(crate) fn with<R>(&self, task: TaskId, look: impl FnOnce(&TaskRef) -> R) -> Option<R> {
        self.0.lock().unwrap().get(&task).map(look)
    }

    /// Calls `look` with all records; no task comes or goes meanwhile.
    pub(crate) fn hold<R>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &TaskRef>) -> R) -> R {
        look(&mut self.0.lock().unwrap().values())
    }
}

/// Folds the product of the id and an odd number: the low and the high bits both depend on all.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    use super::*;

    #[test]
    fn neighbouring_ids_do_not_collide_in_their_low_or_high_bits() {
        let build = BuildHasherDefault::<IdHasher>::default();
        let hashes: Vec<u64> = (0..4096u64).map(|id| build.hash_one(Wrapped(id))).collect();
        let low: HashSet<u64> = hashes.iter().map(|h| h & 0xffff).collect();
        let high: HashSet<u64> = hashes.iter().map(|h| h >> 48).collect();
        assert!(low.len() > 3_800 && high.len() > 3_800, "{} and {}", low.len(), high.len());
    }

    #[derive(Hash)]
    struct Wrapped(u64);
}
