//! What the wire calls: hellos, frames, arriving tasks, and the clock of the protocols.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use migrt_proto::transfer::{PageFrame, Section, SectionKind};
use migrt_proto::wire::{Hello, StreamHead, WIRE_VERSION};
use migrt_proto::{Core, LinkRefused, NodeId, Place};

use super::Cluster;
use crate::machine::{Cpu, Image};
use crate::migrate::arrive::{Arrive, Discard};
use crate::migrate::{follow, found, have, lacking, serve};
use crate::net::{BulkSink, Handler, LinkError};

/// See the module.
pub(super) struct Link {
    cluster: &'static Cluster,
    hello: Hello,
    /// Who said hello on the links that are coming up, and whether it can serve missing pages.
    greeted: Mutex<HashMap<u16, (Place, bool)>>,
    /// Why a process was refused whose node has another that lives.
    doubled: Mutex<String>,
    /// Node 0 has given what came during a pause the time to be read.
    heard_out: AtomicBool,
}

/// A tick that comes so late tells that this process was paused.
const PAUSED: Duration = Duration::from_millis(250);
/// After a pause node 0 first reads what has come in the meantime. Else it would take nodes for
/// silent that have spoken, and not know what they said last.
const HEAR_OUT: Duration = Duration::from_millis(30);

impl Link {
    pub(super) fn new(cluster: &'static Cluster, cluster_id: u64) -> Link {
        let place = cluster.look(|core| core.me());
        let (image, cpu) = (Image::this(), Cpu::this());
        let hello = Hello {
            wire_version: WIRE_VERSION,
            build_id: image.build_hash.to_vec(),
            region_base: migrt_iso::REGION_BASE as u64,
            region_len: migrt_iso::REGION_LEN as u64,
            page_len: cpu.page_len,
            cpu_features: cpu.features,
            xcr0: cpu.xcr0,
            xsave_layout: cpu.xsave_layout,
            ifunc_targets: image.ifunc_targets,
            cet: cpu.cet,
            cluster_id,
            entries: crate::entry::entries_hash(),
            node: place.node,
            incarnation: place.incarnation,
            can_fault: crate::migrate::can_fault(),
        };
        Link {
            cluster,
            hello,
            greeted: Mutex::new(HashMap::new()),
            doubled: Mutex::default(),
            heard_out: AtomicBool::new(false),
        }
    }
}

fn refuse(peer: u16, why: &str) -> Box<dyn BulkSink> {
    tracing::warn!(peer, %why, "a shipment is not taken");
    Box::new(Discard)
}

