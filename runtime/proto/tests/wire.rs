//! Every frame survives the wire, and nothing that arrives can do harm: bytes are a frame or an error.

use migrt_proto::{
    Asker, EntryId, Epoch, Generation, Incarnation, Micros, NodeId, Place, SlotRef, TaskId, Token,
    wire::{
        Answer, Ask, BYTES_LEN_MAX, FRAME_LEN_MAX, Frame, Hello, MemberInfo, Outcome, PAUSE_MAX,
        PageRun, ROUND_COUNT_MAX, Refusal, ShipHeader, ShipSlot, SlotGrant, Strategy, TEXT_LEN_MAX,
        TaskInfo, TaskState, Verdict, WireError,
    },
};

fn frames() -> Vec<Frame> {
    let task = TaskId::new(NodeId(3), Generation(1), 99);
    let (epoch, node, token) = (Epoch(7), NodeId(2), Token(1 << 60));
    let place = Place::new(node, Incarnation(u64::MAX));
    let asker = Asker { node, token };
    let text = || "größer".to_owned();
    let bytes = || vec![0, 255, 7];
    let member = || MemberInfo { place, generation: Generation(9), addr: "127.0.0.1:4000".into() };
    let slots = || vec![SlotGrant { class: 4, first: 1 << 19, count: 3 }];
    let info = TaskInfo {
        state: TaskState::Suspended,
        node,
        moves: 3,
        cpu_us: 1 << 40,
        pins: vec![text()],
        last_move: None,
    };
    let refusals = [
        Refusal::Busy,
        Refusal::UnknownTask,
        Refusal::Ended,
        Refusal::Cancelled,
        Refusal::NotAMember { node },
        Refusal::TargetDied { node },
        Refusal::SourceDied { node },
        Refusal::HomeDied { node },
        Refusal::Timeout,
        Refusal::Stale,
        Refusal::Pinned { what: text() },
        Refusal::ShipFailed { why: text() },
        Refusal::Other { why: text() },
    ];
    let outcomes = [
        Outcome::Returned(bytes()),
        Outcome::Panicked { message: text() },
        Outcome::Cancelled,
        Outcome::Lost { node, missing_pages: 0 },
        Outcome::Lost { node, missing_pages: u64::MAX },
        Outcome::NotStarted { reason: Refusal::Busy },
    ];
    let mut frames = vec![
        Frame::Acked,
        Frame::Heartbeat { sent: Micros(5) },
        Frame::HeartbeatAck { sent: Micros(5) },
        Frame::Welcome {
            generation: Generation(2),
            members: vec![member(), member()],
            dead: vec![(place, Generation(0))],
            slots: slots(),
        },
        Frame::Joined { member: member() },
        Frame::SlotGrant { slots: slots() },
        Frame::Dead { place },
        Frame::DeadSeen { place },
        Frame::Goodbye,
        Frame::Shutdown { text: text() },
        Frame::Spawn { task, entry: EntryId(77), args: bytes() },
        Frame::SpawnRefused { task, reason: Refusal::Busy },
        Frame::Copying { task, epoch },
        Frame::Whole { task, epoch },
        Frame::Ack { task, epoch },
        Frame::Abort { task, epoch },
        Frame::Retract { task, epoch },
        Frame::InDoubt { task, epoch, target: place },
        Frame::InDoubtAnswer { task, epoch, verdict: Verdict::Taken },
        Frame::InDoubtAnswer { task, epoch, verdict: Verdict::GoOn { epoch } },
        Frame::Located { task, at: place, epoch },
        Frame::JoinAsk { task, token },
        Frame::JoinAnswer { task, token, outcome: None },
        Frame::JoinTaken { task },
        Frame::Detach { task },
        Frame::NotHere { task, asker, ask: Ask::Info },
        Frame::Answer { task, asker, answer: Answer::Move(Ok(node)) },
        Frame::Answer { task, asker, answer: Answer::Info(Ok(info)) },
        Frame::Cancel { task },
        Frame::StopTask { task },
        Frame::Custom { kind: 9, bytes: bytes() },
    ];
    let moves = strategies().map(|strategy| Ask::Move { target: node, strategy });
    frames.extend(moves.map(|ask| Frame::Ask { task, asker, ask }));
    frames.extend(refusals.map(|reason| Frame::Refuse { task, epoch, reason }));
    frames.extend(outcomes.map(|outcome| Frame::Ended { task, epoch, outcome }));
    frames
}

fn strategies() -> [Strategy; 6] {
    [
        Strategy::StopCopy,
        Strategy::PreCopy { max_pause: Micros(3), max_rounds: 0, hold_back: true },
        Strategy::PreCopy { max_pause: PAUSE_MAX, max_rounds: ROUND_COUNT_MAX, hold_back: false },
        Strategy::PostCopy,
        Strategy::Usual,
        Strategy::default(),
    ]
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn every_frame_survives_the_wire() {
    for frame in frames() {
        assert_eq!(Frame::decode(&encoded(&frame)), Ok(frame));
    }
}

#[test]
fn a_cut_or_lengthened_frame_is_refused() {
    for frame in frames() {
        let mut bytes = encoded(&frame);
        for len in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..len]).is_err(), "{frame:?} cut to {len}");
        }
        bytes.push(0);
        assert_eq!(Frame::decode(&bytes), Err(WireError::Trailing { len: 1 }));
    }
}

