//! The net thread's table of links, and the tasks that make new ones.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::{ClientConfig, Endpoint, ServerConfig};

use super::error::LinkError;
use super::fault::{CLOSE_DROPPED, CLOSE_ORDERLY, Outcome, clip};
use super::handler::Handler;
use super::identity::SERVER_NAME;
use super::link::{self, Link};
use super::pacer::Limiter;
use super::rt::{Exec, lock};
use super::timer::timeout;
use super::tls::Crypto;
use super::transport;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// One attempt to reach a silent address on this machine: QUIC repeats its first packet ever more
/// slowly, a new attempt begins quickly again.
const LOOPBACK_ATTEMPT: Duration = Duration::from_millis(500);
/// How long an orderly close waits for frames and shipments to be acknowledged.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How long it then waits for the closing packets to leave.
const DRAIN_MAX: Duration = Duration::from_millis(20);

/// What all tasks of the net thread share. Only that thread uses it; the locks are there because
/// quinn wants its tasks to be `Send`.
pub(super) struct Hub {
    pub(super) exec: Exec,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) node: u16,
    /// Random; tells this process from an earlier one with the same number.
    pub(super) run: u64,
    /// Shipments that are not acknowledged yet.
    pub(super) shipments: AtomicUsize,
    pub(super) limiter: Limiter,
    /// Bytes that were packed, before and after.
    pub(super) packed: Arc<(AtomicU64, AtomicU64)>,
    endpoint: Endpoint,
    crypto: Crypto,
    segmented: bool,
    /// The handler was called in this turn.
    touched: AtomicBool,
    closing: AtomicBool,
    links: Mutex<HashMap<u16, Arc<Link>>>,
    dials: Mutex<HashMap<SocketAddr, Arc<Dial>>>,
}

/// One address that is dialled until told otherwise.
#[derive(Default)]
struct Dial {
    stopped: AtomicBool,
    /// Who was last found there.
    peer: Mutex<Option<u16>>,
}

impl Hub {
    pub(super) fn new(
        exec: Exec,
        handler: Arc<dyn Handler>,
        (node, run): (u16, u64),
        endpoint: Endpoint,
        crypto: Crypto,
        (segmented, bulk_limit): (bool, Option<u64>),
    ) -> Self {
        Self {
            exec,
            handler,
            node,
            run,
            shipments: AtomicUsize::new(0),
            limiter: Limiter::new(bulk_limit),
            packed: Arc::default(),
            endpoint,
            crypto,
            segmented,
            touched: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            links: Mutex::default(),
            dials: Mutex::default(),
        }
    }

    /// Notes that the handler is being called, so that it is asked for its deadline afterwards.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// The link to `peer`, if it is up.
    pub(super) fn link(&self, peer: u16) -> Option<Arc<Link>> {
        lock(&self.links).get(&peer).filter(|link| link.is_up()).cloned()
    }

    /// Makes `link` the one to its peer unless there is one already; for the side that decides.
    pub(super) fn claim(&self, link: &Arc<Link>) -> bool {
        let old = lock(&self.links).get(&link.peer).cloned();
        if let Some(old) = old {
            if !old.has_ended() && old.is_same_run(link) {
                return false;
            }
            self.end(&old, "the peer was started anew");
        }
        lock(&self.links).insert(link.peer, link.clone());
        true
    }

    /// Makes `link` the one to its peer: the peer has decided so.
    pub(super) fn install(&self, link: &Arc<Link>) {
        let old = lock(&self.links).insert(link.peer, link.clone());
        if let Some(old) = old {
            self.end(&old, "the peer has made a new connection");
        }
    }

    /// Ends a link, once, and tells the handler if it was up.
    pub(super) fn end(&self, link: &Arc<Link>, why: &str) {
        let was_up = link.is_up();
        if !link.set_ended() {
            return;
        }
        {
            let mut links = lock(&self.links);
            if links.get(&link.peer).is_some_and(|current| Arc::ptr_eq(current, link)) {
                links.remove(&link.peer);
            }
        }
        link.finish();
        link.conn.close(CLOSE_DROPPED, clip(why).as_bytes());
        if was_up {
            self.touch();
            self.handler.peer_down(link.peer, why);
        }
    }

    /// Ends the link to `peer` and stops dialling it.
    pub(super) fn forget(&self, peer: u16, why: &str) {
        for dial in lock(&self.dials).values() {
            if *lock(&dial.peer) == Some(peer) {
                dial.stopped.store(true, Ordering::Relaxed);
            }
        }
        let link = lock(&self.links).get(&peer).cloned();
        if let Some(link) = link {
            self.end(&link, why);
        }
    }

