//! What lives on a call stack: depth, width, pointers into frames above, code that is generic.

use std::hint::black_box;

use super::Run;
use crate::trip::{Seeded, mix, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("deep_recursion", deep_recursion),
    ("big_frames", big_frames),
    ("pointers_into_frames", pointers_into_frames),
    ("recursion_over_dyn_fn", recursion_over_dyn_fn),
    ("mutual_recursion", mutual_recursion),
    ("generics", generics),
    ("iterator_chain", iterator_chain),
    ("slices_of_slices", slices_of_slices),
    ("state_machine_in_enums", state_machine_in_enums),
    ("quicksort_by_hand", quicksort_by_hand),
];

fn deep_recursion(seed: u64) -> u64 {
    fn down(depth: u64, above: &u64) -> u64 {
        let mine = mix(*above, depth);
        if depth.is_multiple_of(250) {
            step();
        }
        let below = if depth == 0 { 0 } else { down(depth - 1, &mine) };
        if depth % 500 == 7 {
            step();
        }
        mix(below, mine ^ above)
    }
    down(3000, &seed)
}

fn big_frames(seed: u64) -> u64 {
    #[inline(never)]
    fn frame(depth: u64, seed: u64) -> u64 {
        let mut block = [0u64; 4096];
        let mut random = Seeded::new(seed + depth);
        for word in &mut block {
            *word = random.draw();
        }
        step();
        let below = if depth == 0 { 1 } else { frame(depth - 1, seed) };
        black_box(&block).iter().fold(below, |sum, &word| mix(sum, word))
    }
    // Ten frames of 32 KiB.
    frame(9, seed)
}

fn pointers_into_frames(seed: u64) -> u64 {
    struct Link<'a> {
        value: u64,
        up: Option<&'a Link<'a>>,
    }
    fn nest(depth: u64, up: Option<&Link<'_>>) -> u64 {
        let link = Link { value: depth * 3, up };
        if depth.is_multiple_of(8) {
            step();
        }
        if depth == 0 {
            let mut sum = 0;
            let mut at = Some(&link);
            while let Some(link) = at {
                sum = mix(sum, link.value);
                at = link.up;
            }
            return sum;
        }
        nest(depth - 1, Some(&link))
    }
    nest(64 + seed % 16, None)
}

fn recursion_over_dyn_fn(seed: u64) -> u64 {
    fn apply(depth: u32, inner: &dyn Fn(u64) -> u64) -> u64 {
        if depth == 0 {
            return inner(1);
        }
        let factor = u64::from(depth);
        apply(depth - 1, &|x| {
            if factor.is_multiple_of(4) {
                step();
            }
            inner(x.wrapping_mul(factor) + 1)
        })
    }
    apply(20, &|x| {
        step();
        mix(seed, x)
    })
}

fn mutual_recursion(seed: u64) -> u64 {
    fn even(n: u64, trail: &mut Vec<u64>) -> u64 {
        trail.push(n);
        if trail.len().is_multiple_of(16) {
            step();
        }
        if n == 0 { 1 } else { odd(n - 1, trail).wrapping_mul(3) }
    }
    fn odd(n: u64, trail: &mut Vec<u64>) -> u64 {
        let block = black_box([n; 16]);
        let below = if n == 0 { 0 } else { even(n - 1, trail) };
        below ^ block[(n % 16) as usize]
    }
    let mut trail = Vec::new();
    let sum = even(200 + seed % 8, &mut trail);
    trail.into_iter().fold(sum, mix)
}

fn generics(seed: u64) -> u64 {
    trait Shape {
        const SIDES: u64;
        fn area(&self) -> u64;
    }
    struct Square<const N: usize>([u64; N]);
    struct Pair<A, B>(A, B);
    impl<const N: usize> Shape for Square<N> {
        const SIDES: u64 = N as u64;
        fn area(&self) -> u64 {
            step();
            self.0.iter().sum()
        }
    }
    impl<A: Shape, B: Shape> Shape for Pair<A, B> {
        const SIDES: u64 = A::SIDES * 10 + B::SIDES;
        fn area(&self) -> u64 {
            let left = self.0.area();
            step();
            mix(left, self.1.area())
        }
    }
    fn all<S: Shape>(shapes: impl IntoIterator<Item = S>) -> u64 {
        shapes.into_iter().map(|shape| mix(shape.area(), S::SIDES)).fold(0, mix)
    }
    all([Square([seed; 3]), Square([1, 2, 3])])
        ^ all([Pair(Square([seed; 5]), Pair(Square([7; 2]), Square([9; 1])))])
}

