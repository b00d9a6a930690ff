//! A test of all parts together, without a runtime: the tasks' steps one after the other.

use std::fs::{self, File};
use std::process::Command;

use crate::digest::Digest;
use crate::format::Format;
use crate::merge::Merge;
use crate::output::{PartWriter, TempFolder};
use crate::path::SharedPath;
use crate::plan::{Plan, cut};
use crate::{check, files, input, records, run, splitters};

/// Sorts a file, checks it with the program's own check, and gives the sorted bytes.
fn sort(name: &str, content: &[u8], format: Format, run_len: u64) -> Vec<u8> {
    let folder = TempFolder::create_named(name).unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("in"), content).unwrap();
    fs::write(path("runs"), b"").unwrap();
    fs::write(path("out"), b"").unwrap();
    let whole = files::inspect_input(&path("in"), format).unwrap();
    let plan = Plan::new(whole.len, format, 1, Some(run_len));
    let file = File::open(path("in")).unwrap();
    let places = splitters::choose(&file, format, whole.len, plan.bucket_count, 1).unwrap();
    let shared = |name: &str| SharedPath::new(&path(name));
    let mut digest = Digest::default();
    let mut runs = Vec::new();
    for &range in &plan.ranges {
        let part = input::read(&shared("in"), format, whole.len, range).unwrap();
        digest.join(&check::check(format, &part, || ()).digest);
        let mut items = run::items(format, &part, || ());
        run::sort(format, &part, &mut items, || ());
        let mut writer = PartWriter::new(shared("runs"), part.base);
        let put = |bytes: &[u8]| writer.put(bytes).map(drop);
        runs.push(run::write(format, &part, &items, &places, put).unwrap());
        writer.finish().unwrap();
    }
    let mut at = 0;
    for bucket in 0..=places.len() {
        let pieces: Vec<_> = runs.iter().map(|cuts| (cuts[bucket], cuts[bucket + 1])).collect();
        let (data, borders) = input::read_pieces(&shared("runs"), &pieces).unwrap();
        let mut writer = PartWriter::new(shared("out"), at);
        let mut merge = Merge::new(format, &data, &borders);
        while let Some(bytes) = merge.next() {
            writer.put(bytes).unwrap();
        }
        at = writer.finish().unwrap();
    }
    assert_eq!(at, whole.sorted_len);
    let parts: Vec<_> = cut(at, format, 1000)
        .into_iter()
        .map(|range| input::read(&shared("out"), format, at, range).unwrap())
        .map(|part| check::check(format, &part, || ()))
        .collect();
    check::conclude(&parts, &digest).unwrap();
    fs::read(path("out")).unwrap()
}

/// What `LC_ALL=C sort` makes of it.
fn coreutils(name: &str, content: &[u8]) -> Vec<u8> {
    let folder = TempFolder::create_named(name).unwrap();
    let path = folder.path().join("in");
    fs::write(&path, content).unwrap();
    let sort = Command::new("sort").arg(&path).env("LC_ALL", "C").output().unwrap();
    assert!(sort.status.success());
    sort.stdout
}

fn check_lines(content: &[u8]) {
    let expected = coreutils("expected", content);
    for run_len in [1, 7, 100, 1 << 20] {
        if content.len() as u64 / run_len > 300 {
            continue;
        }
        let found = sort("lines", content, Format::Lines, run_len);
        assert!(found == expected, "{:?}", String::from_utf8_lossy(content));
    }
}

#[test]
fn lines_come_out_as_from_coreutils() {
    for text in ["", "\n", "a", "b\na", "b\na\n", "\n\nz\n\na", "ab\nab\0\nab\x01\na\n", "é\nz\nZ\n"] {
        check_lines(text.as_bytes());
    }
    let mut random = records::Random::new(3);
    let mut text = Vec::new();
    for _ in 0..3000 {
        for _ in 0..random.below(12) {
            text.push(b"abAB \t\0\x01\xffz"[random.below(10) as usize]);
        }
        text.push(b'\n');
    }
    check_lines(&text);
    text.pop();
    check_lines(&text);
    check_lines(&b"same line\n".repeat(2000));
    check_lines(&[b"short\n".repeat(50), b"x".repeat(100_000), b"\nmore\n".repeat(50)].concat());
}

fn check_records(name: &str, content: &[u8], len: usize, key: usize) {
    let mut expected: Vec<_> = content.chunks(len).collect();
    expected.sort_by_key(|record| &record[..key]);
    let expected = expected.concat();
    let format = Format::Records { len: len as u32, key: key as u32 };
    for run_len in [1000, 30_000, 1 << 20] {
        assert!(sort(name, content, format, run_len) == expected, "{name}, runs of {run_len}");
    }
}

#[test]
fn records_come_out_in_order_and_equal_keys_in_the_order_of_the_input() {
    for (len, key) in [(100, 10), (10, 10), (8, 8), (3, 1), (17, 9)] {
        let mut content = Vec::new();
        records::make(5, 0, 2000, len, key, &mut content);
        check_records("records", &content, len, key);
        for record in content.chunks_mut(len) {
            let bit = record[0] & 1;
            record[..key].fill(bit);
        }
        check_records("two-keys", &content, len, key);
        content.chunks_mut(len).for_each(|record| record[..key].fill(9));
        check_records("one-key", &content, len, key);
    }
    check_records("none", b"", 100, 10);
}

#[test]
fn one_key_alone_falls_into_even_buckets() {
    let folder = TempFolder::create_named("even").unwrap();
    let path = folder.path().join("in");
    fs::write(&path, b"same line\n".repeat(10_000)).unwrap();
    let file = File::open(&path).unwrap();
    let places = splitters::choose(&file, Format::Lines, 100_000, 10, 1).unwrap();
    assert_eq!(places.len(), 9);
    let part = input::read(&SharedPath::new(&path), Format::Lines, 100_000, (0, 100_000)).unwrap();
    let mut items = run::items(Format::Lines, &part, || ());
    run::sort(Format::Lines, &part, &mut items, || ());
    let cuts = run::write(Format::Lines, &part, &items, &places, |_| Ok(())).unwrap();
    let longest = cuts.windows(2).map(|cut| cut[1] - cut[0]).max().unwrap();
    assert!(longest < 20_000, "{cuts:?}");
}
