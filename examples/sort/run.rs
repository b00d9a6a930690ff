//! A run: one part of the input, sorted in memory and written where it came from, in the file of
//! runs, with the places where each bucket's piece begins.
//!
//! What is sorted are [`Item`]s of 16 bytes; the records themselves are copied once, in order. Every
//! comparison calls `poll`, so that a task can be moved in the middle.

use crate::format::{Format, Item};
use crate::input::Part;
use crate::splitters::Splitter;

/// Finds the items of a part, in its order.
pub fn items(format: Format, part: &Part, poll: impl Fn()) -> Vec<Item> {
    let guess = match format {
        Format::Records { len, .. } => part.data.len() / len as usize,
        Format::Lines => part.data.len() / 32,
    };
    let mut items = Vec::with_capacity(guess);
    let mut at = 0;
    while let Some(item) = format.item_at(&part.data, at) {
        poll();
        at = item.end(format);
        items.push(item);
    }
    items
}

/// Sorts the items; those with equal keys keep the order of the input.
pub fn sort(format: Format, part: &Part, items: &mut [Item], poll: impl Fn()) {
    items.sort_unstable_by(|a, b| {
        poll();
        format.compare(&part.data, a, b).then_with(|| a.start().cmp(&b.start()))
    });
}

/// Hands the sorted items to `put`, and tells where each bucket's piece begins in the file of runs
/// and where the last one ends: one more than buckets.
///
/// # Errors
/// Those of `put`.
pub fn write(
    format: Format,
    part: &Part,
    items: &[Item],
    splitters: &[Splitter],
    mut put: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Vec<u64>, String> {
    let mut cuts = Vec::with_capacity(splitters.len() + 2);
    cuts.push(part.base);
    let mut at = part.base;
    let mut waiting = splitters.iter().peekable();
    for item in items {
        while let Some(next) = waiting.peek() {
            if next.is_after(format, &part.data, part.base, item) {
                break;
            }
            cuts.push(at);
            waiting.next();
        }
        let bytes = item.stored(format, &part.data);
        put(bytes)?;
        at += bytes.len() as u64;
    }
    cuts.extend(waiting.map(|_| at));
    cuts.push(at);
    Ok(cuts)
}