fn iterator_chain(seed: u64) -> u64 {
    let words: Vec<String> = (0..60).map(|n| format!("{}", n * (seed % 7 + 1))).collect();
    words
        .iter()
        .enumerate()
        .inspect(|(n, _)| {
            if n % 6 == 0 {
                step();
            }
        })
        .filter(|(n, _)| n % 3 != 1)
        .flat_map(|(n, word)| word.bytes().map(move |byte| u64::from(byte) + n as u64))
        .scan(seed, |sum, value| {
            *sum = mix(*sum, value);
            Some(*sum)
        })
        .zip((0..).step_by(3))
        .skip(5)
        .map(|(a, b): (u64, u64)| a ^ b)
        .fold(0, mix)
}

fn slices_of_slices(seed: u64) -> u64 {
    let mut table = [[0u32; 32]; 32];
    let mut random = Seeded::new(seed);
    for row in &mut table {
        for cell in row.iter_mut() {
            *cell = random.draw() as u32;
        }
    }
    let (upper, lower) = table.split_at_mut(16);
    for (row, (a, b)) in upper.iter_mut().zip(lower.iter_mut()).enumerate() {
        step();
        for (x, y) in a.iter_mut().zip(b.iter_mut()) {
            std::mem::swap(x, y);
            *x = x.wrapping_add(row as u32);
        }
        a.copy_from_slice(&{ *b });
    }
    table.iter().flatten().fold(0, |sum, &cell| mix(sum, u64::from(cell)))
}

fn state_machine_in_enums(seed: u64) -> u64 {
    #[derive(Clone, Debug)]
    enum State {
        Idle,
        Counting { left: u32, sum: u64 },
        Holding(Box<State>, Vec<u64>),
        Done(Result<u64, String>),
    }
    let mut state = State::Idle;
    let mut rounds = 0;
    loop {
        rounds += 1;
        if rounds % 4 == 0 {
            step();
        }
        state = match state {
            State::Idle => State::Counting { left: 20, sum: seed },
            State::Counting { left: 0, sum } => {
                State::Holding(Box::new(State::Counting { left: 0, sum }), vec![sum; 5])
            }
            State::Counting { left, sum } => {
                State::Counting { left: left - 1, sum: mix(sum, u64::from(left)) }
            }
            State::Holding(_, ref list) if list.len() > 2 => {
                let State::Holding(inner, mut list) = state else { unreachable!() };
                list.pop();
                State::Holding(inner, list)
            }
            State::Holding(inner, list) => match *inner {
                State::Counting { sum, .. } => State::Done(Ok(list.into_iter().fold(sum, mix))),
                other => State::Done(Err(format!("{other:?}"))),
            },
            State::Done(Ok(sum)) => return sum,
            State::Done(Err(text)) => panic!("{text}"),
        };
    }
}

fn quicksort_by_hand(seed: u64) -> u64 {
    fn sort(values: &mut [u64]) {
        if values.len() < 2 {
            return;
        }
        if values.len() > 150 {
            step();
        }
        let last = values.len() - 1;
        let pivot = values[last];
        let mut at = 0;
        for i in 0..last {
            if values[i] < pivot {
                values.swap(i, at);
                at += 1;
            }
        }
        values.swap(at, last);
        let (left, right) = values.split_at_mut(at);
        sort(left);
        sort(&mut right[1..]);
    }
    let mut random = Seeded::new(seed);
    let mut values: Vec<u64> = (0..2000).map(|_| random.draw()).collect();
    sort(&mut values);
    assert!(values.is_sorted());
    values.into_iter().fold(0, mix)
}
