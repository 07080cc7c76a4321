//! Ring3's CPU engine: x86 in pure Rust, in ring 3; knows no Python.
//!
//! `vcpu::Vcpu` is one virtual CPU.  It runs guest code by `translate` (x86 to x86-64, the fast
//! path) and by `interp` (one instruction at a time, always right).  Both work on one
//! `state::CpuState`, one `memory::Memory` and one `io::IoMap`.

pub mod alias;
pub mod apic;
pub mod backing;
pub mod cpuid;
pub mod dirty;
pub mod encode;
pub mod exit;
pub mod fault;
pub mod fm;
pub mod fpustate;
pub mod host;
pub mod huge;
pub mod interp;
pub mod io;
pub mod mapping;
pub mod memory;
pub mod mmu;
pub mod pages;
pub mod pixels;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod timer;
pub mod translate;
pub mod vcpu;
pub mod vga;
