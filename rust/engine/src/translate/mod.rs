//! The translator: guest x86 to host x86-64 (see docs/engine.md).

pub mod emit;
pub mod env;
pub mod reencode;

use crate::vcpu::Vcpu;
use env::Env;

/// Translated code and what finds it.
pub struct Jit {}

impl Jit {
    pub fn new(_env: &Env) -> std::io::Result<Jit> {
        Ok(Jit {})
    }
}

impl Vcpu {
    /// Runs translated code until something must be attended to.
    pub fn run_translated(&mut self) {
        self.step();
    }

    /// Drops blocks whose source lies in the range (guest-physical, bytes).
    pub fn invalidate_code(&mut self, _address: u64, _length: u64) {}

    pub fn jit_flush_all(&mut self) {}

    pub fn jit_switch_space(&mut self) {}

    pub fn jit_flush_page(&mut self, _linear: u64, _large: bool) {}
}
