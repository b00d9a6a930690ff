//! A test of all parts together, without a runtime: the tasks' steps one after the other.

use std::fs::{self, File};
use std::process::Command;

use crate::bucket::{self, Sieve};
use crate::check::{self, Checked};
use crate::digest::Digest;
use crate::format::Format;
use crate::input::{self, Part};
use crate::output::{PartWriter, TempFolder};
use crate::path::SharedPath;
use crate::plan::{Plan, cut};
use crate::{files, records, splitters};

/// Sorts a file, checks it with the program's own check, and gives the sorted bytes.
fn sort(name: &str, content: &[u8], format: Format, bucket_len: u64) -> Vec<u8> {
    let folder = TempFolder::create_named(name).unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, content) in [("in", content), ("parts", b""), ("out", b"")] {
        fs::write(path(name), content).unwrap();
    }
    let whole = files::inspect_input(&path("in"), format).unwrap();
    let plan = Plan::new(whole.len, format, 1, Some(bucket_len));
    let file = File::open(path("in")).unwrap();
    let splitters = splitters::choose(&file, format, whole.len, plan.bucket_count, 1).unwrap();
    let shared = |name: &str| SharedPath::new(&path(name));
    let (mut part, mut items, mut sieved) = (Part::default(), Vec::new(), Vec::new());
    let mut sieve = Sieve::new(format, splitters.clone());
    let mut writer = PartWriter::new(shared("parts"));
    let mut cuts = Vec::new();
    for &range in &plan.parts {
        input::read(&shared("in"), format, whole.len, range, &mut part).unwrap();
        bucket::items(format, &part.data, &mut items, || ());
        let lens = sieve.sieve(&part.data, part.base, &items, &mut sieved, || ());
        cuts.push(bucket::cuts(part.base, &lens));
        writer.seek(part.base).unwrap();
        for item in &sieved {
            writer.put(&part.data[item.range(format)]).unwrap();
        }
    }
    writer.flush().unwrap();
    let mut writer = PartWriter::new(shared("out"));
    let mut data = Vec::new();
    for bucket in 0..=splitters.len() {
        let pieces: Vec<_> = cuts.iter().map(|cuts| (cuts[bucket], cuts[bucket + 1])).collect();
        input::read_pieces(&shared("parts"), &pieces, &mut data).unwrap();
        bucket::items(format, &data, &mut items, || ());
        bucket::sort(format, &data, &mut items, || ());
        for item in &items {
            writer.put(&data[item.range(format)]).unwrap();
        }
    }
    writer.flush().unwrap();
    let sorted = fs::read(path("out")).unwrap();
    assert_eq!(sorted.len() as u64, whole.sorted_len);
    let mut check = |name: &str, len: u64| -> Vec<Checked> {
        let parts = cut(len, format, 1000).into_iter().map(|range| {
            input::read(&shared(name), format, len, range, &mut part).unwrap();
            check::check(format, &part, || ())
        });
        parts.collect()
    };
    let mut expected = Digest::default();
    check("in", whole.len).iter().for_each(|part| expected.join(&part.digest));
    check::conclude(&check("out", whole.sorted_len), &expected).unwrap();
    sorted
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
    for bucket_len in [1, 7, 100, 1 << 20] {
        if content.len() as u64 / bucket_len > 300 {
            continue;
        }
        let found = sort("lines", content, Format::Lines, bucket_len);
        assert!(found == expected, "{:?}", String::from_utf8_lossy(content));
    }
}

#[test]
fn lines_come_out_as_from_coreutils() {
    for text in
        ["", "\n", "a", "b\na", "b\na\n", "\n\nz\n\na", "ab\nab\0\nab\x01\na\n", "é\nz\nZ\n"]
    {
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
    let format = Format::Records { len: len as u32, key: key as u64 };
    for bucket_len in [1000, 30_000, 1 << 20] {
        assert!(
            sort(name, content, format, bucket_len) == expected,
            "{name}, buckets of {bucket_len}"
        );
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
    let splitters = splitters::choose(&file, Format::Lines, 100_000, 10, 1).unwrap();
    assert_eq!(splitters.len(), 9);
    let data = fs::read(&path).unwrap();
    let (mut items, mut sieved) = (Vec::new(), Vec::new());
    bucket::items(Format::Lines, &data, &mut items, || ());
    let lens = Sieve::new(Format::Lines, splitters).sieve(&data, 0, &items, &mut sieved, || ());
    assert_eq!(lens.iter().sum::<u32>(), 100_000);
    assert!(lens.iter().all(|&len| len < 25_000), "{lens:?}");
}
