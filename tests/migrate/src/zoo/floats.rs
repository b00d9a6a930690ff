//! Floating point: values in registers and on the stack over a step, and the control words.

use std::arch::asm;
use std::hint::black_box;

use super::Run;
use crate::trip::{Seeded, mix, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("float_state", float_state),
    ("u128_state", u128_state),
    ("simd_vectors", simd_vectors),
    ("x87_long_double", x87_long_double),
    ("control_words", control_words),
    ("float_formatting", float_formatting),
    ("matrix_product", matrix_product),
];

fn float_state(seed: u64) -> u64 {
    let mut x = [0.1f64, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
    let mut f = seed as f32 + 0.5;
    for round in 0..40 {
        for i in 0..x.len() {
            x[i] = (x[i] * 1.25 + x[(i + 1) % 9].sin()).fract() + f64::from(f) * 1e-3;
        }
        f = (f * 1.1).sqrt() + 0.1;
        if round % 4 == 0 {
            step();
        }
    }
    x.iter().fold(u64::from(f.to_bits()), |sum, v| mix(sum, v.to_bits()))
}

fn u128_state(seed: u64) -> u64 {
    let (mut a, mut b) = (u128::from(seed) | 1 << 100, 3u128);
    for round in 0..60u32 {
        (a, b) = (b.wrapping_mul(a) ^ (a >> 61), a.rotate_left(round));
        let quotient = a / (b | 1);
        a = a.wrapping_add(quotient % 1_000_007);
        if round % 5 == 0 {
            step();
        }
    }
    mix(a as u64, (a >> 64) as u64) ^ mix(b as u64, (b >> 64) as u64)
}

fn simd_vectors(seed: u64) -> u64 {
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature is there, and nodes of one cluster have equal features.
        unsafe { avx2(seed) }
    } else {
        sse2(seed)
    }
}

#[target_feature(enable = "avx2")]
fn avx2(seed: u64) -> u64 {
    use std::arch::x86_64::*;
    let mut v: [__m256i; 6] =
        std::array::from_fn(|i| _mm256_set1_epi64x((seed + i as u64).cast_signed()));
    for round in 0..24 {
        for i in 0..6 {
            let shifted = _mm256_slli_epi64::<7>(v[i]);
            v[i] = _mm256_add_epi64(_mm256_xor_si256(shifted, v[(i + 1) % 6]), v[(i + 2) % 6]);
        }
        if round % 3 == 0 {
            step();
        }
    }
    v.iter().fold(0, |sum, v| {
        let mut words = [0u64; 4];
        // SAFETY: 32 bytes, and the store has no need of alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), *v) };
        words.into_iter().fold(sum, mix)
    })
}

fn sse2(seed: u64) -> u64 {
    let mut v = [seed; 24];
    for round in 0..24 {
        for i in 0..24 {
            v[i] = (v[i] << 7 ^ v[(i + 1) % 24]).wrapping_add(v[(i + 2) % 24]);
        }
        if round % 3 == 0 {
            step();
        }
    }
    v.into_iter().fold(0, mix)
}

/// An 80-bit number as memory holds it.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct LongDouble([u8; 16]);

fn x87_long_double(seed: u64) -> u64 {
    let mut x = LongDouble([0; 16]);
    let seed = (seed % 1000 + 2).cast_signed();
    // SAFETY: loads a live word and stores ten bytes into sixteen.
    unsafe {
        asm!("fild qword ptr [{n}]", "fsqrt", "fstp tbyte ptr [{x}]", n = in(reg) &seed,
            x = in(reg) &mut x, out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _);
    }
    for round in 0..30 {
        // SAFETY: as above; all that is pushed is popped.
        unsafe {
            asm!("fld tbyte ptr [{x}]", "fld1", "faddp", "fsqrt", "fldpi", "fmulp", "fstp tbyte ptr [{x}]",
                x = in(reg) &mut x, out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _);
        }
        if round % 3 == 0 {
            step();
        }
    }
    x.0[..10].iter().fold(0, |sum, &byte| mix(sum, u64::from(byte)))
}

/// I5: rounding modes that a task has set are its own.
fn control_words(seed: u64) -> u64 {
    // Rounding up in both units, everything else as it was.
    let (mxcsr_before, x87_before) = read_control();
    let mine = (mxcsr_before & !0x6000 | 0x4000, x87_before & !0x0c00 | 0x0800);
    let mut sum = 0;
    for _ in 0..8 {
        write_control(mine);
        let up = third(seed);
        step();
        let after = read_control();
        let again = third(seed);
        write_control((mxcsr_before, x87_before));
        let nearest = third(seed);
        assert_eq!((after.0 & 0x6000, after.1 & 0x0c00), (0x4000, 0x0800), "rounding after a step");
        assert_eq!(up.to_bits(), again.to_bits());
        sum = mix(sum, up.to_bits() ^ nearest.to_bits().rotate_left(9));
        step();
        let idle = read_control();
        assert_eq!((idle.0 & 0x6000, idle.1 & 0x0c00), (0, 0), "rounding of somebody else");
    }
    sum
}

fn third(seed: u64) -> f64 {
    let mut x = (seed % 100) as f64 + 1.0;
    // SAFETY: register arithmetic; in `asm` because the compiler counts on the default rounding.
    unsafe {
        asm!("divsd {x}, {three}", x = inout(xmm_reg) x, three = in(xmm_reg) black_box(3.0f64))
    };
    x
}

fn read_control() -> (u32, u16) {
    let (mut mxcsr, mut x87) = (0u32, 0u16);
    // SAFETY: both store into live memory.
    unsafe {
        asm!("stmxcsr [{m}]", "fnstcw [{x}]", m = in(reg) &mut mxcsr, x = in(reg) &mut x87,
            options(nostack));
    }
    (mxcsr, x87)
}

fn write_control((mxcsr, x87): (u32, u16)) {
    // SAFETY: values that were read before, but for the rounding bits; the compiler does no
    // arithmetic between this and the next write that would see them.
    unsafe {
        asm!("ldmxcsr [{m}]", "fldcw [{x}]", m = in(reg) &mxcsr, x = in(reg) &x87, options(nostack));
    }
}

fn float_formatting(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut text = String::new();
    for n in 0..60 {
        let x = f64::from_bits(random.draw() >> 2);
        let y = random.below(1 << 40) as f64 / 977.0;
        text.push_str(&format!("{x:e} {y:.3} {y:>12.1} {:?} {:08.2}\n", y as f32, y.sqrt()));
        let back: f64 = format!("{y}").parse().expect("what was printed can be read");
        assert_eq!(back.to_bits(), y.to_bits());
        if n % 6 == 0 {
            step();
        }
    }
    crate::trip::mix_bytes(0, text.as_bytes())
}

fn matrix_product(seed: u64) -> u64 {
    const N: usize = 48;
    let mut random = Seeded::new(seed);
    let mut fill = || (0..N * N).map(|_| random.below(1000) as f64 / 7.0).collect::<Vec<f64>>();
    let (a, b) = (fill(), fill());
    let mut c = vec![0.0; N * N];
    for i in 0..N {
        for j in 0..N {
            c[i * N + j] = (0..N).map(|k| a[i * N + k] * b[k * N + j]).sum();
        }
        if i % 5 == 0 {
            step();
        }
    }
    c.iter().fold(0, |sum, v: &f64| mix(sum, v.to_bits()))
}
