//! Writes inputs for the targets in `fuzz/` to begin with: a few sound messages of each kind, into one folder per target
//! below the first argument. Here, where it is built with everything else, so that it cannot fall behind the frames.
//!
//! A fuzzer finds most of these by itself in some ten thousand inputs; begun from them it spends its time deeper.

use std::{fs, path::Path};

use migrt_proto::{
    Asker, EntryId, Epoch, Generation, Incarnation, Micros, NodeId, Place, SlotRef, TaskId, Token,
    transfer::{
        ChunkId, Hot, HotPage, Page, PageAck, PageAsk, PageFrame, Run, Section, SectionKind,
    },
    wire::{
        Answer, Ask, Frame, Hello, MemberInfo, Outcome, PageRun, Refusal, ShipHeader, ShipSlot,
        SlotGrant, Strategy, StreamHead, Verdict, WIRE_VERSION,
    },
};

const NODE: NodeId = NodeId(2);
const EPOCH: Epoch = Epoch(7);

fn task(home: u16) -> TaskId {
    TaskId::new(NodeId(home), Generation(0), 1)
}

fn encoded<T>(value: T, encode: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&value, &mut bytes);
    bytes
}

fn control() -> Vec<Vec<u8>> {
    let place = Place::new(NODE, Incarnation(7));
    let member = MemberInfo { place, generation: Generation(0), addr: "[::1]:4000".into() };
    let slots = vec![SlotGrant { class: 4, first: 9, count: 3 }];
    let mut frames = vec![
        Frame::Welcome {
            generation: Generation(0),
            members: vec![member.clone()],
            dead: vec![(place, Generation(0))],
            slots: slots.clone(),
        },
        Frame::Joined { member },
        Frame::SlotGrant { slots },
        Frame::Shutdown { text: "over".into() },
        Frame::HeartbeatAck { sent: Micros(1) },
        Frame::Custom { kind: 3, bytes: vec![1, 2, 3] },
    ];
    for home in 0..3 {
        let (task, token) = (task(home), Token(5));
        let asker = Asker { node: NODE, token };
        let ask = Ask::Move { target: NODE, strategy: Strategy::default() };
        let (reason, epoch) = (Refusal::Pinned { what: "a file".into() }, EPOCH);
        frames.extend([
            Frame::Spawn { task, entry: EntryId(1), args: vec![4] },
            Frame::Copying { task, epoch },
            Frame::Refuse { task, epoch, reason },
            Frame::Retract { task, epoch },
            Frame::Whole { task, epoch },
            Frame::InDoubt { task, epoch, target: place },
            Frame::InDoubtAnswer { task, epoch, verdict: Verdict::GoOn { epoch } },
            Frame::Located { task, at: place, epoch },
            Frame::Ended { task, epoch, outcome: Outcome::Returned(vec![1]) },
            Frame::JoinAnswer { task, token, outcome: Some(Outcome::Cancelled) },
            Frame::Ask { task, asker, ask },
            Frame::Answer { task, asker, answer: Answer::Move(Ok(NODE)) },
            Frame::NotHere { task, asker, ask },
            Frame::StopTask { task },
        ]);
    }
    frames.into_iter().map(|frame| encoded(frame, Frame::encode)).collect()
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        wire_version: WIRE_VERSION,
        build_id: vec![1; 20],
        region_base: 0x2000_0000_0000,
        region_len: 19 << 40,
        page_len: 4096,
        cpu_features: [u64::MAX; 4],
        xcr0: 7,
        xsave_layout: 1 << 50,
        ifunc_targets: 3,
        cet: false,
        cluster_id: 9,
        entries: 4,
        node: NODE,
        incarnation: Incarnation(1 << 60),
        can_fault: true,
    };
    encoded(hello, Hello::encode)
}

fn slot(runs: &[(u32, u32)]) -> ShipSlot {
    let runs = runs.iter().map(|&(first, count)| PageRun { first, count }).collect();
    ShipSlot { slot: SlotRef(0), runs }
}

fn pages() -> Vec<PageFrame> {
    let (task, epoch, chunk) = (task(1), EPOCH, ChunkId(1));
    let kinds = [
        SectionKind::Round { n: 1 },
        SectionKind::Head,
        SectionKind::Rest,
        SectionKind::Push { chunk },
        SectionKind::Demand { chunk },
    ];
    let section = |kind| Section {
        task,
        epoch,
        kind,
        slots: vec![slot(&[(10, 3), (30, 1)])],
        zero: vec![slot(&[(20, 2)])],
        page_len: 4096,
        extra: vec![7],
    };
    let asks = vec![Run::new(Page(12), 1), Run::new(Page(40), 20)];
    let ack = PageAck { task, epoch, chunks: vec![ChunkId(0), chunk] };
    let others = [PageFrame::Ask(PageAsk { task, epoch, asks }), PageFrame::Ack(ack)];
    kinds.map(|kind| PageFrame::Section(section(kind))).into_iter().chain(others).collect()
}

fn profile() -> Vec<u8> {
    let mut hot = Hot::new();
    let pages: Vec<HotPage> = (0..9).map(|page| HotPage { slot: 1, page: page * 300 }).collect();
    hot.faulted_first(EntryId(9), &pages);
    encoded(hot, |hot, out| assert!(hot.encode(EntryId(9), out)))
}

/// Pieces one after the other, each behind its length.
fn chain(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.len() < 256) {
        bytes.push(piece.len() as u8);
        bytes.extend_from_slice(piece);
    }
    bytes
}

fn main() {
    let root = std::env::args().nth(1).expect("a folder to write to");
    let write = |target: &str, inputs: &[Vec<u8>]| {
        let folder = Path::new(&root).join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        for (number, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), input).expect("it can be written");
        }
    };
    let frames: Vec<Vec<u8>> =
        pages().into_iter().map(|frame| encoded(frame, PageFrame::encode)).collect();
    let header = ShipHeader {
        task: task(1),
        epoch: EPOCH,
        slots: vec![slot(&[(0, 9), (12, 1)])],
        page_len: 4096,
        extra: vec![1],
    };
    let mut heads: Vec<StreamHead> = pages().into_iter().map(StreamHead::Pages).collect();
    heads.push(StreamHead::Ship(header));
    write("control", &control());
    write("hello", &[hello()]);
    write(
        "stream_head",
        &heads.into_iter().map(|head| encoded(head, StreamHead::encode)).collect::<Vec<_>>(),
    );
    write("page_frames", &frames);
    write("profile", &[chain(&[profile(), profile()])]);
    let (pushed, broken) = (vec![vec![7]; 3], vec![vec![0], vec![1], vec![2]]);
    write("follow", &[frames.clone(), pushed, frames.clone(), broken].map(|part| chain(&part)));
}
