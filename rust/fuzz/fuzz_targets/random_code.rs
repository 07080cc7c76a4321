//! Any bytes as code in any mode: no crash, and `translate` ends it as `interp` does.
//!
//! The input is that of `agree::Pair::compare`: mode, registers, flags, code.  The short version for CI
//! is engine's test of the same name.
#![no_main]

#[path = "../../engine/tests/cpu/agree.rs"]
mod agree;
#[path = "../../engine/tests/cpu/machine.rs"]
mod machine;
#[path = "../../engine/tests/cpu/undefined.rs"]
mod undefined;

use std::cell::RefCell;

thread_local!(static PAIR: RefCell<agree::Pair> = RefCell::new(agree::Pair::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    PAIR.with_borrow_mut(|pair| {
        if let Err(difference) = pair.compare(input) {
            panic!("{difference}");
        }
    });
});
