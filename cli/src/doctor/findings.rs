//! What the facts mean: one finding for each thing that can be right or wrong, with its remedy.
//!
//! "Will not work" is kept for what makes mobile tasks impossible; all that merely costs is "slow".

use std::path::Path;

use migrt::machine::{
    BUFFER_LEN, CONFIG_LINES, Facts, Image, Overcommit, UserFaults, WriteTracking,
};
use migrt_iso::guard::{self, GuardMethod};
use migrt_iso::{REGION_BASE, REGION_LEN, Region};

use super::elf::Program;
use super::{Finding, Verdict};

/// Which program is looked at.
#[derive(Debug)]
pub(super) enum Subject<'a> {
    /// The one that runs: `migrt` itself, built as all programs of its workspace.
    This,
    /// A file.
    Program(&'a Path, Program),
}

/// All findings, the program's first.
pub(super) fn judge(facts: &Facts, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = match subject {
        Subject::This => vec![this_image(facts.image)],
        Subject::Program(path, program) => {
            vec![program_image(path, program), program_entries(program)]
        }
    };
    findings.extend([
        cpu_class(facts),
        shadow_stack(facts),
        fs_base(facts),
        region(facts),
        guards(facts),
        user_faults(facts),
        write_tracking(facts),
        udp_buffers(facts),
        udp_batches(facts),
        open_files(facts),
        memory(facts),
        cores(facts),
    ]);
    findings
}

fn this_image(image: &Image) -> Finding {
    let Some(refusal) = image.refusal() else {
        let note = match std::env::var_os("RUSTFLAGS") {
            Some(_) => {
                "; but RUSTFLAGS is set in this shell, and what is built here will not be: unset RUSTFLAGS"
            }
            None => "",
        };
        let id = hex(&image.build_hash);
        return ok("image", format!("this program is static at a fixed address, build {id}{note}"));
    };
    let (text, lines) = refusal.split_once('\n').unwrap_or((&refusal, ""));
    Finding {
        name: "image",
        verdict: Verdict::WillNotWork,
        text: text.to_owned(),
        lines: lines.trim().to_owned(),
    }
}

fn program_image(path: &Path, program: &Program) -> Finding {
    let id = program.build_id.as_deref().unwrap_or("without an id");
    let found = match (&program.interpreter, program.fixed) {
        (None, true) => {
            let text = format!("{} is static at a fixed address, build {id}", path.display());
            return ok("image", text);
        }
        (None, false) => "static, but position-independent".to_owned(),
        (Some(loader), true) => format!("dynamic (it asks for {loader})"),
        (Some(loader), false) => format!("dynamic and position-independent (it asks for {loader})"),
    };
    Finding {
        name: "image",
        verdict: Verdict::WillNotWork,
        text: format!(
            "{} is linked {found}, so its code lies elsewhere on every node and no task can move; \
             build it with these lines in its .cargo/config.toml, and without RUSTFLAGS",
            path.display()
        ),
        lines: CONFIG_LINES.to_owned(),
    }
}

fn program_entries(program: &Program) -> Finding {
    let text = match entry_count(program) {
        Some(1) => "1 #[migratable] function".to_owned(),
        Some(count) => format!("{count} #[migratable] functions"),
        None => "no table of #[migratable] functions is named in the file: it has none, or it is \
                 stripped; mark the functions that tasks start in"
            .to_owned(),
    };
    ok("entries", text)
}

pub(super) fn entry_count(program: &Program) -> Option<u64> {
    program.entries_len.map(|len| len / size_of::<migrt::__private::Entry>() as u64)
}

/// One number for all that the hello of two nodes compares of a CPU: for people to compare.
fn cpu_class(facts: &Facts) -> Finding {
    let cpu = facts.cpu;
    let words = [cpu.xcr0, cpu.xsave_layout].into_iter().chain(cpu.features);
    let class = words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(31)
    });
    ok(
        "cpu-class",
        format!(
            "{class:016x} ({}): equal on all nodes of a cluster, or they refuse each other",
            cpu.model
        ),
    )
}

fn shadow_stack(facts: &Facts) -> Finding {
    if !facts.cpu.cet {
        return ok("shadow-stack", "off, as it has to be");
    }
    Finding::new(
        "shadow-stack",
        Verdict::WillNotWork,
        "on, and does not move along with a task; start with \
         GLIBC_TUNABLES=glibc.cpu.x86_shstk=off in the environment",
    )
}

fn fs_base(facts: &Facts) -> Finding {
    if facts.cpu.fsgsbase {
        return ok("fsgsbase", "a program may set FS base: a switch of tasks needs no system call");
    }
    Finding::new(
        "fsgsbase",
        Verdict::Slow,
        "each switch of a mobile task costs two system calls; use Linux 5.9 or later without \
         `nofsgsbase` on its command line, on a CPU (or virtual CPU model) with FSGSBASE",
    )
}

