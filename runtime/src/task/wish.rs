//! By which strategy a task moves when it is not said: its own, which travels with it, or the program's.

use migrt_proto::{Micros, wire};

use super::current;
use super::header::Header;
use crate::strategy::Strategy;

/// From now on the calling mobile task moves like this where a move is asked for without a strategy, on whatever
/// node it is. A local task never moves, and nothing changes for it.
///
/// # Examples
/// ```
/// #[migrt::migratable]
/// fn serve(requests: u32) -> u32 {
///     migrt::set_strategy(migrt::Strategy::PostCopy);
///     requests
/// }
///
/// #[migrt::main]
/// fn main() -> migrt::Result<()> {
///     assert_eq!(migrt::spawn(serve(7)).join()?, 7);
///     Ok(())
/// }
/// ```
pub fn set_strategy(strategy: Strategy) {
    if let Some(header) = current::mobile() {
        header.strategy.set(Some(strategy.to_wire()));
    }
}

/// What a task is to be moved by: what was asked for, or its own, or the program's.
pub(crate) fn of(header: Option<&Header>, asked: wire::Strategy) -> wire::Strategy {
    match asked {
        wire::Strategy::Usual => header
            .and_then(|header| header.strategy.get())
            .unwrap_or_else(|| crate::node::node().config.strategy.to_wire()),
        asked => asked,
    }
}

/// Of a task that moves itself and stands still in any case until it is there. One that allows no pause at
/// all moves as if others had asked.
pub(crate) fn of_oneself(header: &Header) -> wire::Strategy {
    match of(Some(header), wire::Strategy::Usual) {
        wire::Strategy::Auto { max_pause } if max_pause > Micros::ZERO => wire::Strategy::StopCopy,
        other => other,
    }
}
