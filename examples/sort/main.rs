//! Sorts a file on several nodes while the tasks that sort it move between them. See `README.md`.
//!
//! `job` is the story; `tasks`, `crew` and `mover` are all that knows of migrt; the rest is a sort
//! that would run anywhere.

mod args;
mod job;

mod crew;
mod mover;
mod tasks;

mod bucket;
mod check;
mod digest;
mod files;
mod format;
mod input;
#[expect(unsafe_code, reason = "std has no way to catch a signal")]
mod interrupt;
mod output;
mod path;
mod plan;
mod progress;
mod records;
mod report;
mod splitters;
#[cfg(test)]
mod whole;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            let _ = error.print();
            return code;
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sort: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Every node comes here; only node 0 gets beyond the start of the runtime.
fn run(args: args::Args) -> Result<(), String> {
    let is_first = std::env::var_os("MIGRT_NODE").is_none_or(|node| node == "0");
    let named = is_first.then(|| job::Named::inspect(&args)).transpose()?;
    let builder = migrt::Builder::new().workers(args.worker_count()).local_nodes(args.nodes);
    let plain = args.plain;
    let (report, kept) = builder
        .run(move || job::sort(&args, named.expect("main runs on node 0")))
        .map_err(|error| error.to_string())??;
    if plain {
        print!("{}", report.plain());
    } else {
        print!("{}", report.table());
        if let Some(kept) = kept {
            println!("  kept   {}", kept.display());
        }
    }
    Ok(())
}