impl Handler for Link {
    fn hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.hello.encode(&mut bytes);
        bytes
    }

    fn check_hello(&self, bytes: &[u8]) -> Result<u16, String> {
        let hello = Hello::decode(bytes).map_err(|e| match Hello::peek_version(bytes) {
            Some(version) if version != WIRE_VERSION => format!(
                "wire version differs: this node speaks {WIRE_VERSION}, the peer {version}; \
                 start the same binary on every node"
            ),
            _ => format!("the hello cannot be read: {e}"),
        })?;
        self.hello.compare(&hello).map_err(|e| e.to_string())?;
        let place = hello.place();
        self.cluster.look(|core| core.admits(place)).map_err(|refused| {
            let text = refused.to_string();
            if matches!(refused, LinkRefused::Occupied { .. }) {
                *self.doubled.lock().unwrap() = text.clone();
            }
            text
        })?;
        self.greeted.lock().unwrap().insert(place.node.0, (place, hello.can_fault));
        Ok(place.node.0)
    }

    fn peer_up(&self, peer: u16, addr: SocketAddr) {
        let greeted = self.greeted.lock().unwrap().get(&peer).copied();
        let Some((place, can_fault)) = greeted else { return };
        let admitted = self.cluster.tell(|core, now| core.peer_up(now, place, &addr.to_string()));
        if let Err(refused) = admitted
            && let Some(net) = self.cluster.net.get()
        {
            net.forget(peer, refused.to_string());
            return;
        }
        self.cluster.note_can_follow(NodeId(peer), can_fault);
        self.cluster.link_up(NodeId(peer));
        serve::link_back(NodeId(peer));
        lacking::link_back(NodeId(peer));
    }

    fn peer_down(&self, peer: u16, why: &str) {
        tracing::debug!(peer, why, "link down");
        self.cluster.linked.lock().unwrap().remove(&NodeId(peer));
        serve::link_lost(NodeId(peer));
        lacking::link_lost(NodeId(peer));
        have::link_lost(NodeId(peer));
        self.cluster.tell(|core, now| core.peer_down(now, NodeId(peer)));
    }

    fn stranger(&self, error: &LinkError) {
        let text = error.to_string();
        tracing::warn!(%text, "a stranger called");
        let first = self.cluster.last_failure.lock().unwrap().replace(text.clone()).is_none();
        if first && !self.cluster.missing().is_empty() {
            // It may be one of those that are waited for, with a wrong identity.
            // One write, so that it is not mixed with what others say.
            let text = format!(
                "migrt: node {} did not let a caller in and waits on: {text}\n",
                self.cluster.me
            );
            eprint!("{text}");
        }
    }

    fn link_failed(&self, error: &LinkError) {
        let text = error.to_string();
        tracing::warn!(%text, "link failed");
        if let LinkError::RefusedHere { reason, .. } = error
            && *reason == *self.doubled.lock().unwrap()
        {
            // A second process of a node that is well is no trouble of this one's.
            return;
        }
        *self.cluster.last_failure.lock().unwrap() = Some(text.clone());
        if error.is_final() {
            if self.cluster.me != NodeId::STARTING && self.cluster.members().len() < 2 {
                eprintln!("migrt: node {} cannot join: {text}", self.cluster.me);
                self.cluster.finish(1);
            }
            *self.cluster.link_error.lock().unwrap() = Some(text);
        }
    }

    fn frame(&self, peer: u16, bytes: &[u8]) {
        let taken = self.cluster.tell(|core, now| core.receive(now, NodeId(peer), bytes));
        if let Err(error) = taken
            && let Some(net) = self.cluster.net.get()
        {
            net.forget(peer, format!("it sent a frame that cannot be read: {error}"));
        }
    }

    fn bulk_open(&self, peer: u16, header: &[u8]) -> Box<dyn BulkSink> {
        crate::fail::point("target.shipping");
        let from = NodeId(peer);
        let opened = match StreamHead::decode(header) {
            Ok(StreamHead::Ship(header)) => self
                .cluster
                .tell(|core, now| core.ship_arriving(now, from, &header))
                .map_err(|e| e.to_string())
                .map(|()| Section {
                    task: header.task,
                    epoch: header.epoch,
                    kind: SectionKind::Rest,
                    slots: header.slots,
                    zero: Vec::new(),
                    page_len: header.page_len,
                    extra: header.extra,
                }),
            Ok(StreamHead::Pages(PageFrame::Section(section)))
                if matches!(
                    section.kind,
                    SectionKind::Push { .. } | SectionKind::Demand { .. }
                ) =>
            {
                return follow::chunks(from, section).unwrap_or_else(|why| refuse(peer, &why));
            }
            Ok(StreamHead::Pages(frame @ (PageFrame::Ask(_) | PageFrame::Ack(_)))) => {
                return follow::requests(from, frame).unwrap_or_else(|why| refuse(peer, &why));
            }
            Ok(StreamHead::Pages(PageFrame::Want(want))) => return have::wanted(from, want),
            Ok(StreamHead::Pages(PageFrame::Have(first))) => {
                return have::answer(from, first).unwrap_or_else(|why| refuse(peer, &why));
            }
            Ok(StreamHead::Pages(PageFrame::Section(section)))
                if section.kind == SectionKind::Found =>
            {
                return found::found(from, section).unwrap_or_else(|why| refuse(peer, &why));
            }
            Ok(StreamHead::Pages(PageFrame::Section(section)))
                if section.kind == SectionKind::Head =>
            {
                let (task, epoch) = (section.task, section.epoch);
                let arriving = |core: &mut Core, now| core.head_arriving(now, from, task, epoch);
                self.cluster.tell(arriving).map_err(|e| e.to_string()).map(|()| section)
            }
            Ok(StreamHead::Pages(PageFrame::Section(section))) => self
                .cluster
                .tell(|core, now| core.rounds_arriving(now, from, section.task, section.epoch))
                .map_err(|e| e.to_string())
                .map(|()| section),
            Ok(StreamHead::Blank) => return follow::blank(),
            Err(why) => Err(why.to_string()),
        };
        let opened = opened.map(|section| Arrive::open(self.cluster, from, section));
        match opened {
            Ok(arrive) => Box::new(arrive),
            Err(why) => refuse(peer, &why),
        }
    }

    fn tick(&self) -> Option<Instant> {
        // This is the net thread: packets hold pages of tasks.
        crate::census::clear_always();
        crate::census::clear_stack();
        let cluster = self.cluster;
        let now = cluster.now();
        let due = cluster.look(|core| core.next_deadline()).filter(|due| *due <= now);
        if let Some(due) = due {
            let is_late = now.0 - due.0 > PAUSED.as_micros() as u64;
            if is_late
                && cluster.me == NodeId::STARTING
                && !self.heard_out.swap(true, Ordering::Relaxed)
            {
                return Some(Instant::now() + HEAR_OUT);
            }
            cluster.tell(|core, now| core.tick(now));
        }
        self.heard_out.store(false, Ordering::Relaxed);
        let due = cluster.look(|core| core.next_deadline())?;
        Some(cluster.start + Duration::from_micros(due.0))
    }
}
