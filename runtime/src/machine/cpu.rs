//! The CPU, as far as a running task depends on it: the instructions that code may have chosen, and
//! the layout of saved registers.
//!
//! Only bits that code generation, libc or std choose by are kept. What a core, a boot, a
//! hypervisor or a microcode's list of mitigations may change without any code caring is masked out:
//! two cores of one machine have to be equal, and so have two machines of one CPU model.

use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use std::sync::OnceLock;

use super::Hash;

/// What tasks depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cpu {
    /// The instruction sets, as four words of CPUID bits: leaf 1, leaf 7, leaf 7's rest, and leaf
    /// 0x8000_0001.
    pub features: [u64; 4],
    /// Which register states the kernel has enabled.
    pub xcr0: u64,
    /// Hash of where XSAVE puts each of them.
    pub xsave_layout: u64,
    /// Bytes that XSAVE needs for them.
    pub xsave_len: u32,
    /// Shadow stacks are on in this process. They would have to move too; they do not.
    pub cet: bool,
    /// A program may write FS base itself; without it a switch of tasks costs a system call.
    pub fsgsbase: bool,
    /// Bytes per page.
    pub page_len: u32,
    /// The maker's name for it.
    pub model: String,
}

impl Cpu {
    /// The CPU, asked once.
    pub fn this() -> &'static Cpu {
        static CPU: OnceLock<Cpu> = OnceLock::new();
        CPU.get_or_init(Cpu::ask)
    }

    fn ask() -> Cpu {
        let xcr0 = xcr0();
        // SAFETY: reads the vector that the kernel gave to this process, and a constant.
        let (hwcap2, page_len) =
            unsafe { (libc::getauxval(libc::AT_HWCAP2), libc::sysconf(libc::_SC_PAGESIZE)) };
        let (xsave_layout, xsave_len) = xsave(xcr0);
        Cpu {
            features: features(),
            xcr0,
            xsave_layout,
            xsave_len,
            cet: has_shadow_stack(),
            fsgsbase: hwcap2 & HWCAP2_FSGSBASE != 0,
            page_len: page_len as u32,
            model: model(),
        }
    }
}

