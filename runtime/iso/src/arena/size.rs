//! Size classes of small blocks: 16 to 128 bytes in steps of 16, then four steps to each doubling,
//! up to 2 KiB. A block wastes a fifth of itself at most, past the first classes.

/// Longest block that comes from a span; longer ones are page runs.
pub(super) const SMALL_MAX: usize = 2048;
/// Number of size classes.
pub(super) const COUNT: usize = SIZES.len();
/// Blocks up to this size may come from the rest of an extent's first page.
pub(super) const MINI_MAX: usize = 256;

/// Block size of each class in bytes, each a multiple of 16.
pub(super) const SIZES: [u16; 24] = [
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024,
    1280, 1536, 1792, 2048,
];

/// Class by number of 16-byte units, 0 to 128.
static CLASS_OF_UNITS: [u8; SMALL_MAX / 16 + 1] = {
    let mut classes = [0; SMALL_MAX / 16 + 1];
    let (mut units, mut class) = (0, 0);
    while units < classes.len() {
        if units * 16 > SIZES[class] as usize {
            class += 1;
        }
        classes[units] = class as u8;
        units += 1;
    }
    classes
};

/// The class of the smallest blocks that hold `size` bytes, which is at most [`SMALL_MAX`].
#[inline]
pub(super) fn class_of(size: usize) -> usize {
    CLASS_OF_UNITS[size.div_ceil(16)] as usize
}

/// Pages of a span of `class`: long enough for 15 blocks.
pub(super) const fn span_page_count(class: usize) -> usize {
    match SIZES[class] {
        0..=256 => 1,
        257..=512 => 2,
        513..=1024 => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_size_is_the_smallest_that_holds_it() {
        for size in 0..=SMALL_MAX {
            let class = class_of(size);
            assert!(SIZES[class] as usize >= size);
            assert!(class == 0 || (SIZES[class - 1] as usize) < size, "size {size}, class {class}");
        }
    }
}
