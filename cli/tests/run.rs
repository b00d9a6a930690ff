//! `migrt run` as a user sees it, with shell scripts in place of nodes: output, exit codes, signals,
//! and that no process is left in any case.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A launcher at work, with a folder for temporary files of its own.
struct Run {
    launcher: Option<Child>,
    stdout: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Run {
    /// Starts `sh -c script` on so many nodes.
    fn start(nodes: u16, script: &str) -> Run {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("migrt-cli-test-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut launcher = Command::new(env!("CARGO_BIN_EXE_migrt"))
            .args(["run", "-n", &nodes.to_string(), "--workers", "3", "--", "sh", "-c", script])
            .env("TMPDIR", &folder)
            .env("MIGRT_JOIN", "192.0.2.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Of its own, with its parent outside: in a group that nobody is left to resume, as the
            // tests' may be, the kernel ignores a stop.
            .process_group(0)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(launcher.stdout.take().unwrap());
        Run { launcher: Some(launcher), stdout, folder }
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines: Vec<String> = (0..count)
            .map(|_| {
                let mut line = String::new();
                self.stdout.read_line(&mut line).unwrap();
                assert!(line.ends_with('\n'), "the output ended early, after {line:?}");
                line.trim_end().to_owned()
            })
            .collect();
        lines.sort();
        lines
    }

    /// The process numbers that the nodes print.
    fn pids(&mut self, count: usize) -> Vec<u32> {
        let number = |line: String| line.rsplit(' ').next().unwrap().parse().unwrap();
        self.lines(count).into_iter().map(number).collect()
    }

    fn id(&self) -> u32 {
        self.launcher.as_ref().unwrap().id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.id() as i32).unwrap(), signal).unwrap();
    }

    /// Waits for its end: exit code, what stood on stdout, stderr.
    fn end(&mut self) -> (Option<i32>, String, String) {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let Output { status, stderr, .. } =
            self.launcher.take().unwrap().wait_with_output().unwrap();
        (status.code(), text, String::from_utf8(stderr).unwrap())
    }

    fn folder_is_empty(&self) -> bool {
        fs::read_dir(&self.folder).unwrap().next().is_none()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(launcher) = &mut self.launcher {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The state letter of a process; `None` if it is gone, as a zombie is.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let letter = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    (letter != 'Z' && letter != 'X').then_some(letter)
}

/// Waits until it holds; far longer than it can take.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "still not so: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn assert_gone(pids: &[u32]) {
    for pid in pids {
        assert_eq!(state(*pid), None, "process {pid} is left");
    }
}

/// Runs a script to its end.
fn check(nodes: u16, script: &str, code: i32) -> (Vec<String>, String) {
    let mut run = Run::start(nodes, script);
    let (got, stdout, stderr) = run.end();
    assert_eq!(got, Some(code), "{script}: {stderr}");
    assert!(run.folder_is_empty(), "the cluster's folder is left");
    let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
    lines.sort();
    (lines, stderr)
}

#[test]
fn each_line_is_shown_with_its_node() {
    let (lines, stderr) = check(3, "echo one; echo two >&2; printf 'no newline'", 0);
    let both = |node| [format!("[{node}] no newline"), format!("[{node}] one")];
    assert_eq!(lines, [0, 1, 2].map(both).concat());
    let mut errors: Vec<&str> = stderr.lines().collect();
    errors.sort_unstable();
    assert_eq!(errors, ["[0] two", "[1] two", "[2] two"]);
}

#[test]
fn lines_of_nodes_that_print_at_once_stay_whole() {
    let script =
        "i=0; while [ $i -lt 500 ]; do echo \"$MIGRT_NODE says $i to all\"; i=$((i+1)); done";
    let (lines, _) = check(4, script, 0);
    let mut wanted: Vec<String> = (0..4)
        .flat_map(|node| (0..500).map(move |i| format!("[{node}] {node} says {i} to all")))
        .collect();
    wanted.sort();
    assert_eq!(lines, wanted);
}

#[test]
fn nodes_are_told_who_they_are() {
    let script = "echo $MIGRT_NODE of $MIGRT_NODES workers $MIGRT_WORKERS join ${MIGRT_JOIN-none}; \
                  test -d \"$MIGRT_CLUSTER\"";
    let (lines, _) = check(2, script, 0);
    assert_eq!(lines, ["[0] 0 of 2 workers 3 join none", "[1] 1 of 2 workers 3 join none"]);
}

#[test]
fn standard_input_goes_to_node_0() {
    let mut run = Run::start(2, "cat; echo end");
    run.launcher.as_mut().unwrap().stdin.take().unwrap().write_all(b"words\n").unwrap();
    let (code, stdout, _) = run.end();
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines), (Some(0), vec!["[0] end", "[0] words", "[1] end"]));
}

