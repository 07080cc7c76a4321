//! What the host's processor can do: CPUID, and the XSAVE components its kernel enables.

use crate::cpuid::Leaf;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// XSAVE state components (SDM vol. 1, 13.1) that the engine keeps for a guest.
pub mod component {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const OPMASK: u64 = 1 << 5;
    pub const ZMM_HI256: u64 = 1 << 6;
    pub const HI16_ZMM: u64 = 1 << 7;
    pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;
    pub const ALL: u64 = X87 | SSE | AVX | AVX512;
}

/// A leaf of the host's CPUID; zeroes past the last leaf of its range.
pub fn cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let last = __cpuid_count(leaf & 0xC000_0000, 0).eax;
    if leaf > last {
        return Leaf::default();
    }
    let r = __cpuid_count(leaf, subleaf);
    Leaf {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// XSAVE exists and the kernel enabled it (CPUID.1:ECX.OSXSAVE).
pub fn has_xsave() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| cpuid(1, 0).ecx >> 27 & 1 != 0)
}

/// The components of a guest's FPU state that the host has and enables: XCR0's bits among
/// `component::ALL`.  A host without XSAVE has x87 and SSE, by FXSAVE.
pub fn xcr0() -> u64 {
    static XCR0: OnceLock<u64> = OnceLock::new();
    *XCR0.get_or_init(|| {
        if !has_xsave() {
            return component::X87 | component::SSE;
        }
        // SAFETY: CPUID says that XGETBV exists and is enabled.
        (unsafe { host_xgetbv() }) & component::ALL
    })
}

/// # Safety
/// CPUID.1:ECX.OSXSAVE is set.
#[target_feature(enable = "xsave")]
unsafe fn host_xgetbv() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}

/// Offset and size in bytes of component `index` (2 to 63) in the host's standard-format area.
pub fn component_place(index: u32) -> (usize, usize) {
    let leaf = cpuid(0xD, index);
    (leaf.ebx as usize, leaf.eax as usize)
}
