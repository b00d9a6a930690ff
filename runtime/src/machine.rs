//! Facts about this machine and this binary: what the hello of two nodes compares, and what `migrt
//! doctor` prints.
//!
//! Every fact is tried out or read from the kernel, none is guessed from a version. Relied on: Linux
//! on x86-64 with `/proc`; a file that cannot be read gives `None`. Absent: judgement. What a fact
//! means and what to do about it is said by those who ask. Nothing here needs the rest of the
//! runtime, starts a thread or leaves a descriptor open, except the two that `iso` keeps for the
//! process: the page map and the userfaultfd.

#[allow(unsafe_code, reason = "CPUID, XGETBV and arch_prctl")]
mod cpu;
#[allow(unsafe_code, reason = "reads the loaded segments of this program")]
mod image;
#[allow(unsafe_code, reason = "tries out system calls on mappings of its own")]
mod kernel;
#[allow(unsafe_code, reason = "getrlimit")]
mod limits;
#[allow(unsafe_code, reason = "socket options that std lacks")]
mod udp;

pub use cpu::Cpu;
pub use image::{CONFIG_LINES, Image};
pub use kernel::{Kernel, UserFaults, WriteTracking};
pub use limits::{Limits, Overcommit};
pub use udp::{BUFFER_LEN, Udp};

/// All facts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// This program, as it is loaded.
    pub image: &'static Image,
    /// The CPU, as far as running tasks depend on it.
    pub cpu: &'static Cpu,
    /// What the kernel offers for memory.
    pub kernel: Kernel,
    /// How UDP sockets do.
    pub udp: Udp,
    /// Limits of the process and the machine.
    pub limits: Limits,
}

impl Facts {
    /// Looks at everything; takes milliseconds. Two nodes that greet each other need
    /// [`Image::this`] and [`Cpu::this`] only.
    #[must_use]
    pub fn gather() -> Facts {
        Facts {
            image: Image::this(),
            cpu: Cpu::this(),
            kernel: Kernel::probe(),
            udp: Udp::probe(),
            limits: Limits::read(),
        }
    }
}

/// Sets `bytes` one after the other into a hash. Order and lengths count, so two fields cannot
/// trade a byte. Not for secrets.
#[derive(Debug)]
struct Hash {
    low: u64,
    high: u64,
}

impl Hash {
    fn new() -> Hash {
        Hash { low: 0x9e37_79b9_7f4a_7c15, high: 0xd1b5_4a32_d192_ed03 }
    }

    /// Takes one word. Each half is a multiply and a rotate, keyed differently, so that the two
    /// chains run side by side; together they take about a nanosecond.
    #[inline]
    fn word(&mut self, word: u64) {
        self.low = (self.low ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        self.high = (self.high.rotate_left(23) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    fn finish(mut self) -> [u64; 2] {
        // The last words must reach every bit too.
        for _ in 0..3 {
            let (low, high) = (self.low, self.high);
            self.word(low.rotate_left(32) ^ high);
            self.low ^= self.low >> 31;
            self.high ^= self.high >> 29;
        }
        [self.low, self.high]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fields: &[&[u8]]) -> [u64; 2] {
        let mut hash = Hash::new();
        fields.iter().for_each(|field| hash.bytes(field));
        hash.finish()
    }

    #[test]
    fn a_hash_tells_apart_each_bit_each_length_and_each_border() {
        let base = vec![7_u8; 4096];
        let mut seen = std::collections::HashSet::from([hash(&[&base])]);
        for bit in 0..base.len() * 8 {
            let mut other = base.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&[&other])), "bit {bit}");
        }
        for len in 0..64 {
            assert!(seen.insert(hash(&[&vec![0; len]])), "length {len}");
        }
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn one_bit_changes_about_half_of_each_half() {
        for bit in [0, 63, 64 * 100 + 17, 4096 * 8 - 1] {
            let base = vec![0_u8; 4096];
            let mut other = base.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            for (a, b) in hash(&[&base]).into_iter().zip(hash(&[&other])) {
                assert!((12..=52).contains(&(a ^ b).count_ones()), "bit {bit}: {a:x} {b:x}");
            }
        }
    }

    #[test]
    fn facts_can_be_gathered_again_and_leave_no_descriptor() {
        // In a process of its own: other tests open files meanwhile.
        const CHILD: &str = "MIGRT_TEST_GATHER_FACTS";
        if std::env::var_os(CHILD).is_none() {
            let path =
                concat!(module_path!(), "::facts_can_be_gathered_again_and_leave_no_descriptor");
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([path.split_once("::").unwrap().1, "--exact"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(child.status.success(), "{child:?}");
            return;
        }
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let first = Facts::gather();
        // The page map and the userfaultfd of this process, which moves use too.
        let kept = open();
        assert!(kept <= before + 2, "{before}, then {kept}");
        let second = Facts::gather();
        assert_eq!(kept, open());
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}