#[test]
fn the_exit_code_is_that_of_the_first_failure() {
    check(1, "exit 7", 7);
    let later = |first: &str, then: &str| {
        format!(
            "test $MIGRT_NODE = 1 && {{ touch \"$MIGRT_CLUSTER/1\"; {first}; }}; \
             until test -e \"$MIGRT_CLUSTER/1\"; do sleep 0.02; done; sleep 0.5; {then}"
        )
    };
    check(2, &later("exit 5", "exit 6"), 5);
    check(2, "test $MIGRT_NODE = 0 && { sleep 0.5; exit 0; }; exit 9", 9);
    let (_, stderr) = check(2, &later("kill -SEGV $$", "exit 6"), 128 + 11);
    assert!(stderr.contains("node 1 was killed by signal 11 (SIGSEGV)"), "{stderr}");
}

#[test]
fn when_node_0_has_ended_the_others_are_killed_and_that_is_no_failure() {
    let mut run = Run::start(3, "echo $$; test $MIGRT_NODE = 0 || exec sleep 1000");
    let pids = run.pids(3);
    let (code, _, stderr) = run.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("node 1, 2"), "{stderr}");
    assert_gone(&pids);
}

#[test]
fn ctrl_c_reaches_all_nodes() {
    let mut run =
        Run::start(3, "trap 'echo stopped; exit 3' INT; echo $$; while :; do sleep 0.05; done");
    let pids = run.pids(3);
    run.signal(Signal::INT);
    let (code, stdout, _) = run.end();
    assert_eq!((code, stdout.matches("stopped").count()), (Some(3), 3), "{stdout}");
    assert_gone(&pids);
    assert!(run.folder_is_empty());
}

#[test]
fn nodes_that_do_not_hear_are_killed() {
    for (signal, again) in [(Signal::INT, false), (Signal::INT, true), (Signal::TERM, false)] {
        let mut run = Run::start(2, "trap '' INT TERM; echo $$; while :; do sleep 0.05; done");
        let pids = run.pids(2);
        run.signal(signal);
        if again {
            run.signal(signal);
        }
        let (code, ..) = run.end();
        assert_eq!(code, Some(128 + signal.as_raw()));
        assert_gone(&pids);
        assert!(run.folder_is_empty());
    }
}

#[test]
fn plain_nodes_end_by_the_signal() {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a line");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a number");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        if signal == Signal::HUP && ignored & 1 != 0 {
            println!("skipped: SIGHUP is ignored here (nohup), so it is by the launcher too");
            continue;
        }
        let mut run = Run::start(2, "echo $$; exec sleep 1000");
        let pids = run.pids(2);
        run.signal(signal);
        assert_eq!(run.end().0, Some(128 + signal.as_raw()));
        assert_gone(&pids);
    }
}

