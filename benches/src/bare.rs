//! The bare coroutine beside which tasks are measured: corosensei without a runtime.

use std::collections::VecDeque;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

const STACK_LEN: usize = 64 << 10;

/// Creates, runs and drops `count` coroutines, one after the other, on one warm stack; their sum.
pub fn create_and_run(count: u64) -> u64 {
    let mut stack = DefaultStack::new(STACK_LEN).expect("memory for a stack");
    let mut sum = 0u64;
    for i in 0..count {
        let mut coroutine: Coroutine<(), (), u64> =
            Coroutine::with_stack(stack, move |_, ()| std::hint::black_box(i));
        if let CoroutineResult::Return(value) = coroutine.resume(()) {
            sum += value;
        }
        stack = coroutine.into_stack();
    }
    sum
}

/// Coroutines that suspend `yields` times each, resumed in turn until all have returned.
pub struct Ring(VecDeque<Coroutine<(), (), u64>>);

impl Ring {
    pub fn new(tasks: u64, yields: u64) -> Ring {
        let one = |i: u64| {
            let stack = DefaultStack::new(STACK_LEN).expect("memory for a stack");
            let mut coroutine =
                Coroutine::with_stack(stack, move |yielder: &corosensei::Yielder<(), ()>, ()| {
                    yielder.suspend(());
                    for _ in 0..yields {
                        yielder.suspend(());
                    }
                    i
                });
            // Its first step touches its stack, which is not what is measured.
            coroutine.resume(());
            coroutine
        };
        Ring((0..tasks).map(one).collect())
    }

    /// Runs all to their end; the sum of what they return.
    pub fn run(mut self) -> u64 {
        let mut sum = 0;
        while let Some(mut coroutine) = self.0.pop_front() {
            match coroutine.resume(()) {
                CoroutineResult::Yield(()) => self.0.push_back(coroutine),
                CoroutineResult::Return(value) => sum += value,
            }
        }
        sum
    }
}
