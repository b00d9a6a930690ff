//! The net thread's executor: a ready queue, timers and one `mio` poll, and nothing else.
//!
//! It exists because QUIC needs three things from a runtime (spawn, timer, socket) and because the
//! latency of a move is mostly the latency of this loop. It runs what is ready before it asks the
//! kernel for anything; it spins for a moment before it sleeps; and another thread that hands it
//! work pays for an `eventfd` write only when the loop really sleeps. It relies on being the only
//! thread that polls tasks. Absent: fairness between tasks beyond first come, first served, and
//! stealing, which one thread does not need.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::alarm::Alarm;
use super::socket::UdpSocket;
use super::spin::Spin;
use super::timer::Timers;

/// A task of the net thread.
pub(super) type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

const WAKE_TOKEN: Token = Token(0);
const ALARM_TOKEN: Token = Token(1);
const FIRST_SOCKET_TOKEN: usize = 2;

/// So many tasks are run before the kernel is asked for events again.
const TASKS_PER_TURN: usize = 128;
/// However much there is to do, the kernel is asked for events so often.
const LOOK_AT_LEAST: Duration = Duration::from_millis(1);

/// What the owner of the loop does in every turn, before the tasks.
pub(super) trait Turn {
    /// Runs what other threads have handed in.
    fn begin(&mut self);
    /// Closes the turn: the place for work that is due once for all that happened in it.
    fn end(&mut self);
    /// When `begin` wants to be called although nothing happens.
    fn deadline(&self) -> Option<Instant>;
}

/// A handle on the executor; clones share it.
#[derive(Clone)]
pub(super) struct Exec {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    ready: Mutex<VecDeque<Arc<Task>>>,
    tasks: Mutex<HashMap<u64, Arc<Task>>>,
    next_task: AtomicU64,
    timers: Mutex<Timers>,
    sockets: Mutex<Vec<Arc<UdpSocket>>>,
    registry: mio::Registry,
    waker: mio::Waker,
    /// Set by every push; the loop clears it before it looks into the queues.
    work: AtomicBool,
    /// True only while the loop is (about to be) blocked in the kernel.
    sleeping: AtomicBool,
    stopped: AtomicBool,
    spin_ns: AtomicU64,
    start: Instant,
    /// See [`Shared::now`].
    now_ns: AtomicU64,
}

struct Task {
    id: u64,
    future: Mutex<Option<BoxFuture>>,
    queued: AtomicBool,
    exec: Weak<Shared>,
}

