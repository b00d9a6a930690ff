//! Imports point down: builder, node, launch, cluster, migrate | dsm, exec, task | net, the ground
//! floor; below them the crates iso and proto.
//!
//! Read from the `crate::…` and `super::super::…` paths of `runtime/src`. A call that has to travel
//! up goes through a door, or is one of the [`WAYS_UP`], each with its reason; a way that nobody
//! takes any more is a finding too, so the table says what is. `lib.rs` stands outside: it declares
//! the modules and gives out their names. Tests stand outside too. Absent: names that `lib.rs` gives
//! out (`crate::JoinHandle`) are not followed to their modules.

use crate::{Finding, Source};

/// The modules of `runtime/src`, from the top floor down. Modules of one floor do not import each
/// other, except on the last.
const FLOORS: &[&[&str]] = &[
    &["builder"],
    &["node"],
    &["launch"],
    &["cluster"],
    &["migrate", "dsm"],
    &["exec", "overflow"],
    &["task", "net"],
    // The ground floor: words and tools that all share.
    &[
        "census", "clock", "config", "entry", "error", "fail", "fence", "machine", "symbols",
        "strategy", "sync", "thread", "trace", "warm",
    ],
];

/// What may be named from any floor: the node of this process, from which each room fetches its own
/// part, and the named doors.
const DOORS: &[&str] = &[
    "node::node",
    "node::is_running",
    "cluster::cluster",
    "exec::door",
    "net::router",
    "iso::fault",
    "iso::pool",
];

/// Single ways up: who goes, where to, and why.
const WAYS_UP: &[(&str, &str, &str)] = &[
    ("migrate", "cluster::Cluster", "what a step of a move tells the protocols, and sends by them"),
    ("task", "cluster::ask", "handles ask where a task is, whose home may be any node"),
    ("task", "cluster::home", "a task that has ended is told of to its home"),
    ("task", "migrate::depart", "a task that suspended in order to leave is handed over"),
    ("task", "migrate::lacking", "a task may lack pages, and gives slots up while it does"),
    ("task", "migrate::serve", "a journey knows who serves the pages that stayed behind"),
    ("task", "migrate::end_rounds", "a task that ends is copied no more"),
    ("exec", "migrate::fault", "the ticker asks for pages of stacks"),
    ("overflow", "migrate::fault", "a stack whose pages are on their way is no overflow"),
    ("task", "migrate::chaos", "chaos mode orders a move at each suspension"),
    ("task", "migrate::copying", "a task's record knows of the rounds that its pages go in"),
    ("task", "migrate::end_rounds", "a task that ends has no more rounds"),
    ("task", "migrate::have", "a journey knows what its target has kept"),
    ("task", "migrate::known", "a task's record knows what its pages hash to"),
    ("task", "migrate::remains", "a task that ended while memory of it lives on leaves remains"),
    ("task", "migrate::audit", "a value that is to be a parcel is looked through"),
    ("entry", "task::parcel", "arguments and results may have parcels in them"),
    ("task", "exec::worker", "a task runs with its worker's warm stacks, slots and records"),
];

/// Checks one file of any crate.
pub fn check(file: &Source) -> Vec<Finding> {
    if let Some(rest) = file.path.strip_prefix("runtime/src/") {
        check_runtime(file, rest)
    } else if file.path.starts_with("runtime/iso/") || file.path.starts_with("runtime/proto/") {
        check_base(file)
    } else {
        Vec::new()
    }
}

/// `iso` and `proto` know neither migrt nor each other.
fn check_base(file: &Source) -> Vec<Finding> {
    let own = if file.path.starts_with("runtime/iso/") { "migrt_iso" } else { "migrt_proto" };
    let is_manifest = file.path.ends_with("Cargo.toml");
    let mut findings = Vec::new();
    for (index, line) in file.code.lines().enumerate() {
        let names_other = if is_manifest {
            line.starts_with("migrt")
        } else {
            file.is_rust()
                && words(line).any(|word| {
                    ["migrt", "migrt_iso", "migrt_proto", "migrt_macros"].contains(&word)
                        && word != own
                })
        };
        if names_other {
            findings.push(Finding::at(
                file,
                index,
                "this crate lies below migrt and beside its sister: it imports neither",
            ));
        }
    }
    findings
}

fn check_runtime(file: &Source, path: &str) -> Vec<Finding> {
    let module = module_of(path);
    let home = module[0];
    if home == "lib" {
        return Vec::new();
    }
    let Some(floor) = floor_of(home) else {
        return vec![Finding::at(
            file,
            0,
            format!("module `{home}` has no floor: give it one in tests/tidy/src/layers.rs"),
        )];
    };
    let tests = if file.is_tests() { 0 } else { file.tests_start() };
    let mut findings = Vec::new();
    for (index, [first, second]) in paths(file, module.len()) {
        let name = format!("{first}::{second}");
        let is_open = DOORS.contains(&name.as_str())
            || WAYS_UP.iter().any(|(from, to, _)| *from == home && *to == name);
        if index >= tests || first == home || is_open {
            continue;
        }
        let allowed = match floor_of(&first) {
            None => true, // Not a module but something that `lib.rs` gives out.
            Some(other) => other > floor || (other == floor && floor == FLOORS.len() - 1),
        };
        if !allowed {
            let text = format!(
                "`{home}` imports `crate::{name}`, which is not below it: move the code, or go through a door ({})",
                DOORS.join(", ")
            );
            findings.push(Finding::at(file, index, text));
        }
    }
    findings
}

