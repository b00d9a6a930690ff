//! How links come up, meet, are lost and come back.

use super::*;

#[test]
fn two_nodes_that_dial_each_other_end_with_one_link_and_lose_no_frame() {
    for _ in 0..40 {
        let ca = cluster();
        let (a, b) = (Node::start(&ca, 0), Node::start(&ca, 1));
        a.net.dial(b.addr());
        b.net.dial(a.addr());
        for (node, peer) in [(&a, 1), (&b, 0)] {
            node.log.wait_for(&Event::Up(peer));
            node.net.send(peer, b"first".to_vec());
        }
        a.log.wait_for(&Event::Frame(1, b"first".to_vec()));
        b.log.wait_for(&Event::Frame(0, b"first".to_vec()));
        // Give a second connection the time to be made and refused.
        std::thread::sleep(Duration::from_millis(5));
        for log in [&a.log, &b.log] {
            assert_eq!(log.count(|event| matches!(event, Event::Up(_))), 1);
            assert_eq!(log.count(|event| matches!(event, Event::Down(..) | Event::Failed(_))), 0);
        }
    }
}

#[test]
fn three_nodes_are_all_linked() {
    let ca = cluster();
    let nodes: Vec<_> = (0..3).map(|node| Node::start(&ca, node)).collect();
    for (index, node) in nodes.iter().enumerate() {
        for other in &nodes[index + 1..] {
            node.net.dial(other.addr());
        }
    }
    for node in &nodes {
        for peer in (0..3).filter(|peer| *peer != node.probe.node) {
            node.log.wait_for(&Event::Up(peer));
            node.net.send(peer, vec![node.probe.node as u8, peer as u8]);
        }
    }
    for node in &nodes {
        for peer in (0..3).filter(|peer| *peer != node.probe.node) {
            node.log.wait_for(&Event::Frame(peer, vec![peer as u8, node.probe.node as u8]));
        }
    }
}