thread_local! {
    /// Address of the `Shared` whose loop this thread runs; 0 elsewhere.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Locks a mutex whose data stays valid if a holder panicked (the net thread then aborts anyway).
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exec {
    /// Makes an executor and the poll that [`run`](Self::run) will block in.
    pub(super) fn new(spin: Duration) -> io::Result<(Self, Poll)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, WAKE_TOKEN)?;
        let shared = Shared {
            ready: Mutex::default(),
            tasks: Mutex::default(),
            next_task: AtomicU64::new(0),
            timers: Mutex::default(),
            sockets: Mutex::default(),
            registry,
            waker,
            work: AtomicBool::new(true),
            sleeping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            spin_ns: AtomicU64::new(0),
            start: Instant::now(),
            now_ns: AtomicU64::new(0),
        };
        let exec = Self { shared: Arc::new(shared) };
        exec.set_spin(spin);
        Ok((exec, poll))
    }

    /// Starts a task.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(future));
    }

    fn spawn_boxed(&self, future: BoxFuture) {
        let id = self.shared.next_task.fetch_add(1, Ordering::Relaxed);
        let task = Arc::new(Task {
            id,
            future: Mutex::new(Some(future)),
            queued: AtomicBool::new(false),
            exec: Arc::downgrade(&self.shared),
        });
        lock(&self.shared.tasks).insert(id, task.clone());
        task.wake_by_ref();
    }

    /// Tells the loop that there is something for [`Turn::begin`]; call after storing it.
    pub(super) fn notify(&self) {
        self.shared.notify();
    }

    /// Ends [`run`](Self::run) after the current turn.
    pub(super) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.notify();
    }

    /// How long the loop may spin before it sleeps; zero turns spinning off.
    pub(super) fn set_spin(&self, spin: Duration) {
        let ns = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: a hint, nothing is ordered by it.
        self.shared.spin_ns.store(ns, Ordering::Relaxed);
    }

    /// Whether the calling thread is the one that runs this executor's loop.
    ///
    /// Never inlined: callers may be task code, whose thread-local addresses must not be cached
    /// across a suspension (facts T8).
    #[inline(never)]
    pub(super) fn is_current(&self) -> bool {
        std::hint::black_box(RUNNING.with(Cell::get)) == Arc::as_ptr(&self.shared) as usize
    }

    /// A future that is done at `deadline`.
    pub(super) fn sleep_until(&self, deadline: Instant) -> super::timer::Sleep {
        super::timer::Sleep::new(self.shared.clone(), deadline)
    }

    /// A future that is done after `pause`.
    pub(super) fn sleep(&self, pause: Duration) -> super::timer::Sleep {
        self.sleep_until(Instant::now() + pause)
    }

    /// Runs the loop on this thread until [`stop`](Self::stop), then drops all tasks.
    ///
    /// # Errors
    /// Only if the kernel refuses to poll.
    pub(super) fn run(&self, mut poll: Poll, turn: &mut dyn Turn) -> io::Result<()> {
        let _running = Running::enter(Arc::as_ptr(&self.shared) as usize);
        let alarm = Alarm::new(&self.shared.registry, ALARM_TOKEN)?;
        let mut events = Events::with_capacity(64);
        let mut spin = Spin::default();
        while !self.shared.stopped.load(Ordering::SeqCst) {
            self.shared.work.store(false, Ordering::SeqCst);
            turn.begin();
            let full = self.run_ready();
            turn.end();
            if full {
                self.look(&mut poll, &mut events, Some(Duration::ZERO))?;
            } else if !self.shared.work.load(Ordering::SeqCst) {
                self.rest(&mut poll, &mut events, &alarm, &mut spin, turn.deadline())?;
            } else if self.shared.now() + LOOK_AT_LEAST < Instant::now() {
                self.look(&mut poll, &mut events, Some(Duration::ZERO))?;
            }
            lock(&self.shared.timers).fire(self.shared.now());
        }
        self.drop_tasks();
        Ok(())
    }

    /// Runs ready tasks; true if the turn's share was used up.
    fn run_ready(&self) -> bool {
        for _ in 0..TASKS_PER_TURN {
            let Some(task) = lock(&self.shared.ready).pop_front() else {
                return false;
            };
            self.run_task(task);
        }
        // The rest must not be slept on.
        self.shared.work.store(true, Ordering::SeqCst);
        true
    }

    fn run_task(&self, task: Arc<Task>) {
        // Cleared before the poll: a wake during it must queue the task again.
        task.queued.store(false, Ordering::SeqCst);
        let mut slot = lock(&task.future);
        let Some(future) = slot.as_mut() else { return };
        let waker = Waker::from(task.clone());
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            let finished = slot.take();
            drop(slot);
            lock(&self.shared.tasks).remove(&task.id);
            drop(finished);
        }
    }

    /// Nothing is ready: look once, spin for a moment, then sleep.
    fn rest(
        &self,
        poll: &mut Poll,
        events: &mut Events,
        alarm: &Alarm,
        spin: &mut Spin,
        turn_deadline: Option<Instant>,
    ) -> io::Result<()> {
        let timer = lock(&self.shared.timers).next();
        let deadline = [timer, turn_deadline].into_iter().flatten().min();
        if self.look(poll, events, Some(Duration::ZERO))? {
            return Ok(());
        }
        let limit = Duration::from_nanos(self.shared.spin_ns.load(Ordering::Relaxed));
        let mut round = spin.start(limit, deadline);
        while round.go_on() {
            if self.look(poll, events, Some(Duration::ZERO))?
                || self.shared.work.load(Ordering::SeqCst)
            {
                spin.finish(round, true);
                return Ok(());
            }
        }
        spin.finish(round, false);
        self.shared.sleeping.store(true, Ordering::SeqCst);
        // SeqCst on both sides pairs this load with `notify`: either it sees `sleeping` and wakes
        // us, or we see its `work` here.
        if !self.shared.work.load(Ordering::SeqCst) {
            let wait = alarm.arm(deadline)?;
            self.look(poll, events, wait)?;
        }
        self.shared.sleeping.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Polls the kernel and hands events out; true if there were any.
    fn look(
        &self,
        poll: &mut Poll,
        events: &mut Events,
        wait: Option<Duration>,
    ) -> io::Result<bool> {
        self.shared.set_now();
        match poll.poll(events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error),
        }
        if events.is_empty() {
            return Ok(false);
        }
        let sockets = lock(&self.shared.sockets);
        for event in events.iter() {
            let Some(index) = event.token().0.checked_sub(FIRST_SOCKET_TOKEN) else {
                continue;
            };
            let Some(socket) = sockets.get(index) else {
                continue;
            };
            // An error state is reported by the next read or write: wake both.
            if event.is_readable() || event.is_error() {
                socket.on_readable();
            }
            if event.is_writable() || event.is_error() {
                socket.on_writable();
            }
        }
        Ok(true)
    }

    /// Futures own wakers of each other; dropping them by hand breaks those circles.
    fn drop_tasks(&self) {
        loop {
            let tasks: Vec<_> = lock(&self.shared.tasks).drain().collect();
            if tasks.is_empty() {
                break;
            }
            for (_, task) in tasks {
                let future = lock(&task.future).take();
                drop(future);
            }
        }
        lock(&self.shared.ready).clear();
        lock(&self.shared.sockets).clear();
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}