/// The ways up that no file takes.
pub fn unused_ways(files: &[Source]) -> Vec<String> {
    let mut unused: Vec<_> = WAYS_UP.iter().collect();
    for file in files {
        let Some(path) = file.path.strip_prefix("runtime/src/") else { continue };
        let module = module_of(path);
        unused.retain(|(from, to, _)| {
            *from != module[0]
                || !paths(file, module.len()).iter().any(|(_, [a, b])| *to == format!("{a}::{b}"))
        });
    }
    unused.iter().map(|(from, to, why)| format!("{from} -> {to} ({why})")).collect()
}

/// The module path of a file below `runtime/src`.
fn module_of(path: &str) -> Vec<&str> {
    path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The first two names of each path from the crate's root, with its line; the second is empty where
/// there is none.
fn paths(file: &Source, depth: usize) -> Vec<(usize, [String; 2])> {
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (offset, _) in file.code.match_indices(prefix) {
            let before = file.code[..offset].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$' && c != ':') {
                let line = file.line_of(offset);
                found.extend(
                    heads(&file.code[offset + prefix.len()..]).into_iter().map(|head| (line, head)),
                );
            }
        }
    }
    found
}

/// The heads of a path's rest: `a::b`, `{a::b, c}`, `a::{b, c::d}`.
fn heads(rest: &str) -> Vec<[String; 2]> {
    let mut heads = Vec::new();
    for first in branches(rest) {
        let name = name_of(first);
        match first[name.len()..].strip_prefix("::") {
            Some(tail) => heads.extend(
                branches(tail)
                    .into_iter()
                    .map(|second| [name.to_string(), name_of(second).to_string()]),
            ),
            None => heads.push([name.to_string(), String::new()]),
        }
    }
    heads
}

/// The alternatives at the head of a path: the parts of a `{…}` group, or the text itself.
fn branches(rest: &str) -> Vec<&str> {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest];
    };
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str, lines: &[usize]) {
        let found: Vec<usize> =
            check(&Source::new(path, text)).iter().map(|finding| finding.line).collect();
        assert_eq!(found, lines, "{path}: {text}");
    }

    #[test]
    fn imports_may_point_down() {
        check_text(
            "runtime/src/node/mod.rs",
            "use crate::exec::run;\nuse crate::{cluster::load, migrate};",
            &[],
        );
        check_text(
            "runtime/src/exec/worker.rs",
            "use crate::task::state;\nuse crate::error::Error;\nuse crate::JoinHandle;",
            &[],
        );
        check_text("runtime/src/error.rs", "use crate::config::Config;", &[]);
        check_text(
            "runtime/src/exec/worker.rs",
            "use crate::exec::idle;\nuse super::super::task;",
            &[],
        );
    }

    #[test]
    fn imports_that_point_up_are_found_however_they_are_written() {
        check_text("runtime/src/task/stack.rs", "use crate::exec::queue;", &[1]);
        check_text("runtime/src/task/stack.rs", "\nuse crate::{error::Error, node::Node};", &[2]);
        check_text("runtime/src/task/stack.rs", "fn f() { crate::cluster::load::now() }", &[1]);
        check_text("runtime/src/task/stack.rs", "use super::super::exec::run;", &[1]);
        check_text("runtime/src/error.rs", "use super::exec::run;", &[1]);
        check_text("runtime/src/error.rs", "use crate::task::id;", &[1]);
    }

    #[test]
    fn rooms_of_one_floor_do_not_see_each_other() {
        check_text("runtime/src/task/stack.rs", "use crate::net::wire;", &[1]);
        check_text("runtime/src/dsm/mod.rs", "use crate::migrate::ship;", &[1]);
    }

    #[test]
    fn doors_are_open_and_what_lies_beside_them_is_not() {
        check_text(
            "runtime/src/task/join.rs",
            "use crate::exec::door;\nuse crate::net::router::send;",
            &[],
        );
        check_text("runtime/src/task/join.rs", "use crate::exec::{door, queue};", &[1]);
    }

    #[test]
    fn a_single_way_up_is_open_to_its_room_only() {
        check_text("runtime/src/task/handle.rs", "use crate::cluster::ask;", &[]);
        check_text("runtime/src/net/link.rs", "use crate::cluster::ask;", &[1]);
        check_text("runtime/src/exec/idle.rs", "use crate::cluster::ask;", &[1]);
    }

    #[test]
    fn a_way_up_that_nobody_takes_is_found() {
        let taken = Source::new("runtime/src/task/handle.rs", "use crate::cluster::{ask, link};");
        let unused = unused_ways(&[taken]);
        assert_eq!(unused.len(), WAYS_UP.len() - 1);
        assert!(!unused.iter().any(|way| way.contains("cluster::ask")), "{unused:?}");
    }

    #[test]
    fn text_and_tests_do_not_count() {
        check_text(
            "runtime/src/task/stack.rs",
            "// crate::exec::worker\nlet a = \"crate::exec::run\";",
            &[],
        );
        check_text(
            "runtime/src/task/stack.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::exec::run;\n}",
            &[],
        );
    }

    #[test]
    fn a_new_module_needs_a_floor() {
        check_text("runtime/src/attic.rs", "", &[1]);
    }

    #[test]
    fn the_base_crates_know_nothing_above_or_beside_them() {
        check_text("runtime/iso/src/lib.rs", "use migrt_proto::id;", &[1]);
        check_text("runtime/proto/src/lib.rs", "use migrt_proto::id;", &[]);
        check_text("runtime/proto/tests/a.rs", "// migrt\nuse migrt::spawn;", &[2]);
        check_text("runtime/proto/Cargo.toml", "[dependencies]\nmigrt-iso.workspace = true", &[2]);
        check_text("runtime/proto/Cargo.toml", "name = \"migrt-proto\"", &[]);
    }
}
