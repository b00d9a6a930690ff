//! The model of a driver's post-copy: pages that follow the task, asked for or pushed, while links break.
//!
//! A task lacks up to six pages, one bit each in `Local::missing`, as long as `Local::source` is set. Requests and pages
//! get lost with their link, arrive twice and out of order, and are asked for again.

use migrt_proto::{Epoch, Micros, Place, TaskId};

use crate::{event::Event, net::ConnId, process::Local, world::World};

impl World {
    /// The task at `at`, if it is (still) the one that came in `epoch` and lacks pages.
    fn lacking(&mut self, at: Place, task: TaskId, epoch: Epoch) -> Option<&mut Local> {
        let local = self.process(at)?.tasks.get_mut(&task)?;
        (local.epoch == epoch && local.source.is_some()).then_some(local)
    }

    /// The link between `at` and exactly the process `to`.
    fn link_to(&self, at: Place, to: Place) -> Option<ConnId> {
        let link = self.net.conn(at.node, to.node)?;
        let ends = [(at, to), (to, at)];
        ends.contains(&link.ends).then_some(link.id)
    }

    pub(crate) fn fetch(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let now = Micros(self.now);
        let Some(local) = self.lacking(at, task, epoch) else { return };
        let Some(source) = local.source else { return };
        if local.missing == 0 {
            local.source = None;
            let process = self.process(at).expect("it is there");
            return process.core.whole(now, task, epoch);
        }
        let page = local.missing.trailing_zeros() as u8;
        let (delay, again) = (self.rng.range(50, 3_000), self.rng.range(2_000, 40_000));
        if let Some(conn) = self.link_to(at, source) {
            self.at(delay, Event::Request { conn, from: at, to: source, task, epoch, page });
        }
        self.at(again, Event::Fetch { at, task, epoch });
    }

    /// I4: what a task still needs is there. A copy that waits for its `Ack` will do as well.
    pub(crate) fn page_wanted(
        &mut self,
        at: Place,
        from: Place,
        conn: ConnId,
        (task, epoch): (TaskId, Epoch),
        page: u8,
    ) {
        let delay = self.rng.range(50, 5_000);
        let process = self.process(at).expect("checked");
        let is_served = process.serving.get(&task).is_some_and(|served| served.0 == epoch);
        let is_frozen = process.tasks.get(&task).is_some_and(|local| local.frozen);
        if is_served || is_frozen {
            let copy = match process.serving.get(&task) {
                Some(served) if is_served => &served.1,
                _ => &process.tasks[&task],
            };
            let value = copy.pages[usize::from(page)];
            let event = Event::Page { conn, from: at, to: from, task, epoch, page, value };
            return self.at(delay, event);
        }
        let now = self.now;
        let needs = self.process(from).is_some_and(|process| process.may_run(now))
            && self.lacking(from, task, epoch).is_some_and(|local| local.missing & 1 << page != 0);
        if needs {
            let text = format!("{task} at {from} lacks page {page}, and {at} has let it go");
            self.checker.fail(now, "I4", text);
        }
    }

    pub(crate) fn page_arrives(
        &mut self,
        at: Place,
        (task, epoch): (TaskId, Epoch),
        page: u8,
        value: u32,
    ) {
        let now = Micros(self.now);
        let Some(local) = self.lacking(at, task, epoch) else { return };
        // It may have come before, and have been written since.
        if local.lacks(page.into()) {
            local.missing &= !(1 << page);
            local.pages[usize::from(page)] = value;
        }
        if local.missing == 0 {
            local.source = None;
            self.process(at).expect("it is there").core.whole(now, task, epoch);
        }
    }

    pub(crate) fn push(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let (page, delay) = (self.rng.range(0, 6) as u8, self.rng.range(50, 20_000));
        let process = self.process(at).expect("checked");
        if process.serving.get(&task).is_none_or(|served| served.0 != epoch) {
            return;
        }
        let copy = &process.serving[&task].1;
        let to = copy.plan.expect("it was moved").to;
        let value = copy.pages[usize::from(page)];
        if let Some(link) = self.net.conn(at.node, to) {
            let (conn, ends) = (link.id, link.ends);
            let to = if ends.0 == at { ends.1 } else { ends.0 };
            self.at(delay, Event::Page { conn, from: at, to, task, epoch, page, value });
        }
        let again = self.rng.range(5_000, 60_000);
        self.at(again, Event::Push { at, task, epoch });
    }

    /// Pages are gone for good: the driver ends the task.
    pub(crate) fn pages_lost(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let now = Micros(self.now);
        let Some(local) = self.lacking(at, task, epoch).cloned() else { return };
        let missing = u64::from(local.missing.count_ones());
        let source = local.source.expect("it lacks pages").node;
        self.report.pages_lost += 1;
        self.checker.pages_lost.insert(task, (source, missing));
        let process = self.process(at).expect("it is there");
        process.tasks.remove(&task);
        process.free_slot(task, &local);
        process.core.lost(now, task, source, missing);
        self.stream_ends(task, local.plan);
    }
}
