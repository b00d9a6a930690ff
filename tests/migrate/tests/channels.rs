//! Messages arrive once, in their senders' order, with the parcels in them, wherever both ends are; and their
//! end, or a node's, is heard of.

use std::time::Duration;

use migrt_test_migrate::program::run;

fn channels(kind: &str, env: &[(&str, &str)]) {
    let ended = run(env!("CARGO_BIN_EXE_channels"), &[kind], env, Duration::from_secs(60));
    ended.expect_good();
}

#[test]
fn messages_arrive_once_and_in_order_though_everybody_moves() {
    channels("order", &[]);
}

#[test]
fn messages_arrive_once_and_in_order_though_everybody_moves_at_every_suspension() {
    channels("order", &[("MIGRT_CHAOS", "1")]);
}

#[test]
fn a_parcel_is_a_message_on_one_node_and_between_nodes() {
    channels("parcels", &[]);
}

#[test]
fn a_closed_channel_gives_what_is_in_it_and_holds_nobody_up() {
    channels("closed", &[]);
}

#[test]
fn whoever_dies_everybody_hears_of_it() {
    channels("deaths", &[]);
}

#[test]
fn channels_that_were_used_up_leave_nothing() {
    channels("leaves", &[("MIGRT_KEEP", "1MiB")]);
}
