//! Two network namespaces with a veth pair between them: as near to two machines as one gets.
//!
//! ```text
//! namespace 0                                      namespace 1
//! | lo | veth0 10.77.0.1/24 |====== 1,500 ======| veth1 10.77.0.2/24 | lo |
//! ```
//!
//! The namespaces have no names: each lives as long as a process in it, first of all a `cat` that ends with whoever
//! made it, however that one ends. So nothing is ever left to clean up, and the machine's own network is not touched.
//!
//! Needs root, `unshare` of util-linux, and `ip` of iproute2; [`Veth::new`] says what is lacking.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use migrt::launch::ClusterDir;
use migrt_test_node::{Ended, Run};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Ethernet's, and that of most clouds.
pub const MTU: u32 = 1_500;

/// One end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where node 0 lives.
    Zero,
    /// Where node 1 lives.
    One,
}

impl Side {
    fn number(self) -> usize {
        self as usize
    }

    /// The name of its end.
    #[must_use]
    pub fn device(self) -> &'static str {
        ["veth0", "veth1"][self.number()]
    }

    /// The address of its end.
    #[must_use]
    pub fn address(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1 + self.number() as u8))
    }
}

/// The pair. Its namespaces end with the last process in them.
#[derive(Debug)]
pub struct Veth {
    holders: [Child; 2],
}

impl Veth {
    /// Makes the namespaces and connects them.
    ///
    /// # Errors
    /// Says in words what is lacking here: root, a program, or a part of the kernel.
    pub fn new() -> Result<Veth, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root: run as root".to_owned());
        }
        let veth = Veth { holders: [holder()?, holder()?] };
        let (mtu, one) = (MTU.to_string(), veth.holders[1].id().to_string());
        let (zero_end, one_end) = (Side::Zero.device(), Side::One.device());
        let pair = ["link", "add", zero_end, "mtu", &mtu, "type", "veth", "peer", "name", one_end];
        veth.ip(Side::Zero, &[&pair[..], &["mtu", &mtu, "netns", &one]].concat())?;
        for side in [Side::Zero, Side::One] {
            let address = format!("{}/24", side.address());
            veth.ip(side, &["addr", "add", &address, "dev", side.device()])?;
            veth.ip(side, &["link", "set", "lo", "up"])?;
            veth.ip(side, &["link", "set", side.device(), "up"])?;
        }
        Ok(veth)
    }

    /// Where a process enters a side.
    #[must_use]
    pub fn place(&self, side: Side) -> PathBuf {
        format!("/proc/{}/ns/net", self.holders[side.number()].id()).into()
    }

    /// Runs `ip` on one side.
    ///
    /// # Errors
    /// It is not there, or says no.
    pub fn ip(&self, side: Side, arguments: &[&str]) -> Result<(), String> {
        self.run(side, "ip", arguments)
    }

    /// Runs a program on one side to its end.
    ///
    /// # Errors
    /// It is not there, or fails; its own words are in the text.
    pub fn run(&self, side: Side, program: &str, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let done = inside(&self.place(side), move || command.output())
            .map_err(|why| format!("{program} cannot be run: {why}"))?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            )),
        }
    }

    /// Cuts the wire.
    ///
    /// # Errors
    /// As of [`ip`](Veth::ip).
    pub fn cut(&self) -> Result<(), String> {
        self.ip(Side::One, &["link", "set", Side::One.device(), "down"])
    }

    /// Mends the wire.
    ///
    /// # Errors
    /// As of [`ip`](Veth::ip).
    pub fn mend(&self) -> Result<(), String> {
        self.ip(Side::One, &["link", "set", Side::One.device(), "up"])
    }

    /// `command` as the node of a side, in a cluster of two.
    pub fn node(&self, dir: &ClusterDir, side: Side, command: &mut Command) {
        command.envs(dir.env(side.number() as u16, 2));
        command.env("MIGRT_BIND", format!("{}:0", side.address()));
    }

    /// Starts a program on both sides; node 0 first.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, dir: &ClusterDir, program: &str, arguments: &[&str]) -> [Run; 2] {
        [Side::Zero, Side::One].map(|side| {
            let mut command = Command::new(program);
            command.args(arguments).env_remove("MIGRT_FAIL").env_remove("RUST_BACKTRACE");
            self.node(dir, side, &mut command);
            let started = inside(&self.place(side), move || Ok(Run::start_command(command)));
            started.expect("its namespace is there")
        })
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Waits for both nodes, node 0 first.
///
/// # Panics
/// If one does not end in time.
#[must_use]
pub fn end(nodes: [Run; 2]) -> [Ended; 2] {
    nodes.map(Run::end)
}

/// A process in a namespace of its own, ready. It ends when its standard input does.
fn holder() -> Result<Child, String> {
    let mut child = Command::new("unshare")
        .args(["--net", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| format!("`unshare` of util-linux cannot be run: {why}"))?;
    let mut answer = String::new();
    let _ = child.stdin.as_mut().expect("piped").write_all(b"ready\n");
    let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut answer);
    if answer == "ready\n" {
        return Ok(child);
    }
    let _ = child.kill();
    let said = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
    Err(format!("no network namespace can be made: {}", String::from_utf8_lossy(&said).trim()))
}

/// Does `deed` on a thread in the namespace at `place`: what it starts, starts there.
///
/// # Errors
/// The namespace is gone, or the deed's own.
pub fn inside<T: Send>(
    place: &std::path::Path,
    deed: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(place)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            deed()
        });
        thread.join().expect("the deed does not panic")
    })
}
