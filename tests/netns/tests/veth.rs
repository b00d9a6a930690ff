//! Two nodes with Ethernet's packets between them, a wire that loses some, and one that is cut: a task goes to and fro,
//! and every word of it is right.
//!
//! Without root, `unshare` or `ip` nothing is shown here, and each test says so by name.

use std::time::Duration;

use migrt::launch::ClusterDir;
use migrt_test_netns::{Side, Veth, end};
use migrt_test_node::Run;

const COMMUTER: &str = env!("CARGO_BIN_EXE_commuter");

fn veth(test: &str) -> Option<Veth> {
    Veth::new().map_err(|why| eprintln!("skipped: {test}: {why}")).ok()
}

/// Starts a journey of so many legs, lets `deed` happen to it, and looks at its end.
fn check(veth: &Veth, legs: u32, deed: impl FnOnce(&Veth, &Run)) {
    let dir = ClusterDir::create(2).expect("a folder for certificates");
    let nodes = veth.start(&dir, COMMUTER, &[&legs.to_string()]);
    nodes[0].line("leg 1 ");
    deed(veth, &nodes[0]);
    let ended = end(nodes);
    ended[0].expect(0, &[&format!("leg {} ", legs - 1), " wrong 0 "]);
    println!("{}", ended[0].value("sum "));
}

#[test]
fn a_task_goes_to_and_fro_by_every_strategy() {
    let Some(veth) = veth("a_task_goes_to_and_fro_by_every_strategy") else { return };
    check(&veth, 16, |_, _| ());
}

/// Three packets in a hundred are lost, each way.
#[test]
fn a_lossy_wire_loses_no_word() {
    let Some(veth) = veth("a_lossy_wire_loses_no_word") else { return };
    const RULES: &str = "add table inet lossy; \
        add chain inet lossy input { type filter hook input priority 0; }; \
        add rule inet lossy input meta l4proto udp numgen random mod 100 < 3 drop";
    for side in [Side::Zero, Side::One] {
        if let Err(why) = veth.run(side, "nft", &[RULES]) {
            eprintln!("skipped: a_lossy_wire_loses_no_word: {why}");
            return;
        }
    }
    check(&veth, 16, |_, _| ());
}

/// Shorter than a lease: nobody is declared dead, and the task goes on when the wire is whole.
#[test]
fn a_wire_that_is_cut_at_every_strategy_and_mended_loses_no_word() {
    let test = "a_wire_that_is_cut_at_every_strategy_and_mended_loses_no_word";
    let Some(veth) = veth(test) else { return };
    check(&veth, 16, |veth, zero| {
        for number in [2, 4, 6, 8, 10, 12] {
            zero.line(&format!("leg {number} "));
            veth.cut().expect("it can be cut");
            std::thread::sleep(Duration::from_millis(300));
            veth.mend().expect("it can be mended");
        }
    });
}