#[test]
fn ctrl_c_works_for_a_launcher_in_the_background_too() {
    // A shell without job control starts such a one with SIGINT ignored.
    let launcher = env!("CARGO_BIN_EXE_migrt");
    let script = format!(
        "trap '' INT; '{launcher}' run -n 2 -- sh -c 'echo $$; exec sleep 1000' & echo launcher $!; \
         wait $!; echo code $?"
    );
    let mut shell =
        Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (mut launcher, mut pids) = (None, Vec::<u32>::new());
    while launcher.is_none() || pids.len() < 2 {
        let line = lines.next().unwrap();
        let number = line.rsplit(' ').next().unwrap().parse().unwrap();
        if line.starts_with("launcher") {
            launcher = Some(number as i32);
        } else {
            pids.push(number);
        }
    }
    // Not ignored: signal 2 is not in the set.
    for pid in &pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 0b110, 0);
    }
    kill_process(Pid::from_raw(launcher.unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(lines.last().unwrap(), "code 130");
    shell.wait().unwrap();
    assert_gone(&pids);
}

#[test]
fn what_a_node_has_started_ends_with_it() {
    let mut run = Run::start(2, "sleep 1000 & echo $!; sleep 0.1");
    let pids = run.pids(2);
    assert_eq!(run.end().0, Some(0));
    soon("the nodes' own children are gone", || pids.iter().all(|pid| state(*pid).is_none()));
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed() {
    // Each node, and a process that it has started.
    let mut run = Run::start(3, "sleep 1000 & echo $!; echo $$; wait");
    let pids = run.pids(6);
    assert!(pids.iter().all(|pid| state(*pid).is_some()));
    assert!(!run.folder_is_empty());
    run.signal(Signal::KILL);
    assert_eq!(run.end().0, None);
    soon("the nodes are gone", || pids.iter().all(|pid| state(*pid).is_none()));
    soon("the cluster's folder is gone", || run.folder_is_empty());
}

#[test]
fn nodes_stop_when_nobody_reads_their_output() {
    let mut run = Run::start(2, "echo $$; while :; do echo more; sleep 0.01; done");
    let mut pids = Vec::new();
    while pids.len() < 2 {
        let line = run.lines(1).remove(0);
        pids.extend(line.rsplit(' ').next().unwrap().parse::<u32>());
    }
    let empty = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let mut empty_child = empty;
    run.stdout = BufReader::new(empty_child.stdout.take().unwrap());
    empty_child.wait().unwrap();
    let (code, ..) = run.end();
    assert!(matches!(code, Some(141 | 143)), "{code:?}");
    assert_gone(&pids);
}

#[test]
fn nodes_of_a_paused_launcher_run_on() {
    // Paused themselves, they would outlive their leases and lose their tasks.
    let script = "echo $$; until test -e \"$MIGRT_CLUSTER/go\"; do sleep 0.02; done; \
                  touch \"$MIGRT_CLUSTER/went-$MIGRT_NODE\"; exec sleep 1000";
    let mut run = Run::start(2, script);
    let pids = run.pids(2);
    run.signal(Signal::TSTP);
    soon("the launcher has stopped", || state(run.id()) == Some('T'));
    let cluster = fs::read_dir(&run.folder).unwrap().next().unwrap().unwrap().path();
    fs::write(cluster.join("go"), "").unwrap();
    soon("the nodes went on", || (0..2).all(|node| cluster.join(format!("went-{node}")).exists()));
    run.signal(Signal::CONT);
    run.signal(Signal::TERM);
    assert_eq!(run.end().0, Some(128 + 15));
    assert_gone(&pids);
}

#[test]
fn bad_input_is_named_with_the_next_step() {
    let refused = |arguments: &[&str], words: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_migrt")).arg("run").args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    };
    refused(&["-n", "2", "--", "./missing"], &["./missing", "no such file", "build it"]);
    refused(&["-n", "2", "--", "Cargo.toml"], &["Cargo.toml", "./Cargo.toml"]);
    refused(&["-n", "2", "--", "./Cargo.toml"], &["./Cargo.toml", "chmod +x"]);
    refused(&["-n", "2", "--", "./src"], &["./src", "not a file"]);
    refused(&["-n", "0", "--", "sh"], &["1 to 64"]);
    refused(&["-n", "65", "--", "sh"], &["65", "1 to 64"]);
    refused(&["-n", "two", "--", "sh"], &["two", "1 to 64"]);
    refused(&["-n", "2", "--workers", "0", "--", "sh"], &["1 to 512"]);
    refused(&["-n", "2"], &["PROGRAM"]);
    refused(&["--", "sh"], &["-n"]);
}
