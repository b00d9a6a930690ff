//! Runs one of this package's programs with a time limit and keeps what it printed.
//!
//! The limit is there so that a hang is a failure with a text, not to measure anything.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code 0.
    pub good: bool,
    /// `exit status: 1`, `signal: 11 (SIGSEGV)`, or `no end within 60 s`.
    pub how: String,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Fails the test with all that the program said, unless it ended well.
    ///
    /// # Panics
    /// If the program did not end well.
    pub fn expect_good(&self) {
        assert!(self.good, "{}\n{}\n{}", self.how, self.out, self.err);
    }

    /// The lines of the output that begin with `word`, without it.
    #[must_use]
    pub fn lines_of(&self, word: &str) -> Vec<&str> {
        self.out.lines().filter_map(|line| line.strip_prefix(word)).map(str::trim).collect()
    }
}

/// Runs `program` with `args`, and `env` over this process's variables, for `limit` at most.
///
/// # Panics
/// If the program cannot be started.
#[must_use]
pub fn run(program: &str, args: &[&str], env: &[(&str, &str)], limit: Duration) -> Ended {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["MIGRT_CHAOS", "MIGRT_AUDIT", "MIGRT_FAIL", "MIGRT_NODE", "MIGRT_CLUSTER"] {
        command.env_remove(name);
    }
    command.envs(env.iter().copied());
    let mut child = command.spawn().expect("the program can be started");
    let out = drain(child.stdout.take().expect("piped"));
    let err = drain(child.stderr.take().expect("piped"));
    let until = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    Ended {
        good: status.is_some_and(|s| s.success()),
        how: status.map_or_else(|| format!("no end within {limit:?}"), |s| s.to_string()),
        out: out.join().expect("the reader does not panic"),
        err: err.join().expect("the reader does not panic"),
    }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
