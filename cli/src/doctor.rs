//! `migrt doctor`: what of this machine and of a program will work, be slow, or not work, and what
//! to do about it.
//!
//! ```text
//! ok             region            19 TiB at 0x200000000000 can be reserved
//! slow           udp-buffers       4.0 MiB of 8.0 MiB …; as root: sysctl -w …
//! will not work  image             … Build it with these lines …
//! ```
//!
//! The facts are tried out by `migrt::machine` and, for a program file, read by `elf`; `findings`
//! judges. Exit code 1 if anything will not work, that is, if mobile tasks are impossible.

mod elf;
mod findings;
mod plain;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use migrt::machine::Facts;

use findings::Subject;

/// Say what of this machine and program will work, and what to do about what does not.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print one `name value` line per fact.
    #[arg(long)]
    plain: bool,
    /// A program to look at in place of this one.
    program: Option<PathBuf>,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    /// What it means and what to do, on one line.
    text: String,
    /// Lines to add to a file, or empty.
    lines: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Slow,
    WillNotWork,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Slow => "slow",
            Verdict::WillNotWork => "will not work",
        })
    }
}

pub(crate) fn main(options: &Options) -> ExitCode {
    let program = match &options.program {
        None => Subject::This,
        Some(path) => match elf::Program::read(path) {
            Ok(program) => Subject::Program(path, program),
            Err(cause) => {
                eprintln!("migrt doctor: {}: {cause}", path.display());
                return ExitCode::FAILURE;
            }
        },
    };
    let facts = Facts::gather();
    let findings = findings::judge(&facts, &program);
    let mut out = io::stdout().lock();
    // A reader that went away (`| head`) has seen enough.
    let _ = if options.plain {
        print_plain(&mut out, &facts, &program, &findings)
    } else {
        print(&mut out, &findings)
    };
    if findings.iter().any(|finding| finding.verdict == Verdict::WillNotWork) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn print(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    for Finding { name, verdict, text, lines } in findings {
        writeln!(out, "{verdict:<13}  {name:<16}  {text}")?;
        for line in lines.lines() {
            writeln!(out, "{:35}{line}", "")?;
        }
    }
    Ok(())
}

fn print_plain(
    out: &mut impl Write,
    facts: &Facts,
    program: &Subject<'_>,
    findings: &[Finding],
) -> io::Result<()> {
    for (name, value) in plain::facts(facts, program) {
        writeln!(out, "{name} {value}")?;
    }
    for Finding { name, verdict, .. } in findings {
        writeln!(out, "check.{name} {}", verdict.to_string().replace(' ', "-"))?;
    }
    Ok(())
}
