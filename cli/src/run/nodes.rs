//! The nodes' processes, from their start until none is left.
//!
//! One loop on the main thread waits for whatever comes first: a process that ends (by its pidfd), a
//! signal to us, our output closed, a time that is up.
//!
//! ```text
//!            node 0 ended          3 s                 all ended
//! running ----------------> ending ------> killing ---------------> done
//!    |    Ctrl-C, SIGTERM …          2 s      ^
//!    '--------------------> stopping ---------' or a second signal
//! ```
//!
//! A process that has ended stays a zombie until all have: its number, which is also that of its
//! group, cannot be given to another meanwhile, and so the group can be killed without doubt. What a
//! node started and moved to a session of its own is out of reach.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::guard::Guard;
use super::output::{Output, Target};
use super::signals::Signals;
use super::spawn::Plan;

/// What the others get when node 0 has ended.
const PATIENCE_END: Duration = Duration::from_secs(3);
/// What all get when they are told to stop.
const PATIENCE_STOP: Duration = Duration::from_secs(2);
/// What the last output gets to be shown.
const PATIENCE_OUTPUT: Duration = Duration::from_secs(1);

/// All of them. On drop what still runs is killed.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    output: Option<Output>,
    guard: Guard,
    /// The cause of the exit code: how the first one that failed ended.
    first_failure: Option<End>,
    /// The signal that asked us to stop.
    stop: Option<Signal>,
    deadline: Option<Instant>,
    killed: bool,
}

#[derive(Debug)]
struct Node {
    number: u16,
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    end: Option<End>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Signal(i32),
}

impl Nodes {
    /// Starts them all.
    ///
    /// # Errors
    ///
    /// One could not be started; those that run already are killed.
    pub(super) fn start(
        plan: &Plan,
        count: u16,
        environment: &dyn Fn(u16) -> Vec<(&'static str, String)>,
        guard: Guard,
    ) -> Result<Nodes, String> {
        let failed = |error: io::Error| format!("{error}; fewer nodes may do: lower -n");
        let mut nodes = Nodes {
            nodes: Vec::new(),
            output: None,
            guard,
            first_failure: None,
            stop: None,
            deadline: None,
            killed: false,
        };
        let mut output = Output::new().map_err(failed)?;
        let terminal = io::stdin().is_terminal();
        for number in 0..count {
            // In a group of its own a node may not read the terminal: we do, and hand it on.
            let stdin = match (number, terminal) {
                (0, false) => Stdio::inherit(),
                (0, true) => Stdio::piped(),
                _ => Stdio::null(),
            };
            let child = plan.start(number, environment(number), stdin)?;
            let pid = Pid::from_child(&child);
            // Before anything else can fail, so that it is not forgotten.
            let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => pidfd,
                Err(error) => {
                    end_group(pid, child);
                    return Err(failed(error.into()));
                }
            };
            nodes.nodes.push(Node { number, child, pid, pidfd, end: None });
            nodes.guard.watch(pid).map_err(failed)?;
            let child = &mut nodes.nodes.last_mut().expect("pushed just now").child;
            let streams = (child.stdout.take(), child.stderr.take(), child.stdin.take());
            if let (Some(stdout), Some(stderr), stdin) = streams {
                output.show(number, stdout, Target::Stdout).map_err(failed)?;
                output.show(number, stderr, Target::Stderr).map_err(failed)?;
                if let Some(stdin) = stdin {
                    thread::Builder::new()
                        .name("input".into())
                        .spawn(move || hand_on_input(stdin))
                        .map_err(failed)?;
                }
            }
        }
        nodes.output = Some(output);
        Ok(nodes)
    }

