//! What is mapped in this process: `/proc/self/maps`, read without allocating.

use migrt_iso::raw;

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Writes stay in this process.
    pub(super) private: bool,
    pub(super) kind: Kind,
}

/// What lies there, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Anonymous,
    File,
    /// The first thread's stack.
    MainStack,
    /// The kernel's own pages (`[vdso]` and the like).
    Kernel,
}

/// Calls `found` with each mapping, in rising order, until it says `false`. Whether the whole list
/// was read. `buffer` must hold a line at least: 4 KiB and more.
pub(super) fn for_each_mapping(buffer: &mut [u8], found: &mut dyn FnMut(Mapping) -> bool) -> bool {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    let at = libc::AT_FDCWD as isize as usize;
    let path = c"/proc/self/maps".as_ptr() as usize;
    // SAFETY: a C string; the descriptor is closed below.
    let file = unsafe { raw::syscall(libc::SYS_openat, [at, path, flags, 0, 0, 0]) };
    if file < 0 {
        return false;
    }
    let whole = read_lines(file as usize, buffer, &mut |line| parse(line).is_none_or(&mut *found));
    // SAFETY: opened above.
    unsafe { raw::syscall(libc::SYS_close, [file as usize, 0, 0, 0, 0, 0]) };
    whole
}

fn read_lines(file: usize, buffer: &mut [u8], found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut held = 0;
    loop {
        let room = &mut buffer[held..];
        if room.is_empty() {
            return false;
        }
        let args = [file, room.as_mut_ptr() as usize, room.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most the room's length.
        let got = unsafe { raw::syscall(libc::SYS_read, args) };
        if got == -(libc::EINTR as isize) {
            continue;
        }
        if got <= 0 {
            return got == 0 && held == 0;
        }
        held += got as usize;
        let mut begin = 0;
        while let Some(len) = buffer[begin..held].iter().position(|&byte| byte == b'\n') {
            if !found(&buffer[begin..begin + len]) {
                return false;
            }
            begin += len + 1;
        }
        buffer.copy_within(begin..held, 0);
        held -= begin;
    }
}

/// `start-end rwxp offset device inode    name`
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let range = words.next()?;
    let flags = words.next()?;
    let inode = words.nth(2)?;
    let name = words.next().unwrap_or(b"");
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let kind = if name == b"[stack]" {
        Kind::MainStack
    } else if name.starts_with(b"[v") {
        Kind::Kernel
    } else if inode != b"0" {
        Kind::File
    } else {
        Kind::Anonymous
    };
    Some(Mapping {
        start: hex(&range[..dash])?,
        end: hex(&range[dash + 1..])?,
        readable: *flags.first()? == b'r',
        writable: *flags.get(1)? == b'w',
        private: *flags.get(3)? == b'p',
        kind,
    })
}

fn hex(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0usize, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | usize::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds_are_understood() {
        let line = b"7ffc1a2b3000-7ffc1a2d4000 rw-p 00000000 00:00 0                [stack]";
        let stack = parse(line).unwrap();
        assert_eq!((stack.start, stack.end), (0x7ffc_1a2b_3000, 0x7ffc_1a2d_4000));
        assert_eq!((stack.readable, stack.writable, stack.private), (true, true, true));
        assert_eq!(stack.kind, Kind::MainStack);
        let file = parse(b"400000-401000 r--s 00001000 fe:01 1234  /a name with spaces").unwrap();
        assert_eq!((file.kind, file.private, file.writable), (Kind::File, false, false));
        let anonymous = parse(b"7f0000000000-7f0000001000 ---p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.kind, anonymous.readable), (Kind::Anonymous, false));
        let kernel = parse(b"7ffc1a2d8000-7ffc1a2da000 r-xp 00000000 00:00 0  [vdso]").unwrap();
        assert_eq!(kernel.kind, Kind::Kernel);
        assert_eq!(parse(b"nonsense"), None);
    }

    #[test]
    fn the_list_is_whole_in_a_small_buffer_and_rises() {
        let (mut last, mut own_stack) = (0, false);
        let local = 0u8;
        assert!(for_each_mapping(&mut [0; 4096], &mut |mapping| {
            assert!(mapping.start >= last && mapping.end > mapping.start);
            last = mapping.end;
            own_stack |= (mapping.start..mapping.end).contains(&(&raw const local as usize));
            true
        }));
        assert!(own_stack);
    }
}
