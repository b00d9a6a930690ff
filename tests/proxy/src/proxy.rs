//! A proxy before one address, for any number of clients.
//!
//! The target sees each client as an address of its own. Lanes: the target is end 0, the clients are
//! 1, 2, … in the order of their first packets.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::wire::Wire;
use crate::{Counts, Lane, Profile, socket};

/// See the module.
#[derive(Debug)]
pub struct Proxy {
    inner: Arc<Inner>,
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Debug)]
struct Inner {
    wire: Wire,
    is_cut: AtomicBool,
}

impl Proxy {
    /// Starts a proxy whose packets go to `target`.
    ///
    /// # Errors
    /// There are no sockets left.
    pub fn start(seed: u64, profile: Profile, target: SocketAddr) -> io::Result<Proxy> {
        let front = socket::open()?;
        let addr = front.local_addr()?;
        let inner =
            Arc::new(Inner { wire: Wire::start(seed, profile), is_cut: AtomicBool::new(false) });
        let stop = Arc::new(AtomicBool::new(false));
        let threads = Arc::new(Mutex::new(Vec::new()));
        let mut clients: HashMap<SocketAddr, (u16, Arc<UdpSocket>)> = HashMap::new();
        let reader = {
            let (inner, stop, threads) = (inner.clone(), stop.clone(), threads.clone());
            let (out, stopped) = (front.clone(), stop.clone());
            socket::listen(front, stopped, move |bytes, client| {
                if !clients.contains_key(&client) {
                    // Without a socket the packet is lost; the client sends another.
                    let Ok(back) = socket::open() else { return };
                    let end = clients.len() as u16 + 1;
                    inner.meet(end);
                    clients.insert(client, (end, back.clone()));
                    let (inner, out) = (inner.clone(), out.clone());
                    let thread = socket::listen(back, stop.clone(), move |bytes, sender| {
                        if sender == target {
                            inner.wire.take(Lane { from: 0, to: end }, bytes, &out, client);
                        }
                    });
                    threads.lock().unwrap().push(thread);
                }
                let (end, back) = &clients[&client];
                inner.wire.take(Lane { from: *end, to: 0 }, bytes, back, target);
            })
        };
        threads.lock().unwrap().push(reader);
        Ok(Proxy { inner, addr, stop, threads })
    }

    /// Where clients send to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes everything like this, from now on.
    pub fn set_profile(&self, profile: Profile) {
        self.inner.wire.set_profile(profile, |_| true, true);
    }

    /// Nothing passes any more.
    pub fn cut(&self) {
        self.inner.is_cut.store(true, Ordering::SeqCst);
        self.inner.wire.set_cut(true, |_| true);
    }

    /// It carries again.
    pub fn mend(&self) {
        self.inner.is_cut.store(false, Ordering::SeqCst);
        self.inner.wire.set_cut(false, |_| true);
    }

    /// Counts towards the target.
    #[must_use]
    pub fn counts_there(&self) -> Counts {
        self.inner.wire.counts(|lane| lane.to == 0)
    }

    /// Counts towards the clients.
    #[must_use]
    pub fn counts_back(&self) -> Counts {
        self.inner.wire.counts(|lane| lane.from == 0)
    }
}

impl Inner {
    /// Makes the lanes of a new client, which a cut holds too.
    fn meet(&self, end: u16) {
        for lane in [Lane { from: 0, to: end }, Lane { from: end, to: 0 }] {
            self.wire.know(lane);
        }
        self.wire
            .set_cut(self.is_cut.load(Ordering::SeqCst), |lane| lane.from == end || lane.to == end);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The reader may start another while it is being joined: take them one by one.
        loop {
            let thread = self.threads.lock().unwrap().pop();
            let Some(thread) = thread else { break };
            let _ = thread.join();
        }
    }
}