impl quinn::Runtime for Exec {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        Box::pin(self.sleep_until(deadline))
    }

    fn spawn(&self, future: BoxFuture) {
        self.spawn_boxed(future);
    }

    fn wrap_udp_socket(
        &self,
        socket: std::net::UdpSocket,
    ) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let mut sockets = lock(&self.shared.sockets);
        let token = Token(FIRST_SOCKET_TOKEN + sockets.len());
        let registry = self.shared.registry.try_clone()?;
        let socket = Arc::new(UdpSocket::new(socket, registry, token)?);
        sockets.push(socket.clone());
        Ok(socket)
    }
}

impl Shared {
    /// The time by which timers are due: when the kernel was last asked for events. A process that
    /// was stopped for long finds timers and packets at once when it goes on; the packets came
    /// first, and a link that they belong to has not timed out.
    pub(super) fn now(&self) -> Instant {
        // Relaxed: only the net thread reads and writes it.
        self.start + Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }

    fn set_now(&self) {
        let ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.now_ns.store(ns, Ordering::Relaxed);
    }

    pub(super) fn timers(&self) -> MutexGuard<'_, Timers> {
        lock(&self.timers)
    }

    fn notify(&self) {
        self.work.store(true, Ordering::SeqCst);
        // Load first: the swap would fight over the cache line while the loop is awake.
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only if the eventfd is gone, and then so is the loop.
            let _ = self.waker.wake();
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(exec) = self.exec.upgrade() {
            lock(&exec.ready).push_back(self.clone());
            exec.notify();
        }
    }
}

/// Marks this thread as the loop's while it lives.
struct Running(usize);

impl Running {
    fn enter(id: usize) -> Self {
        Self(RUNNING.replace(id))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}
