//! A thread for what has time: hashing pages, ending watches.
//!
//! What tasks and the wire wait for is never done here.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::census;

type Deed = Box<dyn FnOnce() + Send>;

/// What is to be done, by when and then in the order in which it came.
struct Queue {
    deeds: BTreeMap<(Instant, u64), Deed>,
    count: u64,
    is_running: bool,
}

static QUEUE: Mutex<Queue> =
    Mutex::new(Queue { deeds: BTreeMap::new(), count: 0, is_running: false });
static NEWS: Condvar = Condvar::new();

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `deed` on the thread, after `delay`.
pub(super) fn after(delay: Duration, deed: impl FnOnce() + Send + 'static) {
    let mut queue = queue();
    let number = queue.count;
    queue.count += 1;
    queue.deeds.insert((Instant::now() + delay, number), Box::new(deed));
    drop(queue);
    NEWS.notify_one();
}

/// Starts the thread, once.
pub(super) fn start() -> std::io::Result<()> {
    if std::mem::replace(&mut queue().is_running, true) {
        return Ok(());
    }
    crate::thread::start_clearing("migrt-later", || {
        loop {
            let deed = next();
            deed();
            // It may have handled addresses of tasks' pages.
            census::clear_stack();
        }
    })?;
    Ok(())
}

fn next() -> Deed {
    let mut queue = queue();
    loop {
        let now = Instant::now();
        let wait = match queue.deeds.first_key_value() {
            Some((&(due, _), _)) if due <= now => {
                return queue.deeds.pop_first().expect("just seen").1;
            }
            Some((&(due, _), _)) => due - now,
            None => Duration::MAX,
        };
        queue = match wait {
            Duration::MAX => NEWS.wait(queue).unwrap_or_else(PoisonError::into_inner),
            wait => NEWS.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}