#[test]
fn any_bytes_are_a_value_or_an_error() {
    let seeds: Vec<Vec<u8>> = frames().iter().map(encoded).collect();
    let mut state = 0x1234_5678_9abc_def1;
    for round in 0..100_000 {
        let mut bytes = if round % 2 == 0 {
            // A sound frame, damaged in a few places.
            let mut bytes = seeds[next(&mut state) as usize % seeds.len()].clone();
            for _ in 0..=next(&mut state) % 4 {
                let index = next(&mut state) as usize % bytes.len();
                bytes[index] = next(&mut state) as u8;
            }
            bytes
        } else {
            (0..next(&mut state) % 80).map(|_| next(&mut state) as u8).collect()
        };
        if let Ok(frame) = Frame::decode(&bytes) {
            // What decodes is a frame like any other.
            assert_eq!(Frame::decode(&encoded(&frame)), Ok(frame));
        }
        let _ = ShipHeader::decode(&bytes);
        let _ = Hello::decode(&bytes);
        bytes.truncate(8);
        let _ = migrt_proto::describe(&bytes);
    }
}

#[test]
fn lengths_are_refused_before_anything_is_made_of_them() {
    // Shutdown with a text that claims 2^60 bytes, Custom likewise, Welcome with 2^60 members.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    for (frame, at) in [
        (Frame::Shutdown { text: String::new() }, 1),
        (Frame::Custom { kind: 0, bytes: Vec::new() }, 2),
        (Frame::SlotGrant { slots: Vec::new() }, 1),
    ] {
        let mut bytes = encoded(&frame)[..at].to_vec();
        bytes.extend(huge);
        bytes.extend([0; 64]);
        assert!(Frame::decode(&bytes).is_err(), "{frame:?}");
    }
    let long = vec![0; FRAME_LEN_MAX + 1];
    assert_eq!(
        Frame::decode(&long),
        Err(WireError::TooLong { len: long.len(), limit: FRAME_LEN_MAX })
    );
    let field = encoded(&Frame::Custom { kind: 0, bytes: vec![0; BYTES_LEN_MAX + 1] });
    assert!(field.len() <= FRAME_LEN_MAX && Frame::decode(&field).is_err());
}

#[test]
fn a_long_text_is_cut_by_its_sender_and_refused_from_others() {
    let text = "ä".repeat(TEXT_LEN_MAX);
    let Ok(Frame::Shutdown { text: cut }) = Frame::decode(&encoded(&Frame::Shutdown { text }))
    else {
        panic!("a cut text decodes");
    };
    assert_eq!(cut.len(), TEXT_LEN_MAX);
    // The same bytes as a text, one over the limit.
    let mut bytes = encoded(&Frame::Shutdown { text: "a".repeat(TEXT_LEN_MAX) });
    assert!(Frame::decode(&bytes).is_ok());
    assert_eq!(bytes[1..4], [0x80, 0x80, 0x04], "the length, 65,536");
    bytes[1] = 0x81;
    bytes.push(b'a');
    assert!(Frame::decode(&bytes).is_err());
}

#[test]
fn page_runs_ascend_and_do_not_overlap() {
    let check = |runs: &[(u32, u32)], sound: bool| {
        let runs = runs.iter().map(|&(first, count)| PageRun { first, count }).collect();
        let task = TaskId::new(NodeId(0), Generation(0), 1);
        let slots = vec![ShipSlot { slot: SlotRef(5), runs }];
        let header = ShipHeader { task, epoch: Epoch(2), slots, page_len: 4096, extra: vec![1] };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(
            ShipHeader::decode(&bytes),
            if sound { Ok(header) } else { Err(WireError::Malformed { what: "page run" }) }
        );
    };
    check(&[], true);
    check(&[(0, 1), (1, 2), (9, 1)], true);
    check(&[(0, 2), (1, 1)], false);
    check(&[(5, 1), (4, 1)], false);
    check(&[(5, 0)], false);
    check(&[(u32::MAX, 1)], false);
    check(&[(u32::MAX, 2)], false);
}

#[test]
fn a_strategy_beyond_its_limits_is_cut_by_its_sender_and_refused_from_others() {
    let frame = |strategy| {
        let task = TaskId::new(NodeId(0), Generation(0), 1);
        let asker = Asker { node: NodeId(0), token: Token(1) };
        Frame::Ask { task, asker, ask: Ask::Move { target: NodeId(1), strategy } }
    };
    let pre_copy =
        |max_pause, max_rounds| Strategy::PreCopy { max_pause, max_rounds, hold_back: true };
    for (wish, limited) in [
        (pre_copy(Micros(u64::MAX), 1), pre_copy(PAUSE_MAX, 1)),
        (pre_copy(Micros(1), u32::MAX), pre_copy(Micros(1), ROUND_COUNT_MAX)),
        (Strategy::Auto { max_pause: Micros(u64::MAX) }, Strategy::Auto { max_pause: PAUSE_MAX }),
    ] {
        assert_eq!(wish.bounded(), limited);
        assert_eq!(Frame::decode(&encoded(&frame(wish))), Ok(frame(limited)));
    }
    // The same bytes with the last number one over the limit: 1,000 rounds are e8 07, then the flag.
    let mut bytes = encoded(&frame(pre_copy(Micros(1), ROUND_COUNT_MAX)));
    assert!(Frame::decode(&bytes).is_ok() && bytes.ends_with(&[0xe8, 0x07, 1]));
    let at = bytes.len() - 3;
    bytes[at] += 1;
    assert!(Frame::decode(&bytes).is_err());
    // 60,000,000 us are 80 8e ce 1c.
    let mut bytes = encoded(&frame(Strategy::Auto { max_pause: PAUSE_MAX }));
    assert!(Frame::decode(&bytes).is_ok() && bytes.ends_with(&[0x80, 0x8e, 0xce, 0x1c]));
    let at = bytes.len() - 4;
    bytes[at] += 1;
    assert!(Frame::decode(&bytes).is_err());
}