fn region(facts: &Facts) -> Finding {
    let name = "region";
    let Err(error) = Region::reserve() else {
        let text =
            format!("{} TiB of addresses at {REGION_BASE:#x} can be reserved", REGION_LEN >> 40);
        return ok(name, text);
    };
    let limit = facts.limits.address_space_len.filter(|len| *len < 2 * REGION_LEN as u64);
    let remedy = match (limit, facts.limits.overcommit) {
        (Some(len), _) => {
            format!(
                "`ulimit -v` leaves {} GiB: run `ulimit -v unlimited` (as root: -Hv too)",
                len >> 30
            )
        }
        (None, Some(Overcommit::Never)) => "as root: sysctl -w vm.overcommit_memory=0".to_owned(),
        _ => "run without what limits or takes these addresses".to_owned(),
    };
    Finding::new(name, Verdict::WillNotWork, format!("{error}; {remedy}"))
}

fn guards(facts: &Facts) -> Finding {
    let name = "guard-pages";
    match guard::method() {
        GuardMethod::Madvise => ok(name, "a stack's guard costs no mapping (MADV_GUARD_INSTALL)"),
        GuardMethod::Mprotect => {
            let most = facts.limits.map_count_max.unwrap_or(65_530) / 2;
            Finding::new(
                name,
                Verdict::Slow,
                format!(
                    "each stack costs two mappings, {most} tasks at most; use Linux 6.13 or later, or \
                     as root: sysctl -w vm.max_map_count=1048576"
                ),
            )
        }
    }
}

fn user_faults(facts: &Facts) -> Finding {
    let name = "userfaultfd";
    let kernel = &facts.kernel;
    let without = "stop-copy and copying ahead do without; fetching pages later needs it";
    if let (Some(reason), true) = (kernel.no_missing_pages, !is_denied(facts)) {
        let text = format!("{reason}: {without}; use a later kernel");
        return Finding::new(name, Verdict::Slow, text);
    }
    match kernel.user_faults {
        // Moves take faults as signals, which serve the program's own faults only. More than that is
        // no use to them.
        UserFaults::All | UserFaults::AllByDevice | UserFaults::OwnOnly => {
            let moves = if kernel.moves_pages() { "moved" } else { "copied" };
            ok(
                name,
                format!(
                    "pages that are fetched when they are touched can be served, and are {moves} to \
                     their place; a raw system call on a page that is missing still gets EFAULT"
                ),
            )
        }
        UserFaults::Denied(errno) => {
            let cause = std::io::Error::from_raw_os_error(errno);
            Finding::new(
                name,
                Verdict::Slow,
                format!(
                    "denied: {cause} ({without}); as root: sysctl -w vm.unprivileged_userfaultfd=1, in a \
                     container allow `userfaultfd` in its seccomp profile"
                ),
            )
        }
        _ => ok(name, "there"),
    }
}

fn is_denied(facts: &Facts) -> bool {
    matches!(facts.kernel.user_faults, UserFaults::Denied(_))
}

fn write_tracking(facts: &Facts) -> Finding {
    let name = "write-tracking";
    let text = match facts.kernel.write_tracking {
        WriteTracking::ByKernel => {
            return ok(
                name,
                "written pages are found without a fault for each (WP_ASYNC, PAGEMAP_SCAN)",
            );
        }
        WriteTracking::ByFault(reason) => format!(
            "{reason}: each first write to a page costs a signal while a task is copied ahead, and a \
             raw system call that writes there gets EFAULT; use Linux 6.7 or later and allow userfaultfd"
        ),
        WriteTracking::None(reason) => format!(
            "{reason}: no task is copied ahead, stop-copy does without; use Linux 6.7 or later and \
             allow userfaultfd"
        ),
        _ => "unknown".to_owned(),
    };
    Finding::new(name, Verdict::Slow, text)
}

fn udp_buffers(facts: &Facts) -> Finding {
    let name = "udp-buffers";
    let udp = &facts.udp;
    let (Some(receive), Some(send)) = (udp.receive_len, udp.send_len) else {
        return Finding::new(
            name,
            Verdict::WillNotWork,
            "no UDP packet reaches 127.0.0.1, and nodes talk by UDP; bring loopback up: ip link set lo up",
        );
    };
    if receive.min(send) >= BUFFER_LEN {
        let limit = [udp.receive_len_max, udp.send_len_max].into_iter().flatten().min();
        let note = match limit {
            Some(limit) if limit < BUFFER_LEN => format!(
                ", past the limit, as this user may; for others: \
                 sysctl -w net.core.rmem_max={BUFFER_LEN} net.core.wmem_max={BUFFER_LEN}"
            ),
            _ => String::new(),
        };
        return ok(name, format!("{} each way{note}", mib(BUFFER_LEN)));
    }
    let mut remedy = String::from("as root: sysctl -w");
    for (name, got) in [("rmem_max", receive), ("wmem_max", send)] {
        if got < BUFFER_LEN {
            remedy.push_str(&format!(" net.core.{name}={BUFFER_LEN}"));
        }
    }
    Finding::new(
        name,
        Verdict::Slow,
        format!(
            "{} to receive and {} to send of the {} asked for: packets get lost when much moves; {remedy}",
            mib(receive),
            mib(send),
            mib(BUFFER_LEN)
        ),
    )
}

