//! The `migrt` command: `doctor` says whether mobile tasks will work on this machine and with this
//! program, `run` starts a program as a cluster on this machine.

mod doctor;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks that move between machines while they run.
#[derive(Debug, Parser)]
#[command(name = "migrt", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::Options),
    Run(run::Options),
    #[command(hide = true)]
    Guard(run::guard::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no failure.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Doctor(options) => doctor::main(&options),
        Command::Run(options) => run::main(options),
        Command::Guard(options) => run::guard::main(&options),
    }
}
