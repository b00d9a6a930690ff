//! Post-copy over a link that is cut: the task waits, and goes on when the link is back.

use std::time::Duration;

use migrt_test_node::count;
use migrt_test_proxy::{Cluster, Profile};

/// Cuts the link between source and target `cut_ms` long as soon as the task runs at the target, with
/// most of its pages still at the source. The longest touch, in milliseconds.
fn check(seed: u64, cut_ms: u64) -> u64 {
    let cluster = Cluster::through_proxies(3, seed, Profile::CLEAN);
    let ms = (cut_ms + 1_000).to_string();
    let nodes = cluster
        .start(env!("CARGO_BIN_EXE_lacker"), &["16384", &ms], &[])
        .limit(Duration::from_secs(40));
    nodes.node(2).line("arrived");
    cluster.hub().cut(1, 2);
    std::thread::sleep(Duration::from_millis(cut_ms));
    cluster.hub().mend(1, 2);
    let ended = nodes.end();
    ended[0].expect(0, &["longest_ms"]);
    let words: Vec<&str> = ended[0].value("longest_ms ").split(' ').collect();
    println!("cut of {cut_ms} ms: {}", ended[0].value("longest_ms "));
    words[0].parse().expect("a number")
}

/// As long as QUIC keeps the link (3 s).
#[test]
fn a_task_waits_out_short_cuts() {
    for round in 0..count("MIGRT_CUT_ROUNDS", 2) as u64 {
        for (seed, cut_ms) in [(1, 100), (2, 500), (3, 2_000)] {
            let longest = check(seed + 10 * round, cut_ms);
            // Without a missing page the cut would have been nothing to the task.
            assert!(longest + 60 > cut_ms, "the longest touch took {longest} ms, the cut {cut_ms}");
            assert!(longest < cut_ms + 2_500, "{longest} ms for a cut of {cut_ms}");
        }
    }
}

/// The link is given up and comes back: what was on its way is asked for, and sent, again.
#[test]
fn a_task_waits_until_a_lost_link_is_back() {
    let longest = check(7, 5_000);
    assert!((4_000..9_000).contains(&longest), "the longest touch took {longest} ms");
}
