//! Random code in random modes: nothing crashes, and the backends agree.
//!
//! Always the same code in CI; RING3_FUZZ_SECONDS and RING3_FUZZ_SEED as in `host_oracle`.  The
//! fuzz target of the same name does it without end, guided by coverage.

use crate::agree::{CODE_MAX, HEADER, Pair};
use crate::machine::Mode;
use crate::random::{Rng, Templates};
use std::time::{Duration, Instant};

/// Cases of each kind in CI.
const CASES: u64 = 600;
/// Failures described.
const REPORTED: usize = 10;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Mode, registers and flags, and no code yet.
fn header(rng: &mut Rng) -> Vec<u8> {
    (0..HEADER).map(|_| rng.next() as u8).collect()
}

/// Runs what `generate` makes of each seed.
fn fuzz(generate: impl Fn(&mut Rng) -> Vec<u8>) {
    let mut seed = variable("RING3_FUZZ_SEED").unwrap_or(1);
    let until = variable("RING3_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let last = seed + CASES;
    let mut pair = Pair::new();
    let mut failed = vec![];
    while until.map_or(seed < last, |until| Instant::now() < until) {
        seed += 1;
        let input = generate(&mut Rng(seed));
        if let Err(e) = pair.compare(&input) {
            failed.push(format!("seed {seed}: {e}"));
            pair = Pair::new();
        }
    }
    let count = failed.len();
    failed.truncate(REPORTED);
    assert!(count == 0, "{count} differ:\n  {}", failed.join("\n  "));
}

#[test]
fn random_bytes_end_alike_on_both_backends() {
    fuzz(|rng| {
        let mut input = header(rng);
        let length = 1 + rng.below(64);
        input.extend((0..length).map(|_| rng.next() as u8));
        input
    });
}

#[test]
fn random_instructions_end_alike_on_both_backends() {
    let templates = [16, 32, 64].map(|bits| (bits, Templates::all(bits)));
    fuzz(|rng| {
        let mut input = header(rng);
        let (_, mode) = Mode::NAMED[usize::from(input[0]) % Mode::NAMED.len()];
        let mine = templates.iter().find(|(bits, _)| *bits == mode.bits());
        let count = 1 + rng.below(16);
        for _ in 0..count {
            if let Some((_, templates)) = mine {
                input.extend(templates.any(rng));
            }
        }
        input.truncate(HEADER + CODE_MAX);
        input
    });
}