    /// Waits until all have ended, and gives the exit code.
    ///
    /// # Errors
    ///
    /// The kernel does not let us wait.
    pub(super) fn supervise(mut self, signals: &Signals) -> Result<u8, String> {
        while self.nodes.iter().any(|node| node.end.is_none()) {
            let closed = self.wait(signals).map_err(|e| format!("waiting failed: {e}"))?;
            self.collect_ends();
            while let Some(signal) = signals.next() {
                self.take_signal(signal);
            }
            if closed && self.stop.is_none() {
                self.ask_to_stop(Signal::PIPE);
            }
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.kill();
            }
        }
        // What the nodes have left behind holds their output open, and would live on.
        self.kill_groups();
        if let Some(output) = self.output.take() {
            output.finish(PATIENCE_OUTPUT);
        }
        Ok(self.exit_code())
    }

    /// Sleeps until something has happened. Tells whether our output is closed.
    fn wait(&self, signals: &Signals) -> io::Result<bool> {
        let output = self.output.as_ref().expect("started");
        let mut fds =
            vec![PollFd::new(signals, PollFlags::IN), PollFd::new(output.closed(), PollFlags::IN)];
        if self.stop.is_some() {
            // Told once; it stays readable.
            fds.truncate(1);
        }
        let running = self.nodes.iter().filter(|node| node.end.is_none());
        let first = fds.len();
        fds.extend(running.map(|node| PollFd::from_borrowed_fd(node.pidfd.as_fd(), PollFlags::IN)));
        let timeout = self.deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(first == 2 && !fds[1].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn collect_ends(&mut self) {
        let mut failures = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| node.end.is_none()) {
            let Some(end) = node.ended() else { continue };
            node.end = Some(end);
            // What we killed did not fail.
            if end != End::Code(0) && !self.killed {
                failures.push((node.number, end));
            }
            if node.number == 0 && !self.killed {
                let deadline = Instant::now() + PATIENCE_END;
                self.deadline = Some(self.deadline.map_or(deadline, |old| old.min(deadline)));
            }
        }
        if self.stop.is_none() {
            for (number, end) in &failures {
                eprintln!("migrt run: node {number} {end}");
            }
        }
        // Of those that ended at one time a killed one is the likelier cause: the others saw it go.
        failures.sort_by_key(|(number, end)| (matches!(end, End::Code(_)), *number));
        self.first_failure = self.first_failure.or(failures.first().map(|(_, end)| *end));
    }

    fn take_signal(&mut self, signal: Signal) {
        if self.stop.is_some() {
            self.kill();
        } else {
            self.ask_to_stop(signal);
        }
    }

    fn ask_to_stop(&mut self, signal: Signal) {
        self.stop = Some(signal);
        let deadline = Instant::now() + PATIENCE_STOP;
        self.deadline = Some(self.deadline.map_or(deadline, |old| old.min(deadline)));
        // A node has no part in the end of our output.
        self.tell(if signal == Signal::PIPE { Signal::TERM } else { signal });
    }

    fn tell(&self, signal: Signal) {
        for node in self.nodes.iter().filter(|node| node.end.is_none()) {
            let _ = kill_process_group(node.pid, signal);
        }
    }

    fn kill(&mut self) {
        if self.stop.is_none() && !self.killed {
            let still: Vec<String> = (self.nodes.iter().filter(|node| node.end.is_none()))
                .map(|node| node.number.to_string())
                .collect();
            eprintln!(
                "migrt run: killed what still ran {} s after node 0 had ended: node {}",
                PATIENCE_END.as_secs(),
                still.join(", ")
            );
        }
        self.killed = true;
        self.deadline = None;
        self.tell(Signal::KILL);
    }

    fn kill_groups(&mut self) {
        for node in &mut self.nodes {
            let _ = kill_process_group(node.pid, Signal::KILL);
            let _ = node.child.wait();
        }
        self.nodes.clear();
    }

    fn exit_code(&self) -> u8 {
        let code = match (self.first_failure, self.stop) {
            (Some(End::Code(code)), _) => code,
            (Some(End::Signal(signal)), _) => 128 + signal,
            (None, Some(stop)) if self.killed || stop == Signal::PIPE => 128 + stop.as_raw(),
            (None, _) => 0,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_groups();
    }
}

impl Node {
    /// How it ended, if it has; leaves it a zombie.
    fn ended(&self) -> Option<End> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options).ok()??;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(End::Code(code)),
            (None, signal) => Some(End::Signal(signal.unwrap_or(0))),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "ended with exit code {code}"),
            End::Signal(signal) => {
                let name = match *signal {
                    libc::SIGSEGV => " (SIGSEGV)",
                    libc::SIGABRT => " (SIGABRT)",
                    libc::SIGBUS => " (SIGBUS)",
                    libc::SIGILL => " (SIGILL)",
                    libc::SIGKILL => " (SIGKILL)",
                    libc::SIGTERM => " (SIGTERM)",
                    _ => "",
                };
                write!(f, "was killed by signal {signal}{name}")
            }
        }
    }
}

fn end_group(pid: Pid, mut child: Child) {
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait();
}

/// Hands the terminal's input on to node 0, until either end is closed.
fn hand_on_input(mut to: ChildStdin) {
    let mut chunk = [0; 4096];
    loop {
        match io::stdin().lock().read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => {
                if to.write_all(&chunk[..len]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // We are in the background (EIO): perhaps not for long.
            Err(_) => thread::sleep(Duration::from_millis(500)),
        }
    }
}
