use clap::Args;
use crate::Outcome;
#[derive(Args, Clone, Debug)]
pub struct Options {}
pub fn run(_: &Options) -> Outcome { Err("not yet".into()) }