/// The kernel's word that `wrfsbase` works: CPUID alone does not say so.
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// Leaf 1, EDX: FPU TSC CX8 CMOV CLFSH MMX FXSR SSE SSE2. Not APIC, HTT, thermal and such.
const LEAF1_EDX: u32 = bits(&[0, 4, 8, 15, 19, 23, 24, 25, 26]);
/// Leaf 1, ECX: SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE OSXSAVE AVX F16C
/// RDRAND. Not MONITOR, VMX, PCID, x2APIC, "in a virtual machine" and such.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 27, 28, 29, 30]);
/// Leaf 7, EBX: FSGSBASE BMI1 HLE AVX2 BMI2 ERMS RTM AVX512F DQ RDSEED ADX IFMA CLFLUSHOPT CLWB PF ER
/// CD SHA BW VL. Not SMEP, SMAP, SGX, monitoring of resources and such.
const LEAF7_EBX: u32 =
    bits(&[0, 3, 4, 5, 8, 9, 11, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
/// Leaf 7, ECX: PREFETCHWT1 VBMI WAITPKG VBMI2 GFNI VAES VPCLMUL VNNI BITALG VPOPCNTDQ RDPID CLDEMOTE
/// MOVDIRI MOVDIR64B. Not UMIP, protection keys, five-level paging and such.
const LEAF7_ECX: u32 = bits(&[0, 1, 5, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]);
/// Leaf 7, EDX: 4VNNIW 4FMAPS FSRM VP2INTERSECT RTM_ALWAYS_ABORT SERIALIZE TSXLDTRK AMX-BF16
/// AVX512-FP16 AMX-TILE AMX-INT8. Not the mitigations, nor "hybrid", nor branch records.
const LEAF7_EDX: u32 = bits(&[2, 3, 4, 8, 11, 14, 16, 22, 23, 24, 25]);
/// Leaf 7 part 1, EAX: SHA512 SM3 SM4 RAO-INT AVX-VNNI AVX512-BF16 CMPCCXADD FZLRM FSRS FSRCS
/// AMX-FP16 AVX-IFMA.
const LEAF7_1_EAX: u32 = bits(&[0, 1, 2, 3, 4, 5, 7, 10, 11, 12, 21, 23]);
/// Leaf 0x8000_0001, EDX: SYSCALL NX MMXEXT RDTSCP LM 3DNOWEXT 3DNOW.
const EXTENDED_EDX: u32 = bits(&[11, 20, 22, 27, 29, 30, 31]);
/// Leaf 0x8000_0001, ECX: LAHF LZCNT SSE4A MISALIGNSSE PREFETCHW XOP LWP FMA4 TBM. Not SVM, counters
/// and such.
const EXTENDED_ECX: u32 = bits(&[0, 5, 6, 7, 8, 11, 15, 16, 21]);

const fn bits(set: &[u32]) -> u32 {
    let (mut mask, mut at) = (0, 0);
    while at < set.len() {
        mask |= 1 << set[at];
        at += 1;
    }
    mask
}

fn features() -> [u64; 4] {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let one = leaf(1, 0);
    let seven = leaf(7, 0);
    let seven_rest = if seven.eax >= 1 { leaf(7, 1).eax } else { 0 };
    let extended = leaf(0x8000_0001, 0);
    [
        pair(one.edx & LEAF1_EDX, one.ecx & LEAF1_ECX),
        pair(seven.ebx & LEAF7_EBX, seven.ecx & LEAF7_ECX),
        pair(seven.edx & LEAF7_EDX, seven_rest & LEAF7_1_EAX),
        pair(extended.edx & EXTENDED_EDX, extended.ecx & EXTENDED_ECX),
    ]
}

/// A leaf, or zeros where the CPU has none of that number: it would answer with another leaf.
fn leaf(number: u32, part: u32) -> CpuidResult {
    if number > __cpuid(number & 0x8000_0000).eax {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(number, part)
}

fn xcr0() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if leaf(1, 0).ecx & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE says that this instruction is there for programs; register 0 always exists.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Hash of the places of all enabled states, and the bytes of an area for them.
fn xsave(xcr0: u64) -> (u64, u32) {
    if xcr0 == 0 {
        return (0, 512);
    }
    let mut hash = Hash::new();
    let whole = leaf(0xd, 0).ebx;
    hash.word(u64::from(whole));
    for state in (2..63).filter(|state| xcr0 >> state & 1 == 1) {
        let place = leaf(0xd, state);
        hash.word(u64::from(state));
        hash.word(u64::from(place.eax) << 32 | u64::from(place.ebx));
        hash.word(u64::from(place.ecx & 0b11));
    }
    (hash.finish()[0], whole)
}

/// Whether the kernel has given this thread a shadow stack.
fn has_shadow_stack() -> bool {
    const ARCH_SHSTK_STATUS: i32 = 0x5005;
    let mut status = 0_u64;
    // SAFETY: the kernel writes one word to `status`, or refuses the number.
    let done = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut status) };
    done == 0 && status & 1 != 0
}

fn model() -> String {
    if __cpuid(0x8000_0000).eax < 0x8000_0004 {
        return String::new();
    }
    let mut text = Vec::new();
    for part in 0x8000_0002..=0x8000_0004 {
        let CpuidResult { eax, ebx, ecx, edx } = __cpuid(part);
        [eax, ebx, ecx, edx].iter().for_each(|word| text.extend_from_slice(&word.to_le_bytes()));
    }
    text.retain(|byte| (b' '..=b'~').contains(byte));
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_of_this_machine_answer_alike() {
        // SAFETY: plain data, made by zeros.
        let mut before: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::cpu_set_t>();
        // SAFETY: the kernel writes the set of this thread's cores to `before`.
        assert_eq!(unsafe { libc::sched_getaffinity(0, len, &raw mut before) }, 0);
        let mut count = 0;
        for core in 0..libc::CPU_SETSIZE as usize {
            // SAFETY: `core` is below the set's size.
            if !unsafe { libc::CPU_ISSET(core, &before) } {
                continue;
            }
            // SAFETY: as above; the set is plain data and is only read by the kernel.
            let moved = unsafe {
                let mut one: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(core, &mut one);
                libc::sched_setaffinity(0, len, &raw const one)
            };
            assert_eq!(moved, 0, "core {core}");
            assert_eq!(Cpu::ask(), *Cpu::this(), "core {core}");
            count += 1;
        }
        assert!(count >= 1);
        // SAFETY: as above; the thread may run other tests after this one.
        assert_eq!(unsafe { libc::sched_setaffinity(0, len, &raw const before) }, 0);
    }

    #[test]
    fn the_answers_agree_with_stds_own_detection() {
        let [one, seven, _, extended] = Cpu::this().features;
        assert_eq!(one >> 26 & 1 == 1, std::is_x86_feature_detected!("sse2"));
        assert_eq!(
            seven >> 5 & 1 == 1 && Cpu::this().xcr0 & 6 == 6,
            std::is_x86_feature_detected!("avx2")
        );
        assert_eq!(one >> (32 + 23) & 1 == 1, std::is_x86_feature_detected!("popcnt"));
        assert_eq!(extended >> (32 + 5) & 1 == 1, std::is_x86_feature_detected!("lzcnt"));
        assert!(Cpu::this().xsave_len >= 512);
        assert_eq!(Cpu::this().page_len, 4096);
    }

    #[test]
    fn what_differs_between_cores_and_boots_is_masked() {
        // HTT and APIC; x2APIC, "in a virtual machine", MONITOR.
        assert_eq!(LEAF1_EDX & (1 << 28 | 1 << 9), 0);
        assert_eq!(LEAF1_ECX & (1 << 21 | 1 << 31 | 1 << 3), 0);
        // OSPKE and the mitigations' bits.
        assert_eq!(LEAF7_ECX & 1 << 4, 0);
        assert_eq!(LEAF7_EDX >> 26, 0);
    }
}
