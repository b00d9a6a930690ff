//! The checks over the repository itself. A failure lists every place.

use migrt_test_tidy::{Finding, Source, Tree, docs, layers, shape, unsafe_notes, words};

fn check<'a>(files: impl Iterator<Item = &'a Source>, rule: impl Fn(&Source) -> Vec<Finding>) {
    let findings: Vec<String> = files.flat_map(rule).map(|finding| finding.to_string()).collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn imports_point_down() {
    check(Tree::read().files.iter(), layers::check);
}

#[test]
fn the_table_of_ways_up_says_what_is() {
    let unused = layers::unused_ways(&Tree::read().files);
    assert!(unused.is_empty(), "take off the table in tests/tidy/src/layers.rs: {unused:#?}");
}

#[test]
fn every_unsafe_has_its_note() {
    check(Tree::read().rust(), unsafe_notes::check);
}

#[test]
fn every_file_says_first_what_it_is() {
    check(Tree::read().rust(), shape::check_head);
}

#[test]
fn every_file_is_short() {
    check(Tree::read().rust(), shape::check_length);
}

#[test]
fn lints_are_lifted_with_reasons() {
    check(Tree::read().rust(), shape::check_reasons);
}

#[test]
fn no_word_is_out_of_place() {
    check(Tree::read().files.iter(), words::check);
}

#[test]
fn files_named_in_the_docs_exist() {
    let tree = Tree::read();
    let all: Vec<String> = tree.files.iter().map(|file| file.path.clone()).collect();
    let named = |file: &&Source| file.path.ends_with(".md") && file.path != "CHANGELOG.md";
    check(tree.files.iter().filter(named), |file| docs::check_paths(file, &all));
}

#[test]
fn cited_invariants_are_numbered() {
    let tree = Tree::read();
    let text =
        tree.files.iter().find(|file| file.path == docs::INVARIANTS).map_or("", |file| &file.text);
    let defined = docs::defined_invariants(text);
    // The check's own examples cite what does not exist.
    let cites = |file: &&Source| {
        (file.is_rust() || file.path.starts_with("docs/")) && file.path != "tests/tidy/src/docs.rs"
    };
    check(tree.files.iter().filter(cites), |file| docs::check_invariants(file, &defined));
}
