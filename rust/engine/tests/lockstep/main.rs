//! Whole guests in lock step: two machines with nothing but a timer and a serial port run the same guest,
//! one translated and one interpreted, and are compared wherever translated code has left.
//!
//! Translated code runs to its first exit or poll; the interpreter then steps until the states are
//! equal, which they must become within the code that one chain of blocks can have.  Time and random
//! numbers are the translated machine's for both; interrupts come to both at the same boundary.
//! Each guest runs twice: as always, and with every flag live, comparing flags and memory too; else
//! dead flags (and what exceptions push of them) may be anything.
//!
//! RING3_LOCKSTEP_STEPS: comparisons of each run.  RING3_LOCKSTEP_LINUX: a bzImage to start too, its
//! decompressor first; with RING3_LOCKSTEP_BUSYBOX, a static BusyBox, instead the kernel itself with a
//! small user space, up to its end if the steps suffice (some 100 million; put them at 0 for no limit).

mod devices;
mod embedded;
mod linux;
mod twins;

use engine::exit::Exit;
use twins::{Load, Twins};

/// Comparisons of each run in CI.
const STEPS: u64 = 1_000_000;

fn steps() -> u64 {
    let set = std::env::var("RING3_LOCKSTEP_STEPS").ok();
    match set.and_then(|s| s.parse().ok()) {
        Some(0) => u64::MAX,
        Some(steps) => steps,
        None => STEPS,
    }
}

fn lock_step(load: &Load) -> Vec<Option<Exit>> {
    let mut ends = Vec::new();
    for all_flags_live in [false, true] {
        let mut twins = Twins::new(load, all_flags_live);
        let result = twins.run(steps());
        eprintln!(
            "all flags live: {all_flags_live}; {result:?} at {:#x}, {} blocks, {} interrupts",
            twins.translated.cpu.rip,
            twins.translated.stats.blocks,
            twins.translated.stats.interrupts
        );
        match result {
            Ok(end) => ends.push(end),
            Err(difference) => panic!("all flags live: {all_flags_live}; {difference}"),
        }
        assert!(twins.translated.stats.blocks > 100, "too little ran");
    }
    ends
}

#[test]
fn the_embedded_guest_runs_alike_on_both_backends() {
    lock_step(&embedded::load);
}

#[test]
fn linux_runs_alike_on_both_backends() {
    let Some(path) = std::env::var_os("RING3_LOCKSTEP_LINUX") else {
        return;
    };
    let image = std::fs::read(path).expect("RING3_LOCKSTEP_LINUX: a readable bzImage");
    let Some(path) = std::env::var_os("RING3_LOCKSTEP_BUSYBOX") else {
        lock_step(&move |v| linux::load(v, &image));
        return;
    };
    let busybox = std::fs::read(path).expect("RING3_LOCKSTEP_BUSYBOX: a readable program");
    let kernel = linux::decompressed(&image);
    let initrd = linux::initrd(&busybox);
    for end in lock_step(&move |v| linux::load_kernel(v, &image, &kernel, &initrd)) {
        assert!(matches!(end, None | Some(Exit::Shutdown)), "{end:?}");
    }
}
