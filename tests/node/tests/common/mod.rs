//! What becomes of a task that moves while a node dies or pauses at a step of the hand-off.

use migrt_test_node::steps;

/// Who is home, source and target. Node 0, the one that waits, is a bystander or the home; its own
/// death is another test.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    pub home: u16,
    pub source: u16,
    pub target: u16,
}

/// Where the task is to be after the death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ran on the node that died.
    Lost,
    /// It ends at its source, which has heard why it did not move.
    Source,
    /// It ends at its target.
    Target,
    /// What was sent in the last moment arrived or did not: lost, or at the one who lives.
    LostOr(&'static Fate),
}

pub const CASES: [(&str, Fate); 9] = [
    ("source.ordered", Fate::Lost),
    ("source.frozen", Fate::Lost),
    // It has committed, but the last byte is not on the wire.
    ("source.committed", Fate::Lost),
    ("source.shipped", Fate::LostOr(&Fate::Target)),
    ("target.shipping", Fate::Source),
    // It has all, but has told nobody: to all others the same as if the last byte had not come.
    ("target.installed", Fate::Source),
    ("target.commit", Fate::LostOr(&Fate::Source)),
    ("target.thawed", Fate::Lost),
    ("source.acked", Fate::Target),
];

/// The steps that only rounds have.
#[allow(dead_code, reason = "not for every test")]
pub const ROUNDS: [(&str, Fate); 3] =
    [("source.copying", Fate::Lost), ("source.round", Fate::Lost), ("target.round", Fate::Source)];

/// What became of the walker, by its outcome; and that its log says the same.
pub fn judge(roles: Roles, victim: u16, outcome: &str, walk: &steps::Walk) -> Fate {
    let (last, node) = *walk.last().expect("steps");
    match outcome {
        _ if outcome == lost(victim) => Fate::Lost,
        // It ran at the target, and lived on pages of its source.
        _ if victim == roles.source && outcome.starts_with(&lacking(victim)) => Fate::Lost,
        r#"Ok("moved")"# => {
            assert_eq!((last, node), (23, roles.target), "{walk:?}");
            Fate::Target
        }
        _ if outcome.starts_with(r#"Ok("stayed: "#) => {
            assert_eq!((last, node), (23, roles.source), "{walk:?}");
            assert!(outcome.contains(&format!("n{}", roles.target)), "{outcome}");
            Fate::Source
        }
        other => panic!("an outcome that cannot be: {other}; {walk:?}"),
    }
}

/// How the program prints that pages were missing.
fn lacking(node: u16) -> String {
    format!("Err(Lost {{ node: n{node}, missing_pages: ")
}

/// The steps at which post-copy has other fates: the target may have the last page before its source
/// dies, or not.
#[allow(dead_code, reason = "not for every test")]
pub const LAZY: [(&str, Fate); 3] = [
    ("source.serving", Fate::LostOr(&Fate::Target)),
    ("source.acked", Fate::LostOr(&Fate::Target)),
    ("target.thawed", Fate::Lost),
];

/// The steps that only pages which follow have.
#[allow(dead_code, reason = "not for every test")]
pub const FOLLOWING: [(&str, Fate); 5] = [
    ("source.pushed", Fate::LostOr(&Fate::Target)),
    ("source.demanded", Fate::LostOr(&Fate::Target)),
    ("target.faulted", Fate::Lost),
    ("target.arrived", Fate::Lost),
    ("target.whole", Fate::Lost),
];

/// How the program prints that.
pub fn lost(node: u16) -> String {
    format!("Err(Lost {{ node: n{node}, missing_pages: 0 }})")
}
