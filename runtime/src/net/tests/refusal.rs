//! Peers that must not get in, and what both sides are told.

use super::*;
use quinn::Runtime as _;
use rt::Exec;
use tls::Crypto;

#[test]
fn a_certificate_of_another_cluster_is_refused_and_both_sides_say_so() {
    let (ours, theirs) = (Node::start(&cluster(), 0), Node::start(&cluster(), 1));
    theirs.net.dial(ours.addr());
    // The dialling side meets the other's certificate first.
    let error = theirs.log.wait_failed();
    assert!(matches!(error, LinkError::CertificateInvalid { .. }), "{error}");
    assert!(error.is_final());
    let error = ours.log.wait_stranger();
    assert!(matches!(error, LinkError::CertificateRefused { .. }), "{error}");
}

#[test]
fn a_peer_that_trusts_us_but_is_of_another_cluster_is_refused() {
    let (ca, other) = (cluster(), cluster());
    let ours = Node::start(&ca, 0);
    let mut crypto = Crypto::new(&ca.issue(1).unwrap()).unwrap();
    crypto.client = tls::client_of(&ca.issue(0).unwrap(), &other.issue(1).unwrap()).unwrap();
    let theirs = start_with(&ca, 1, crypto);
    theirs.net.dial(ours.addr());
    let error = theirs.log.wait_failed();
    assert!(matches!(error, LinkError::CertificateRefused { .. }), "{error}");
    let error = ours.log.wait_stranger();
    assert!(matches!(error, LinkError::CertificateInvalid { .. }), "{error}");
    for log in [&ours.log, &theirs.log] {
        assert_eq!(log.count(|event| matches!(event, Event::Up(_))), 0);
    }
    assert_eq!(ours.log.count(|event| matches!(event, Event::Failed(_))), 0);
}

#[test]
fn a_peer_without_certificate_is_refused_and_both_sides_say_so() {
    let ca = cluster();
    let ours = Node::start(&ca, 0);
    let crypto = Crypto::without_certificate(&ca.issue(1).unwrap()).unwrap();
    let theirs = start_with(&ca, 1, crypto);
    theirs.net.dial(ours.addr());
    let error = theirs.log.wait_failed();
    assert!(matches!(error, LinkError::CertificateRefused { .. }), "{error}");
    assert!(error.to_string().contains("wants a certificate and got none"), "{error}");
    let error = ours.log.wait_stranger();
    assert!(matches!(error, LinkError::CertificateInvalid { .. }), "{error}");
    assert!(error.to_string().contains("no certificates"), "{error}");
}

fn start_with(ca: &ClusterCa, node: u16, crypto: Crypto) -> Node {
    let probe = Node::probe(node, |_| ());
    let config = NetConfig::new(ca.issue(node).unwrap());
    Node::of(probe.clone(), Net::start_with(config, crypto, probe).unwrap())
}

#[test]
fn a_refused_hello_is_shown_on_both_sides_and_ends_the_dialling() {
    let ca = cluster();
    for (dialler_refuses, listener_refuses) in [(None, Some("build 1, not 2")), (Some("no"), None)]
    {
        let a = Node::start_as(&ca, 0, |probe| probe.refuse = dialler_refuses);
        let b = Node::start_as(&ca, 1, |probe| probe.refuse = listener_refuses);
        a.net.dial(b.addr());
        let reason = dialler_refuses.or(listener_refuses).unwrap().to_owned();
        let here = |addr| LinkError::RefusedHere { addr, reason: reason.clone() };
        let there = |addr| LinkError::RefusedByPeer { addr, reason: reason.clone() };
        let (from_a, from_b) = (a.log.wait_failed(), b.log.wait_failed());
        if dialler_refuses.is_some() {
            assert_eq!((from_a, from_b), (here(b.addr()), there(a.addr())));
        } else {
            assert_eq!((from_a, from_b), (there(b.addr()), here(a.addr())));
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(a.log.count(|_| true), 1, "a refusal is final");
    }
}

#[test]
fn a_hello_must_say_the_number_that_the_certificate_proves() {
    let ca = cluster();
    let a = Node::start(&ca, 0);
    let b = Node::start(&ca, 1);
    let liar = Node::probe(3, |_| ());
    let liar =
        Node::of(liar.clone(), Net::start(NetConfig::new(ca.issue(2).unwrap()), liar).unwrap());
    liar.net.dial(a.addr());
    let error = liar.log.wait_failed().to_string();
    assert!(error.contains("n3") && error.contains("n2"), "{error}");
    // And a second n1 is not let in by n1 itself.
    let twin = Node::start(&ca, 1);
    twin.net.dial(b.addr());
    assert!(twin.log.wait_failed().to_string().contains("both nodes are n1"));
}

/// Speaks to `ours` as node 1 by hand: sends `bytes` on the control stream after a good hello.
fn send_raw(ca: &ClusterCa, ours: &Node, bytes: Vec<u8>) {
    let identity = ca.issue(1).unwrap();
    let (exec, poll) = Exec::new(Duration::ZERO).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = exec.wrap_udp_socket(socket).unwrap();
    let mut config = quinn::EndpointConfig::default();
    config.max_udp_payload_size(transport::RECEIVE_PAYLOAD_MAX).unwrap();
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(exec.clone()))
            .unwrap();
    let mut client = quinn::ClientConfig::new(Crypto::new(&identity).unwrap().client);
    client.transport_config(transport::config(ours.addr(), false));
    let connecting = endpoint.connect_with(client, ours.addr(), SERVER_NAME).unwrap();
    let stop = exec.clone();
    exec.spawn(async move {
        let conn = connecting.await.unwrap();
        let mut tx = conn.open_uni().await.unwrap();
        let mut message = framing::prefix(8 + 2).to_vec();
        message.extend_from_slice(&[7; 8]);
        message.extend_from_slice(&1_u16.to_le_bytes());
        message.extend_from_slice(&framing::prefix(0));
        message.extend_from_slice(&bytes);
        tx.write_all(&message).await.unwrap();
        conn.closed().await;
        stop.stop();
    });
    struct Idle;
    impl rt::Turn for Idle {
        fn begin(&mut self) {}
        fn end(&mut self) {}
        fn deadline(&self) -> Option<Instant> {
            None
        }
    }
    exec.run(poll, &mut Idle).unwrap();
}

#[test]
fn a_frame_over_the_limit_ends_the_link_before_its_bytes_are_taken() {
    let ca = cluster();
    let ours = Node::start(&ca, 0);
    let len = u32::try_from(FRAME_LEN_MAX + 1).unwrap();
    // Only the length is sent: a reader that waited for the bytes would wait for ever.
    send_raw(&ca, &ours, len.to_le_bytes().to_vec());
    let why = ours.log.wait_down(1);
    assert!(why.contains("67108865") && why.contains("67108864"), "{why}");
}

#[test]
fn frames_cut_into_single_packets_are_put_together() {
    let ca = cluster();
    let ours = Node::start(&ca, 0);
    let frames: Vec<_> = (0..200).map(|n| noise(n, (n as usize * 997) % 30_000)).collect();
    let mut bytes = Vec::new();
    for frame in &frames {
        bytes.extend_from_slice(&framing::prefix(frame.len()));
        bytes.extend_from_slice(frame);
    }
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    send_raw(&ca, &ours, bytes);
    ours.log.wait_down(1);
    assert!(ours.log.frames() == frames);
}
