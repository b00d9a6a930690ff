//! Starts programs of migrt as real processes, with a time limit, and watches what they do.
//!
//! [`Run`] is one start of a program: it and its nodes are one process group, which is killed when
//! the run is dropped, so no test leaves a process or hangs. [`steps`] is the log in which tasks
//! note every step they make, and what must be true of it.

pub mod steps;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a run may take unless said otherwise.
pub const LIMIT: Duration = Duration::from_secs(40);

/// A program that runs, and all it has said so far.
#[derive(Debug)]
pub struct Run {
    child: Child,
    said: Arc<Said>,
    until: Instant,
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Vec<Line>>,
    news: Condvar,
    /// Pipes that are still open.
    open: Mutex<u32>,
}

/// One line of output, and when it came.
#[derive(Clone, Debug)]
pub struct Line {
    /// Without its end.
    pub text: String,
    /// It came on the standard error.
    pub is_error: bool,
    /// When it was read.
    pub when: Instant,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Of the process that was started.
    pub status: ExitStatus,
    /// All lines, of all its nodes.
    pub lines: Vec<Line>,
}

impl Run {
    /// Starts `program` with these arguments and variables.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new(program);
        command.args(arguments);
        for name in ["MIGRT_CLUSTER", "MIGRT_NODE", "MIGRT_NODES", "MIGRT_FAIL", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        Run::start_command(command)
    }

    /// Starts a command that was made elsewhere.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_command(mut command: Command) -> Run {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command.spawn().expect("the program is there");
        let said = Arc::new(Said { open: Mutex::new(2), ..Said::default() });
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        listen(out, false, said.clone());
        listen(err, true, said.clone());
        Run { child, said, until: Instant::now() + LIMIT }
    }

    /// Another time limit, from now on.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Run {
        self.until = Instant::now() + limit;
        self
    }

    /// The process that was started.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for a line that holds `part`.
    ///
    /// # Panics
    /// If none comes in time, or the output ends before.
    pub fn line(&self, part: &str) -> Line {
        let mut lines = self.said.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.text.contains(part)) {
                return line.clone();
            }
            let over = *self.said.open.lock().unwrap() == 0 || Instant::now() > self.until;
            assert!(!over, "no line with {part:?} in:\n{}", text(&lines));
            lines = self.said.news.wait_timeout(lines, Duration::from_millis(50)).unwrap().0;
        }
    }

    /// Waits until the program has ended and all its nodes have let go of its output.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn end(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            self.check_time("the program did not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        while *self.said.open.lock().unwrap() > 0 {
            self.check_time("the program has ended, but a node has not");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ended { status, lines: self.said.lines.lock().unwrap().clone() }
    }

    fn check_time(&self, what: &str) {
        let late = Instant::now() > self.until;
        assert!(!late, "{what}:\n{}", text(&self.said.lines.lock().unwrap()));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The group outlives its leader while nodes of it run. (Its number is not given out again
        // as long as it has members.)
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its exit code, or 128 and the signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        let of_signal = || 128 + self.status.signal().unwrap_or(0);
        self.status.code().unwrap_or_else(of_signal)
    }

    /// All that was said.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.lines)
    }

    /// What stands behind `key` and a space on the first line that begins so.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn value(&self, key: &str) -> &str {
        let found = self.lines.iter().find_map(|line| line.text.strip_prefix(key));
        found.unwrap_or_else(|| panic!("no {key:?} in:\n{}", self.text())).trim_start()
    }

    /// When the first line with `part` came.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn when(&self, part: &str) -> Instant {
        let found = self.lines.iter().find(|line| line.text.contains(part));
        found.unwrap_or_else(|| panic!("no {part:?} in:\n{}", self.text())).when
    }

    /// Checks the exit code and that each of these parts was said.
    ///
    /// # Panics
    /// If not.
    pub fn expect(&self, code: i32, parts: &[&str]) -> &Ended {
        assert_eq!(self.code(), code, "{}", self.text());
        for part in parts {
            assert!(self.text().contains(part), "{part:?} is not in:\n{}", self.text());
        }
        self
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

fn listen(pipe: impl Read + Send + 'static, is_error: bool, said: Arc<Said>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(b'\n', &mut bytes).is_ok_and(|len| len > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            let line = Line { text, is_error, when: Instant::now() };
            said.lines.lock().unwrap().push(line);
            said.news.notify_all();
            bytes.clear();
        }
        *said.open.lock().unwrap() -= 1;
        said.news.notify_all();
    });
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A file or folder of its own for one test, removed on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A name that nobody else uses.
    #[must_use]
    pub fn new(name: &str) -> Scratch {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("migrt-test-{}-{number}-{name}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where it is, as text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A number from the environment: how much a test does.
#[must_use]
pub fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Does `deed` for each item, a few at a time. A panic names its item and fails the caller.
///
/// # Panics
/// If one of them does.
pub fn for_each<T: Send + Sync + std::fmt::Debug>(
    items: &[T],
    at_once: usize,
    deed: impl Fn(&T) + Sync,
) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let outcome =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deed(item)));
                    if outcome.is_err() {
                        failed.lock().unwrap().push(format!("{item:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), items.len());
}
