//! The nodes' output: whole lines, each behind its node's number.
//!
//! One thread per stream, so that a terminal or pipe that does not take the output holds up the
//! nodes that print, as it would without a launcher, but not the thread that hears Ctrl-C.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A line longer than this is shown in pieces.
const LINE_LEN_MAX: usize = 1 << 20;

/// All streams of all nodes.
#[derive(Debug)]
pub(super) struct Output {
    /// Becomes readable when nobody reads our standard output any more.
    closed: Arc<OwnedFd>,
    ended: Receiver<()>,
    end: Sender<()>,
    count: usize,
}

/// Where a stream of a node is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Stdout,
    Stderr,
}

impl Output {
    /// Nothing to show yet.
    ///
    /// # Errors
    ///
    /// The process has too many descriptors.
    pub(super) fn new() -> io::Result<Output> {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let closed = Arc::new(rustix::event::eventfd(0, flags)?);
        let (end, ended) = channel();
        Ok(Output { closed, ended, end, count: 0 })
    }

    /// The descriptor that tells that nobody reads any more.
    pub(super) fn closed(&self) -> &OwnedFd {
        &self.closed
    }

    /// Shows what comes from `from` until it ends.
    ///
    /// # Errors
    ///
    /// No thread could be started.
    pub(super) fn show(
        &mut self,
        node: u16,
        mut from: impl Read + Send + 'static,
        target: Target,
    ) -> io::Result<()> {
        let (closed, end) = (Arc::clone(&self.closed), self.end.clone());
        let mut lines = Lines::new(node, target.is_coloured());
        thread::Builder::new().name(format!("output-{node}")).stack_size(128 << 10).spawn(
            move || {
                relay(&mut from, &mut lines, target, &closed);
                let _ = end.send(());
            },
        )?;
        self.count += 1;
        Ok(())
    }

    /// Waits until all is shown, at most this long: a stream may be held open by somebody else, or
    /// a terminal may not take more.
    pub(super) fn finish(self, patience: Duration) {
        let until = Instant::now() + patience;
        for _ in 0..self.count {
            let left = until.saturating_duration_since(Instant::now());
            if self.ended.recv_timeout(left).is_err() {
                return;
            }
        }
    }
}

impl Target {
    fn is_coloured(self) -> bool {
        let terminal = match self {
            Target::Stdout => io::stdout().is_terminal(),
            Target::Stderr => io::stderr().is_terminal(),
        };
        terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Writes whole lines at once, so that those of different nodes do not mix.
    fn write(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Target::Stderr => io::stderr().lock().write_all(bytes),
        }
    }
}

fn relay(from: &mut impl Read, lines: &mut Lines, target: Target, closed: &OwnedFd) {
    let mut chunk = vec![0; 32 << 10];
    let mut shown = Vec::new();
    let mut gone = false;
    loop {
        let len = match from.read(&mut chunk) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        shown.clear();
        if len == 0 {
            lines.end(&mut shown);
        } else {
            lines.push(&chunk[..len], &mut shown);
        }
        if !gone && !shown.is_empty() && target.write(&shown).is_err() {
            // Go on reading: a node must not stand still for want of a reader while it is stopped.
            gone = true;
            if target == Target::Stdout {
                let _ = rustix::io::write(closed, &1_u64.to_ne_bytes());
            }
        }
        if len == 0 {
            return;
        }
    }
}

/// Cuts a stream into lines and puts the node's number before each.
#[derive(Debug)]
struct Lines {
    prefix: Vec<u8>,
    /// The line so far.
    rest: Vec<u8>,
}

impl Lines {
    fn new(node: u16, coloured: bool) -> Lines {
        let prefix = if coloured {
            // The six colours that are neither black nor white.
            format!("\x1b[{}m[{node}]\x1b[0m ", 31 + (node + 5) % 6)
        } else {
            format!("[{node}] ")
        };
        Lines { prefix: prefix.into_bytes(), rest: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8], shown: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.rest.len() >= LINE_LEN_MAX {
                self.end(shown);
            }
        }
    }

    /// Shows what there is as a line.
    fn end(&mut self, shown: &mut Vec<u8>) {
        if self.rest.is_empty() {
            return;
        }
        shown.extend_from_slice(&self.prefix);
        shown.append(&mut self.rest);
        if !shown.ends_with(b"\n") {
            shown.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], wanted: &str) {
        let (mut lines, mut shown) = (Lines::new(3, false), Vec::new());
        pieces.iter().for_each(|piece| lines.push(piece.as_bytes(), &mut shown));
        lines.end(&mut shown);
        assert_eq!(String::from_utf8(shown).unwrap(), wanted, "{pieces:?}");
    }

    #[test]
    fn each_line_gets_its_node_however_it_comes() {
        check(&["one\ntwo\n"], "[3] one\n[3] two\n");
        check(&["o", "ne", "\nt", "wo"], "[3] one\n[3] two\n");
        check(&["\n\n"], "[3] \n[3] \n");
        check(&[], "");
    }

    #[test]
    fn an_endless_line_is_shown_in_pieces() {
        let (mut lines, mut shown) = (Lines::new(0, false), Vec::new());
        for _ in 0..3 {
            lines.push(&vec![b'x'; LINE_LEN_MAX / 2], &mut shown);
        }
        assert_eq!(shown.len(), "[0] \n".len() + LINE_LEN_MAX);
    }

    #[test]
    fn a_terminal_gets_colours_and_they_are_switched_off_again() {
        let prefix = String::from_utf8(Lines::new(0, true).prefix).unwrap();
        assert_eq!(prefix, "\x1b[36m[0]\x1b[0m ");
    }
}
