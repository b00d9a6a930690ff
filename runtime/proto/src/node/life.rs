//! What an admission and a death mean for the parts of a node.

use super::{Core, LinkRefused, step};
use crate::{
    action::{Action, Cx, Fault},
    id::{Generation, NodeId, Place},
    slots::Dealer,
    time::Micros,
    wire::{Frame, MemberInfo, SlotGrant},
};

impl Core {
    pub(super) fn admit(
        &mut self,
        now: Micros,
        place: Place,
        addr: &str,
    ) -> Result<(), LinkRefused> {
        let members: Vec<MemberInfo> = self.members.infos().collect();
        let dead = self.members.dead_list();
        let worn_out = LinkRefused::WornOut { node: place.node };
        let member = self.members.admit(now, place, addr.to_owned()).ok_or(worn_out)?;
        let slots: Vec<SlotGrant> = self.dealer.as_mut().map(Dealer::deal).unwrap_or_default();
        for other in &members {
            self.out.frame(other.place.node, Frame::Joined { member: member.clone() });
        }
        self.out.frame(
            place.node,
            Frame::Welcome { generation: member.generation, members, dead, slots },
        );
        self.actions.push_back(Action::MemberUp { place, addr: addr.to_owned() });
        Ok(())
    }

    /// The starting node's word on a death. Nothing happens if it was known, or is not ours to say.
    pub(super) fn declare_dead(&mut self, now: Micros, place: Place) {
        if self.members.is_starting()
            && self.members.place(place.node) == Some(place)
            && place != self.members.me
        {
            let others: Vec<NodeId> =
                self.members.others().filter(|node| *node != place.node).collect();
            for node in others {
                self.out.frame(node, Frame::Dead { place });
            }
            self.node_dead(now, place);
        }
    }

    /// A death, as announced. What this does in which order is what `death` relies on: first nothing more is taken from
    /// the dead, then the others are told so.
    pub(super) fn node_dead(&mut self, now: Micros, dead: Place) {
        if dead == self.members.me {
            return self.fence("this node was declared dead by the starting node");
        }
        if !self.members.bury(dead) {
            let is_news = !self.members.is_dead(dead);
            self.members.remember_dead(dead, Generation(0));
            if is_news {
                // The node's next process has said hello before this word came, so the dead one was never known here.
                // The others wait for this node's word all the same.
                for node in self.members.others() {
                    self.out.frame(node, Frame::DeadSeen { place: dead });
                }
            }
            return;
        }
        self.courier.close(dead.node);
        self.take_settled();
        step!(self, now, handoff.node_dead(dead));
        for node in self.members.others() {
            self.out.frame(node, Frame::DeadSeen { place: dead });
        }
        self.actions.push_back(Action::NodeDead { place: dead });
        if self.fault == Fault::LoseAtOnce {
            step!(self, now, home.settled(dead));
        }
        let settled = self.deaths.begin(dead, self.members.announced());
        self.settle(now, settled);
        self.send_unsent();
        self.fail_waits(dead.node);
    }

    pub(super) fn settle(&mut self, now: Micros, settled: Vec<Place>) {
        // What this node itself has just found out must reach its home first.
        self.pump(now);
        for dead in settled {
            step!(self, now, home.settled(dead));
        }
    }
}
