//! `migrt doctor` as a user sees it. What it finds depends on the machine; that each line is whole,
//! and that the exit code follows from the lines, does not.

use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> (Output, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_migrt")).arg("doctor").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

/// The verdict of each finding, by its name.
fn findings(text: &str) -> Vec<(String, String)> {
    let verdicts = ["ok", "slow", "will not work"];
    let lines = text.lines().filter(|line| !line.starts_with(' '));
    let split = |line: &str| {
        let verdict = verdicts.iter().find(|verdict| line.starts_with(*verdict));
        let verdict = verdict.unwrap_or_else(|| panic!("no verdict: {line}"));
        let (name, rest) = line[verdict.len()..].trim_start().split_once(' ').unwrap();
        assert!(!rest.trim().is_empty(), "no text: {line}");
        (name.to_owned(), (*verdict).to_owned())
    };
    lines.map(split).collect()
}

#[test]
fn each_line_is_a_finding_and_the_exit_code_follows() {
    let (output, text) = doctor(&[]);
    let findings = findings(&text);
    for name in [
        "image",
        "cpu-class",
        "fsgsbase",
        "region",
        "guard-pages",
        "userfaultfd",
        "udp-buffers",
        "udp-batches",
    ] {
        assert_eq!(findings.iter().filter(|(found, _)| found == name).count(), 1, "{name}: {text}");
    }
    let hopeless = findings.iter().any(|(_, verdict)| verdict == "will not work");
    assert_eq!(output.status.code(), Some(i32::from(hopeless)), "{text}");
    // The workspace's flags make this very program a good one.
    assert!(findings.contains(&("image".into(), "ok".into())), "{text}");
}

#[test]
fn plain_lines_are_a_name_and_a_value() {
    let (_, text) = doctor(&["--plain"]);
    let mut names = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        assert!(name.contains('.') && !value.trim().is_empty(), "{line}");
        names.push(name);
    }
    for name in ["image.static", "image.build_id", "cpu.xcr0", "udp.receive_len", "check.image"] {
        assert!(names.contains(&name), "{name}: {text}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name comes twice: {text}");
}

#[test]
fn two_looks_see_the_same_build_and_cpu() {
    let stable = || {
        let (_, text) = doctor(&["--plain"]);
        let keep = |line: &&str| line.starts_with("image.") || line.starts_with("cpu.");
        text.lines().filter(keep).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(stable(), stable());
}

#[test]
fn a_dynamic_program_will_not_work_and_gets_the_lines_to_add() {
    let (output, text) = doctor(&["/bin/sh"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(findings(&text).contains(&("image".into(), "will not work".into())), "{text}");
    assert!(text.contains("relocation-model=static"), "{text}");
}

#[test]
fn a_static_program_at_a_fixed_address_is_fine() {
    let (_, text) = doctor(&[env!("CARGO_BIN_EXE_migrt")]);
    assert!(findings(&text).contains(&("image".into(), "ok".into())), "{text}");
}

#[test]
fn what_is_no_program_is_refused_by_name() {
    for (path, why) in [("./no-such-file", "No such file"), ("Cargo.toml", "not a Linux program")] {
        let (output, text) = doctor(&[path]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text.is_empty() && error.contains(path) && error.contains(why), "{error}");
    }
}