#[test]
fn a_node_is_dialled_until_it_is_there() {
    let ca = cluster();
    let addr = Node::start(&ca, 1).addr();
    let a = Node::start(&ca, 0);
    a.net.dial(addr);
    let error = a.log.wait_failed();
    assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    let config = NetConfig { bind: addr, ..NetConfig::new(ca.issue(1).unwrap()) };
    let probe = Node::probe(1, |_| ());
    // The first holder of the port closes in the background.
    let deadline = Instant::now() + PATIENCE;
    let net = loop {
        match Net::start(config.clone(), probe.clone()) {
            Ok(net) => break net,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let b = Node::of(probe, net);
    a.log.wait_for(&Event::Up(1));
    b.log.wait_for(&Event::Up(0));
    assert_eq!(a.log.count(|event| matches!(event, Event::Failed(_))), 1, "told once");
}

#[test]
fn the_successor_of_a_crashed_node_takes_its_place_at_once() {
    for node in [1, 0] {
        let ca = cluster();
        // The peer decides when it has the lower number, and is told when it has the higher.
        let (peer, old) = linked(Node::start(&ca, 1 - node), Node::start(&ca, node));
        let new = Node::start(&ca, node);
        new.net.dial(peer.addr());
        new.log.wait_for(&Event::Up(1 - node));
        peer.log.wait(|events| {
            let kinds: Vec<_> = events.iter().map(std::mem::discriminant).collect();
            let [up, down] = [Event::Up(0), Event::Down(0, String::new())];
            let [up, down] = [&up, &down].map(std::mem::discriminant);
            (kinds.len() >= 3 && kinds[..3] == [up, down, up]).then_some(())
        });
        drop(old);
    }
}

#[test]
fn a_forgotten_peer_is_dialled_no_more() {
    let (a, b) = pair();
    a.net.forget(1, "declared dead");
    assert!(b.log.wait_down(0).contains("declared dead"));
    assert_eq!(a.log.wait_down(1), "declared dead");
    // Longer than the first pause before a new attempt.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(a.log.count(|event| matches!(event, Event::Up(_))), 1);
    // It is not banned: who dials anew gets a link, if the hello is accepted.
    a.net.dial(b.addr());
    a.log.wait(|events| {
        (events.iter().filter(|event| **event == Event::Up(1)).count() == 2).then_some(())
    });
}

#[test]
fn a_used_port_is_an_error_that_names_it() {
    let ca = cluster();
    let a = Node::start(&ca, 0);
    let config = NetConfig { bind: a.addr(), ..NetConfig::new(ca.issue(1).unwrap()) };
    let error = Net::start(config, Node::probe(1, |_| ())).unwrap_err();
    assert!(matches!(error, NetError::AddrInUse { addr } if addr == a.addr()));
    assert!(error.to_string().contains(&a.addr().port().to_string()), "{error}");
}

#[test]
fn nodes_find_each_other_over_ipv6() {
    let Ok(_) = std::net::UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    };
    let ca = cluster();
    let [a, b] = [0, 1].map(|node| {
        let probe = Node::probe(node, |_| ());
        let mut config = NetConfig::new(ca.issue(node).unwrap());
        config.bind = "[::1]:0".parse().unwrap();
        Node::of(probe.clone(), Net::start(config, probe).unwrap())
    });
    let (a, b) = linked(a, b);
    let bytes = noise(6, 2 << 20);
    a.send_bulk(1, b"", vec![bytes.clone().into()]);
    let (len, sum) = (bytes.len(), checksum(0, &bytes));
    b.log.wait_for(&Event::Bulk { peer: 0, header: vec![], len, sum, complete: true });
}

/// Passes datagrams on between one caller and `to`, losing one in `lose` and swapping others.
/// Ends when nothing has come for a while.
fn bad_wire(to: SocketAddr, lose: u64) -> SocketAddr {
    let wire = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = wire.local_addr().unwrap();
    wire.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    std::thread::spawn(move || {
        let mut caller = None;
        let mut held: Option<(Vec<u8>, SocketAddr)> = None;
        let mut datagram = vec![0; 65_536];
        let mut count = 0;
        loop {
            let (len, from) = match wire.recv_from(&mut datagram) {
                Ok(came) => came,
                // Another test has stopped all threads for a look.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            count += 1;
            let other = if from == to { caller } else { Some(to) };
            if from != to {
                caller = Some(from);
            }
            let Some(other) = other else { continue };
            let bytes = datagram[..len].to_vec();
            if checksum(count, &[7]).is_multiple_of(lose) {
                continue;
            }
            if count % 11 == 0 && held.is_none() {
                held = Some((bytes, other));
                continue;
            }
            let _ = wire.send_to(&bytes, other);
            if let Some((bytes, other)) = held.take() {
                let _ = wire.send_to(&bytes, other);
            }
        }
    });
    addr
}

#[test]
fn links_and_what_they_carry_survive_a_wire_that_loses_and_swaps_packets() {
    for lose in [20, 7] {
        let ca = cluster();
        let (a, b) = (Node::start(&ca, 0), Node::start(&ca, 1));
        b.net.dial(bad_wire(a.addr(), lose));
        a.log.wait_for(&Event::Up(1));
        b.log.wait_for(&Event::Up(0));
        let bytes = noise(lose, 1 << 20);
        let receipt = a.send_bulk(1, b"h", vec![bytes.clone().into()]);
        let frames: Vec<_> = (0..200).map(|n| noise(n, 100)).collect();
        for frame in &frames {
            b.net.send(0, frame.clone());
        }
        let (len, sum) = (bytes.len(), checksum(0, &bytes));
        let header = b"h".to_vec();
        b.log.wait_for(&Event::Bulk { peer: 0, header, len, sum, complete: true });
        assert_eq!(receipt.wait(), Ok(()));
        a.log.wait(|events| (events.len() == 1 + frames.len()).then_some(()));
        assert!(a.log.frames() == frames);
    }
}
