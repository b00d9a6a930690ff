//! Whether a file is sorted and holds what it should: part by part, then the parts' borders.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::format::Format;
use crate::input::Part;

/// What a part of the output turned out to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Keys of the first and the last item, if there is one.
    pub ends: Option<(Vec<u8>, Vec<u8>)>,
    /// The items.
    pub digest: Digest,
    /// Offset of the first item that is smaller than the one before it.
    pub out_of_order: Option<u64>,
}

/// Looks at each item of a part.
pub fn check(format: Format, part: &Part, poll: impl Fn()) -> Checked {
    let mut checked = Checked::default();
    let mut last = None;
    let mut first = None;
    let mut at = 0;
    while let Some(item) = format.item_at(&part.data, at) {
        poll();
        checked.digest.add(item.bytes(&part.data));
        if let Some(last) = &last
            && format.compare(&part.data, last, &item).is_gt()
            && checked.out_of_order.is_none()
        {
            checked.out_of_order = Some(part.base + item.start() as u64);
        }
        first.get_or_insert(item);
        last = Some(item);
        at = item.end(format);
    }
    let key = |item: crate::format::Item| format.key(item.bytes(&part.data)).to_vec();
    checked.ends = first.map(key).zip(last.map(key));
    checked
}

/// Puts the parts together.
///
/// # Errors
/// What is wrong: order or content.
pub fn conclude(parts: &[Checked], expected: &Digest) -> Result<(), String> {
    if let Some(offset) = parts.iter().find_map(|part| part.out_of_order) {
        return Err(format!("the output is not in order at byte {offset}"));
    }
    let ends: Vec<_> = parts.iter().filter_map(|part| part.ends.as_ref()).collect();
    if ends.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("the output is not in order between two of its parts".into());
    }
    let mut found = Digest::default();
    parts.iter().for_each(|part| found.join(&part.digest));
    if found.count != expected.count {
        return Err(format!(
            "the output holds {} items, the input {}",
            found.count, expected.count
        ));
    }
    if found != *expected {
        return Err("the output does not hold the input's items: its checksum differs".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str, base: u64) -> Checked {
        check(Format::Lines, &Part { data: text.as_bytes().to_vec(), base }, || ())
    }

    #[test]
    fn wrong_order_and_wrong_content_are_found() {
        let expected = part("c\na\nb\nb\n", 0).digest;
        let verdict = |parts: &[Checked]| conclude(parts, &expected);
        assert_eq!(verdict(&[part("a\nb\n", 0), part("", 4), part("b\nc\n", 4)]), Ok(()));
        let swapped = verdict(&[part("a\nb\n", 0), part("c\nb\n", 4)]).unwrap_err();
        assert!(swapped.contains("byte 6"), "{swapped}");
        assert!(verdict(&[part("b\nc\n", 0), part("a\nb\n", 4)]).unwrap_err().contains("two of"));
        assert!(verdict(&[part("a\nb\n", 0), part("b\nd\n", 4)]).unwrap_err().contains("checksum"));
        assert!(verdict(&[part("a\nb\nc\n", 0)]).unwrap_err().contains("3 items, the input 4"));
    }
}
