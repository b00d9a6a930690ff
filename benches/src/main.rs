//! What migrt costs: `cargo run --release -p migrt-bench -- EXPERIMENT [options] [--plain]`.
//!
//! Each experiment prints its figures, checks its results, and exits with 1 if they are wrong. A
//! latency stands beside the bare cost of the same work, measured in turns with it in the same run,
//! since machines wander (`docs/performance.md`). Nothing here is a test: nothing is asserted about
//! how long something took.

mod bare;
mod claims;
mod clock;
mod compare;
mod hop;
mod idle;
mod load;
mod log;
mod method;
mod mover;
mod parcel;
mod pattern;
mod quic;
mod random;
mod report;
mod round_trip;
mod size;
mod sort;
mod spawn;
mod stats;
mod steady;
mod swarm;
mod switch;
mod time_line;
mod veth;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use report::Report;

/// The result of an experiment: its figures, or why they mean nothing.
pub type Outcome = Result<Report, Fault>;

/// Why an experiment has no figures.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(version, about = "Measures what migrt costs")]
struct Args {
    #[command(subcommand)]
    experiment: Experiment,
    /// One line per figure: name, value, unit.
    #[arg(long, global = true)]
    plain: bool,
    /// The two processes in network namespaces of their own, a veth pair of MTU 1500 between them:
    /// for hop, compare, return and swarm. Needs root and `ip`.
    #[arg(long, global = true)]
    veth: bool,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// One-way moves of a running task between two processes; with a strategy or a rate, while it
    /// reads and writes its heap.
    Hop(hop::Options),
    /// The strategies beside each other, for tasks that mostly read and that mostly write.
    Compare(compare::Options),
    /// A task that comes back: the second trip beside the first.
    Return(round_trip::Options),
    /// A large map handed from task to task.
    Parcel(parcel::Options),
    /// The rate of the wire in bulk, beside one bare stream.
    Wire(wire::Options),
    /// Many small tasks to another node at once.
    Swarm(swarm::Options),
    /// Spawn, run and join in batches of 1,000.
    Spawn(spawn::Options),
    /// One yield.
    Switch(switch::Options),
    /// Memory of a parked task.
    Idle(idle::Options),
    /// The sort example on 1, 2 and 3 nodes, beside rayon.
    Sort(sort::Options),
    /// The other end of the bare wire: started by `hop`.
    #[command(hide = true)]
    QuicPeer,
    /// One kind of parked tasks in a process of its own: started by `idle`.
    #[command(hide = true)]
    IdleKind(idle::KindOptions),
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.veth && !veth::is_inside() {
        return in_namespaces(&args.experiment);
    }
    let outcome = match args.experiment {
        Experiment::Hop(options) => hop::run(options),
        Experiment::Compare(options) => compare::run(options),
        Experiment::Return(options) => round_trip::run(options),
        Experiment::Parcel(options) => parcel::run(options),
        Experiment::Wire(options) => wire::run(options),
        Experiment::Swarm(options) => swarm::run(options),
        Experiment::Spawn(options) => spawn::run(&options),
        Experiment::Switch(options) => switch::run(&options),
        Experiment::Idle(options) => idle::run(&options),
        Experiment::Sort(options) => sort::run(&options),
        Experiment::QuicPeer => quic::serve().map(|()| Report::new("quic peer")),
        Experiment::IdleKind(options) => idle::run_kind(&options),
    };
    match outcome {
        Ok(report) => {
            report.print(args.plain);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole command once more, with the nodes apart.
fn in_namespaces(experiment: &Experiment) -> ExitCode {
    let outcome = match experiment {
        Experiment::Hop(_)
        | Experiment::Compare(_)
        | Experiment::Return(_)
        | Experiment::Swarm(_) => veth::run(),
        _ => Err("--veth is for hop, compare, return and swarm".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