    pub(super) fn stop_dialling(&self, addr: SocketAddr) {
        if let Some(dial) = lock(&self.dials).get(&addr) {
            dial.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Dials `addr` until told otherwise; does nothing if it does so already.
    pub(super) fn dial(self: &Arc<Self>, addr: SocketAddr) {
        let mut dials = lock(&self.dials);
        if dials.get(&addr).is_some_and(|dial| !dial.stopped.load(Ordering::Relaxed)) {
            return;
        }
        let dial = Arc::new(Dial::default());
        dials.insert(addr, dial.clone());
        drop(dials);
        let hub = self.clone();
        self.exec.spawn(async move {
            hub.keep_dialling(addr, &dial).await;
            let mut dials = lock(&hub.dials);
            if dials.get(&addr).is_some_and(|current| Arc::ptr_eq(current, &dial)) {
                dials.remove(&addr);
            }
        });
    }

    async fn keep_dialling(self: &Arc<Self>, addr: SocketAddr, dial: &Dial) {
        let mut backoff = BACKOFF_MIN;
        let mut told = false;
        let stopped =
            || dial.stopped.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed);
        while !stopped() {
            match self.attempt(addr).await {
                Outcome::Lost { orderly: true, .. } => return,
                Outcome::Lost { peer, .. } => {
                    *lock(&dial.peer) = Some(peer);
                    (backoff, told) = (BACKOFF_MIN, false);
                }
                Outcome::Duplicate { peer } => {
                    *lock(&dial.peer) = peer;
                    // While the other connection lives there is nothing to do here.
                    while peer.is_some_and(|peer| lock(&self.links).contains_key(&peer)) {
                        self.exec.sleep(BACKOFF_MAX).await;
                        if stopped() {
                            return;
                        }
                    }
                }
                Outcome::Failed(error) => {
                    if error.is_final() || !told {
                        self.touch();
                        self.handler.link_failed(&error);
                    }
                    if error.is_final() {
                        return;
                    }
                    told = true;
                }
            }
            self.exec.sleep(backoff).await;
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    async fn attempt(self: &Arc<Self>, addr: SocketAddr) -> Outcome {
        let mut config = ClientConfig::new(self.crypto.client.clone());
        config.transport_config(transport::config(addr, self.segmented));
        let connecting = match self.endpoint.connect_with(config, addr, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(error) => {
                let cause = error.to_string();
                return Outcome::Failed(LinkError::Unreachable { addr, cause });
            }
        };
        let limit = if addr.ip().to_canonical().is_loopback() {
            LOOPBACK_ATTEMPT
        } else {
            transport::IDLE_TIMEOUT
        };
        link::run(self, addr, connecting, limit).await
    }

    /// Takes incoming connections until the endpoint closes.
    pub(super) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let addr = incoming.remote_address();
            let mut config = ServerConfig::with_crypto(self.crypto.server.clone());
            config.transport_config(transport::config(addr, self.segmented));
            // Malformed first packets are nobody's business.
            let Ok(connecting) = incoming.accept_with(Arc::new(config)) else {
                continue;
            };
            let hub = self.clone();
            self.exec.spawn(async move {
                if let Outcome::Failed(error) =
                    link::run(&hub, addr, connecting, transport::IDLE_TIMEOUT).await
                {
                    hub.touch();
                    if error.is_about_certificates() {
                        hub.handler.stranger(&error);
                    } else {
                        hub.handler.link_failed(&error);
                    }
                }
            });
        }
    }

    /// Sends what is queued, says goodbye, and stops the net thread.
    pub(super) fn close(self: &Arc<Self>, text: String) {
        if self.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        let hub = self.clone();
        self.exec.spawn(async move {
            let links: Vec<_> = lock(&hub.links).values().cloned().collect();
            for link in &links {
                link.finish();
            }
            let deadline = Instant::now() + FLUSH_MAX;
            let flushed = || {
                hub.shipments.load(Ordering::Relaxed) == 0
                    && links.iter().all(|link| link.is_finished())
            };
            while !flushed() && Instant::now() < deadline {
                hub.exec.sleep(Duration::from_millis(1)).await;
            }
            for link in &links {
                link.conn.close(CLOSE_ORDERLY, clip(&text).as_bytes());
            }
            hub.endpoint.close(CLOSE_ORDERLY, clip(&text).as_bytes());
            timeout(&hub.exec, DRAIN_MAX, hub.endpoint.wait_idle()).await;
            hub.exec.stop();
        });
    }
}
