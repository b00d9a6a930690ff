//! QUIC's numbers: windows, path MTU, timeouts.
//!
//! Measured in facts N. On loopback the packet size is what counts most after the socket buffers,
//! and discovery would stop at 1,452, so it is set; elsewhere a small start and discovery up to
//! jumbo frames. The first megabytes must not wait for the congestion window to grow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// Largest UDP payload a node accepts; also the limit of path MTU discovery.
pub(super) const RECEIVE_PAYLOAD_MAX: u16 = 8_952;

/// On loopback: ten of these make one segmented send, and must stay below 65,507 bytes.
const LOOPBACK_MTU: u16 = 6_500;
/// On loopback without segmentation offload each packet is its own system call: larger ones.
const LOOPBACK_MTU_UNSEGMENTED: u16 = RECEIVE_PAYLOAD_MAX;
/// Elsewhere: Ethernet's 1,500 less IPv6 and UDP headers.
const ETHERNET_MTU: u16 = 1_452;

const INITIAL_WINDOW: u64 = 4 << 20;
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Bytes on the way to one peer. They are what a control frame may have to wait behind: on
/// loopback 16 MiB made a frame beside a shipment wait 18-21 ms (p99), 2 MiB 3-7 ms, at the same
/// throughput. Elsewhere enough for 10 Gb/s at a round trip of 3 ms; over a veth pair of MTU 1500,
/// 16 MiB overran the receiver's buffer (0.35-0.6 GB/s against 0.75).
const LOOPBACK_SEND_WINDOW: u64 = 2 << 20;
pub(super) const SEND_WINDOW: u64 = 4 << 20;
const STREAMS: u32 = 4_096;

/// Packets that a peer may leave without an acknowledgement, and for how long (draft-ietf-quic-ack-frequency). With
/// every second packet acknowledged at once a short shipment is: a packet of its own, sent before anybody looks at
/// what has come, when the answer that follows would have carried it.
const UNACKNOWLEDGED: u32 = 10;
const ACK_DELAY: Duration = Duration::from_millis(2);

/// A link without any sign of life for so long is lost.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// The transport settings for a peer at `addr`.
pub(super) fn config(addr: SocketAddr, segmented: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("three seconds fit a QUIC timeout");
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED)).max_ack_delay(Some(ACK_DELAY));
    config
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(congestion));
    if addr.ip().to_canonical().is_loopback() {
        let mtu = if segmented { LOOPBACK_MTU } else { LOOPBACK_MTU_UNSEGMENTED };
        // The default guess of a third of a second would make a first packet that met nobody be
        // repeated only after a second.
        config
            .send_window(LOOPBACK_SEND_WINDOW)
            .initial_mtu(mtu)
            .mtu_discovery_config(None)
            .initial_rtt(Duration::from_millis(2));
    } else {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(RECEIVE_PAYLOAD_MAX);
        config
            .send_window(SEND_WINDOW)
            .initial_mtu(ETHERNET_MTU)
            .mtu_discovery_config(Some(discovery))
            .initial_rtt(Duration::from_millis(100));
    }
    Arc::new(config)
}
