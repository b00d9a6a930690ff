//! Threads that are lent to one job after another.
//!
//! Most jobs of a move (copying, pushing, looking up what is kept) take less time than a thread takes to begin. And what
//! a thread allocates lies in pages of its own: the allocator keeps these as long as one block in them lives, so a thread
//! for each job scatters what lives long.
//!
//! ```text
//! lend     a thread waits:  the job is put down for it        nobody waits:  a thread begins
//! done     the stack is cleared; the thread waits, and ends if no job comes for a while
//! ```
//!
//! Jobs that are put down are never more than threads that wait, so none waits for another job's end.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::census;

/// A thread without a job ends after so long.
const IDLE: Duration = Duration::from_secs(1);

struct Job {
    name: &'static std::ffi::CStr,
    run: Box<dyn FnOnce() + Send>,
}

struct Lent {
    /// Each for one of the threads that wait.
    jobs: VecDeque<Job>,
    /// Threads that wait and for which no job was put down.
    free: usize,
}

static LENT: Mutex<Lent> = Mutex::new(Lent { jobs: VecDeque::new(), free: 0 });
static NEWS: Condvar = Condvar::new();

fn lent() -> MutexGuard<'static, Lent> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a thread run `run`, under a name of at most 15 bytes as the kernel shows it. As
/// [`start_clearing`](super::start_clearing), for jobs that come again and again.
///
/// # Errors
/// The system has no thread left.
pub(crate) fn lend(
    name: &'static std::ffi::CStr,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let job = Job { name, run: Box::new(run) };
    let mut lent = lent();
    if lent.free > 0 {
        lent.free -= 1;
        lent.jobs.push_back(job);
        drop(lent);
        NEWS.notify_one();
        return Ok(());
    }
    drop(lent);
    super::start("migrt-lent", move || {
        census::clear_always();
        perform(job);
        while let Some(job) = next() {
            perform(job);
        }
        census::clear_whole_stack();
    })?;
    Ok(())
}

#[inline(never)]
fn perform(job: Job) {
    // A name is a help, no more.
    let _ = rustix::thread::set_name(job.name);
    (job.run)();
    // The thread is looked at while it waits, and its frames then are few.
    census::clear_whole_stack();
}

/// Waits for a job.
fn next() -> Option<Job> {
    let mut lent = lent();
    lent.free += 1;
    loop {
        if let Some(job) = lent.jobs.pop_front() {
            return Some(job);
        }
        let waited;
        (lent, waited) = NEWS.wait_timeout(lent, IDLE).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && lent.jobs.is_empty() {
            lent.free -= 1;
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn one_thread_does_one_job_after_the_other_and_many_do_many() {
        let (to, done) = mpsc::channel();
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            let to = to.clone();
            lend(c"migrt-test", move || to.send(thread::current().id()).unwrap()).unwrap();
            seen.insert(format!("{:?}", done.recv().unwrap()));
            // It waits again in a moment.
            thread::sleep(Duration::from_millis(20));
        }
        assert!(seen.len() < 10, "hardly a thread was lent twice: {seen:?}");
        // None of these can end before all have begun.
        let all = std::sync::Arc::new(std::sync::Barrier::new(9));
        for _ in 0..8 {
            let all = all.clone();
            lend(c"migrt-test", move || _ = all.wait()).unwrap();
        }
        all.wait();
    }
}