fn udp_batches(facts: &Facts) -> Finding {
    let name = "udp-batches";
    match (facts.udp.sends_batches, facts.udp.receives_batches) {
        (true, true) => ok(name, "one call sends and receives many packets (GSO, GRO)"),
        (false, _) => Finding::new(
            name,
            Verdict::Slow,
            "one call for each packet sent (no UDP_SEGMENT); use Linux 4.18 or later, outside of a \
             sandbox that emulates the network",
        ),
        (true, false) => Finding::new(
            name,
            Verdict::Slow,
            "one call for each packet received (no UDP_GRO); use Linux 5.0 or later",
        ),
    }
}

fn open_files(facts: &Facts) -> Finding {
    const ENOUGH: u64 = 1024;
    let name = "open-files";
    match facts.limits.file_count {
        Some(count) if count < ENOUGH => Finding::new(
            name,
            Verdict::Slow,
            format!("{count} at most, sockets of the program included; run: ulimit -n {ENOUGH}"),
        ),
        Some(count) => ok(name, format!("{count} at most")),
        None => ok(name, "no limit"),
    }
}

fn memory(facts: &Facts) -> Finding {
    let limits = &facts.limits;
    let len = [limits.memory_len, limits.group_memory_len].into_iter().flatten().min();
    let group = if limits.group_memory_len.is_some_and(|group| Some(group) == len) {
        " (the limit of its control group)"
    } else {
        ""
    };
    let pages = match facts.kernel.huge_pages.as_deref() {
        Some("always") => "; huge pages are `always`, task slots opt out",
        _ => "",
    };
    let len = len.map_or("unknown".to_owned(), |len| mib(len as usize));
    ok("memory", format!("{len}{group}{pages}"))
}

fn cores(facts: &Facts) -> Finding {
    ok("cores", format!("{}, Linux {}", facts.limits.cores, facts.kernel.release))
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
        Finding { name, verdict, text: text.into(), lines: String::new() }
    }
}

fn ok(name: &'static str, text: impl Into<String>) -> Finding {
    Finding::new(name, Verdict::Ok, text)
}

fn mib(len: usize) -> String {
    if len >= 10 << 30 {
        format!("{:.1} GiB", len as f64 / (1 << 30) as f64)
    } else {
        format!("{:.1} MiB", len as f64 / (1 << 20) as f64)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Facts), name: &str, verdict: Verdict, remedy: &str) {
        let mut facts = Facts::gather();
        change(&mut facts);
        let findings = judge(&facts, &Subject::This);
        let finding = findings.iter().find(|finding| finding.name == name).unwrap();
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        let text = format!("{}\n{}", finding.text, finding.lines);
        assert!(text.contains(remedy), "{text}");
        assert!(!finding.text.contains('\n'), "{text}");
    }

    #[test]
    fn each_lack_is_judged_and_has_its_remedy() {
        check(
            |f| f.udp.receive_len = Some(212_992),
            "udp-buffers",
            Verdict::Slow,
            "sysctl -w net.core.rmem_max=8388608",
        );
        check(
            |f| f.udp.receive_len = None,
            "udp-buffers",
            Verdict::WillNotWork,
            "ip link set lo up",
        );
        check(|f| f.udp.sends_batches = false, "udp-batches", Verdict::Slow, "UDP_SEGMENT");
        check(|f| f.kernel.user_faults = UserFaults::OwnOnly, "userfaultfd", Verdict::Ok, "EFAULT");
        check(
            |f| f.kernel.no_missing_pages = Some("lacks it"),
            "userfaultfd",
            Verdict::Slow,
            "later kernel",
        );
        check(
            |f| f.kernel.user_faults = UserFaults::Denied(1),
            "userfaultfd",
            Verdict::Slow,
            "seccomp",
        );
        for tracking in [WriteTracking::ByFault("lacks it"), WriteTracking::None("lacks it")] {
            let change = |f: &mut Facts| f.kernel.write_tracking = tracking;
            check(change, "write-tracking", Verdict::Slow, "lacks it");
            check(change, "write-tracking", Verdict::Slow, "6.7");
        }
        check(|f| f.limits.file_count = Some(64), "open-files", Verdict::Slow, "ulimit -n 1024");
        check(
            |f| f.limits.group_memory_len = Some(1 << 26),
            "memory",
            Verdict::Ok,
            "64.0 MiB (the limit",
        );
    }

    #[test]
    fn a_program_that_is_not_static_and_fixed_will_not_work_and_gets_the_lines() {
        let program = |interpreter: Option<&str>, fixed| Program {
            fixed,
            interpreter: interpreter.map(str::to_owned),
            ..Program::default()
        };
        let judged = |program: &Program| program_image(Path::new("app"), program);
        assert_eq!(judged(&program(None, true)).verdict, Verdict::Ok);
        for bad in [program(None, false), program(Some("ld"), true), program(Some("ld"), false)] {
            let finding = judged(&bad);
            assert_eq!(finding.verdict, Verdict::WillNotWork);
            assert!(finding.lines.contains("crt-static"));
        }
    }
}
