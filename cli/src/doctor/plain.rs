//! The facts themselves, one name and one value each, for scripts. What they mean is `findings`'.

use std::fmt::Display;

use migrt::machine::Facts;

use super::findings::{Subject, entry_count, hex};

/// All facts. What is not known, or has no limit, is `none`.
pub(super) fn facts(facts: &Facts, subject: &Subject<'_>) -> Vec<(&'static str, String)> {
    let Facts { image, cpu, kernel, udp, limits, .. } = facts;
    let words: Vec<String> = cpu.features.iter().map(|word| format!("{word:016x}")).collect();
    let mut facts = match subject {
        Subject::This => vec![
            ("image.static", text(image.static_linked)),
            ("image.fixed", text(!image.position_independent)),
            ("image.build_id", hex(&image.build_hash)),
            ("image.read_only_len", text(image.read_only_len)),
        ],
        Subject::Program(path, program) => vec![
            ("program.path", text(path.display())),
            ("program.static", text(program.interpreter.is_none())),
            ("program.fixed", text(program.fixed)),
            ("program.interpreter", maybe(program.interpreter.as_ref())),
            ("program.build_id_note", maybe(program.build_id.as_ref())),
            ("program.entries", maybe(entry_count(program))),
        ],
    };
    facts.extend([
        ("cpu.model", cpu.model.clone()),
        ("cpu.features", words.join(" ")),
        ("cpu.xcr0", format!("{:#x}", cpu.xcr0)),
        ("cpu.xsave_layout", format!("{:016x}", cpu.xsave_layout)),
        ("cpu.xsave_len", text(cpu.xsave_len)),
        ("cpu.ifunc_targets", format!("{:016x}", image.ifunc_targets)),
        ("cpu.ifunc_count", text(image.ifunc_count)),
        ("cpu.shadow_stack", text(cpu.cet)),
        ("cpu.fsgsbase", text(cpu.fsgsbase)),
        ("cpu.page_len", text(cpu.page_len)),
        ("cpu.cores", text(limits.cores)),
        ("kernel.release", kernel.release.clone()),
        ("kernel.userfaultfd", format!("{:?}", kernel.user_faults)),
        ("kernel.userfaultfd_features", format!("{:#x}", kernel.userfault_features)),
        ("kernel.unprivileged_userfaultfd", maybe(kernel.unprivileged_userfaultfd)),
        ("kernel.write_tracking", format!("{:?}", kernel.write_tracking)),
        ("kernel.missing_pages", text(kernel.no_missing_pages.is_none())),
        ("kernel.pagemap_scan", text(kernel.pagemap_scan)),
        ("kernel.guard_install", text(kernel.guard_install)),
        ("kernel.signal_stack_len", text(kernel.signal_stack_len)),
        ("kernel.huge_pages", maybe(kernel.huge_pages.as_ref())),
        ("udp.receive_len", maybe(udp.receive_len)),
        ("udp.send_len", maybe(udp.send_len)),
        ("udp.rmem_max", maybe(udp.receive_len_max)),
        ("udp.wmem_max", maybe(udp.send_len_max)),
        ("udp.sends_batches", text(udp.sends_batches)),
        ("udp.receives_batches", text(udp.receives_batches)),
        ("limits.overcommit", maybe(limits.overcommit.map(|mode| format!("{mode:?}")))),
        ("limits.map_count_max", maybe(limits.map_count_max)),
        ("limits.address_space_len", maybe(limits.address_space_len)),
        ("limits.file_count", maybe(limits.file_count)),
        ("limits.file_count_max", maybe(limits.file_count_max)),
        ("limits.memory_len", maybe(limits.memory_len)),
        ("limits.group_memory_len", maybe(limits.group_memory_len)),
    ]);
    facts
}

fn text(value: impl Display) -> String {
    value.to_string()
}

fn maybe<T: Display>(value: Option<T>) -> String {
    value.map_or("none".to_owned(), text)
}
