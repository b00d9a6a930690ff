//! Two thousand seeds, and the way back to any one of them.

use migrt_proto::Fault;
use migrt_test_sim::{Report, run};

/// Plays `seeds` on all cores; panics with the command that plays the first failing seed again.
fn check(seeds: std::ops::Range<u64>) -> Report {
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut total = Report::default();
    std::thread::scope(|scope| {
        let play = |worker| {
            let seeds = seeds.clone();
            move || {
                let mut total = Report::default();
                for seed in seeds.filter(|seed| seed % workers == worker) {
                    let played = std::panic::catch_unwind(|| run(seed, Fault::None));
                    let report = match played {
                        Ok(Ok(report)) => report,
                        Ok(Err(violation)) => {
                            fail(seed, &format!("{}: {}", violation.rule, violation.text))
                        }
                        Err(_) => fail(seed, "it panicked, see above"),
                    };
                    add(&mut total, &report);
                }
                total
            }
        };
        let handles: Vec<_> = (0..workers).map(|worker| scope.spawn(play(worker))).collect();
        for handle in handles {
            match handle.join() {
                Ok(report) => add(&mut total, &report),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    total
}

fn fail(seed: u64, what: &str) -> ! {
    panic!(
        "seed {seed} breaks {what}\nplay it again:\n    MIGRT_SEED={seed} cargo test -p migrt-test-sim --test seeds replay -- --nocapture\n"
    )
}

fn add(total: &mut Report, report: &Report) {
    total.tasks += report.tasks;
    total.moves += report.moves;
    total.failed += report.failed;
    total.doubts += report.doubts;
    total.lost += report.lost;
    total.deaths += report.deaths;
    total.rounds += report.rounds;
    total.called_off += report.called_off;
    total.lazy += report.lazy;
    total.mixed += report.mixed;
    total.pages_lost += report.pages_lost;
    total.parcels += report.parcels;
    total.events += report.events;
}

#[test]
fn two_thousand_seeds_keep_the_invariants() {
    // More, for a long night: MIGRT_SEEDS=100000.
    let count = std::env::var("MIGRT_SEEDS")
        .map_or(2_000, |count| count.parse().expect("MIGRT_SEEDS is a number"));
    let total = check(0..count);
    println!("{total:?}");
    // The faults have to bite, or the seeds show nothing.
    assert!(total.tasks > 50_000 && total.moves > 50_000 && total.failed > 10_000, "{total:?}");
    assert!(total.rounds > 20_000 && total.called_off > 3_000, "{total:?}");
    assert!(total.lazy > 10_000 && total.mixed > 1_000, "{total:?}");
    assert!(total.pages_lost > 100, "{total:?}");
    assert!(total.parcels > 1_000, "{total:?}");
    assert!(total.doubts > 10 && total.lost > 1_000 && total.deaths > 2_000, "{total:?}");
}

#[test]
fn equal_seeds_play_equally() {
    assert_eq!(run(7, Fault::None), run(7, Fault::None));
}

#[test]
fn replay() {
    let Ok(seed) = std::env::var("MIGRT_SEED") else { return };
    let seed = seed.parse().expect("MIGRT_SEED is a number");
    match run(seed, Fault::None) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(violation) => fail(seed, &format!("{}: {}", violation.rule, violation.text)),
    }
}
