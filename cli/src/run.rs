//! `migrt run -n 4 -- ./app args`: a program as a cluster of nodes on this machine.
//!
//! Makes a folder with a throw-away CA, starts one process per node, shows their output line by line
//! behind `[node] `, and ends when they have ended. The processes are `nodes`' concern, the output is
//! `output`'s, and signals are `signals`'. Absent: other machines; there something else starts the
//! processes (systemd, Slurm, Kubernetes).
//!
//! No process is left in any case: the loop in `nodes` ends all of them, the kernel kills the nodes
//! of a launcher that is killed itself, and `guard` ends what those have started.

pub(crate) mod guard;
mod nodes;
mod output;
#[allow(unsafe_code, reason = "signal masks and signalfd")]
mod signals;
#[allow(unsafe_code, reason = "a child asks the kernel to die with this process, before its exec")]
mod spawn;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use migrt::launch::ClusterDir;
use rustix::fs::Access;

use guard::Guard;
use nodes::Nodes;
use signals::Signals;
use spawn::Plan;

/// Start a program as a cluster of nodes on this machine.
///
/// Each output line is shown with its node's number. Standard input goes to node 0. When node 0 has
/// ended, the others get 3 s to end. The exit code is that of the first node that failed (128 + s if
/// signal s killed it). Ctrl-C stops all nodes; what does not end within 2 s, or until a second
/// Ctrl-C, is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many nodes, 1 to 64.
    #[arg(short = 'n', long = "nodes", value_name = "N", value_parser = nodes_from)]
    nodes: u16,
    /// Worker threads of each node; otherwise one per core.
    #[arg(long, value_name = "W", value_parser = workers_from)]
    workers: Option<u16>,
    /// The program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

pub(crate) fn main(options: Options) -> ExitCode {
    match run(options) {
        Ok(code) => ExitCode::from(code),
        Err(text) => {
            eprintln!("migrt run: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<u8, String> {
    let Options { nodes, workers, command } = options;
    let (program, arguments) = command.split_first().ok_or("name a program to run")?;
    let plan = Plan { program: find(program)?, arguments: arguments.to_vec() };
    // From here on a signal is an event that the loop in `nodes` takes, so that the folder and the
    // processes are cleared away in any case.
    let signals = Signals::take().map_err(|e| format!("signals cannot be taken: {e}"))?;
    let cluster = make_cluster(nodes)?;
    let environment = |node| {
        let mut variables = cluster.env(node, nodes);
        variables.extend(workers.map(|workers| ("MIGRT_WORKERS", workers.to_string())));
        variables
    };
    let guard = Guard::start(cluster.path()).map_err(|error| {
        format!("a second process cannot be started: {error}; raise `ulimit -u`")
    })?;
    Nodes::start(&plan, nodes, &environment, guard)?.supervise(&signals)
}

/// The one call that makes a cluster: a folder with an identity for each node.
fn make_cluster(nodes: u16) -> Result<ClusterDir, String> {
    ClusterDir::create(nodes).map_err(|error| error.to_string())
}

/// Finds the program as a shell would, but says what is wrong before any node starts.
fn find(program: &OsStr) -> Result<PathBuf, String> {
    let shown = program.to_string_lossy();
    let path = Path::new(program);
    if program.as_encoded_bytes().contains(&b'/') {
        return check(path).map(|()| path.to_owned()).map_err(|why| format!("{shown}: {why}"));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(path))
        .find(|candidate| check(candidate).is_ok());
    found.ok_or_else(|| {
        if !program.is_empty() && path.exists() {
            format!("{shown} is in this folder, but not in PATH; write ./{shown}")
        } else {
            format!("{shown:?} is not in PATH; give the program's path, such as ./target/x86_64-unknown-linux-gnu/release/app")
        }
    })
}

fn check(program: &Path) -> Result<(), String> {
    let facts = program.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; build it, or correct the path".to_owned()
        }
        _ => format!("{error}; correct the path"),
    })?;
    if !facts.is_file() {
        return Err("not a file; give the path of a program".into());
    }
    rustix::fs::access(program, Access::EXEC_OK)
        .map_err(|_| format!("may not be executed; run: chmod +x {}", program.display()))
}

fn nodes_from(text: &str) -> Result<u16, String> {
    within(text, 64, "a cluster on one machine has 1 to 64 nodes")
}

fn workers_from(text: &str) -> Result<u16, String> {
    within(text, 512, "a node has 1 to 512 workers")
}

fn within(text: &str, most: u16, rule: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(rule.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_and_by_name_or_the_reason_is_told() {
        assert_eq!(find(OsStr::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        assert!(find(OsStr::new("sh")).unwrap().ends_with("sh"));
        let refused = |name: &str| find(OsStr::new(name)).unwrap_err();
        assert!(refused("./no-such-program").contains("no such file"));
        assert!(refused("no-such-program").contains("not in PATH"));
        assert!(refused("").contains("not in PATH"));
        assert!(refused("/tmp").contains("not a file"));
        assert!(refused("/proc/self/status").contains("chmod +x"));
        assert!(refused("Cargo.toml").contains("write ./Cargo.toml"));
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert_eq!(nodes_from("64"), Ok(64));
        for bad in ["0", "65", "-1", "x", ""] {
            assert!(nodes_from(bad).unwrap_err().contains("1 to 64"), "{bad}");
        }
        assert_eq!(workers_from("512"), Ok(512));
        assert!(workers_from("513").is_err());
    }
}
