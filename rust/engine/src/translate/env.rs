//! The memory that translated code addresses through the host's RSP.
//!
//! One mapping: [guard page | monitor stack | `Area`].  While translated code runs, RSP points at
//! `Area`, so that `[rsp+disp32]` reaches all of it and calls push onto the monitor stack below.

use super::fault::HostFault;
use super::spaces::CHUNKS;
use crate::huge::{self, HUGE};
use crate::mapping::{Mapping, Source};
use crate::state::CpuState;
use std::sync::atomic::AtomicU32;

const STACK_BYTES: usize = 512 << 10;
const GUARD_BYTES: usize = 4096;

/// Entries of one inline TLB array; the index is linear address bits 21:12.
pub const TLB_ENTRIES: usize = 1024;
/// Slots of the code TLB: of adjacent pages, 16 MiB of code.
pub const CODE_TLB_ENTRIES: usize = 4096;
/// Slots of a jump table, by the low 16 bits of RIP.
pub const JUMP_ENTRIES: usize = 1 << 16;

/// Privilege classes that have structures of their own.
pub const KERNEL: usize = 0;
pub const USER: usize = 1;

/// An entry of the inline TLB.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Linear address of the page.
    pub tag: u64,
    /// Host address of the page.
    pub host: u64,
}

/// Read and write arrays of one privilege class: what may not be read (or written) without a look
/// has no entry.
#[repr(C)]
pub struct Tlb {
    pub read: [TlbEntry; TLB_ENTRIES],
    pub write: [TlbEntry; TLB_ENTRIES],
}

/// Copies of reads that cross into another page, misaligned as those are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bounce(pub [u8; BOUNCE_BYTES]);

/// Room for 64 bytes at any offset from a multiple of 64.
pub const BOUNCE_BYTES: usize = 128;

#[repr(C, align(4096))]
pub struct Area {
    pub cpu: CpuState,
    /// Nonzero: leave translated code at the next poll.
    pub attention: AtomicU32,
    /// Nonzero: an interrupt waits for IF; instructions that set IF leave translated code.
    pub interrupt_waits: u32,
    /// Nonzero: the guest's FPU and SIMD state is in the host's registers, not in `cpu.fpu`.
    pub fpu_live: u32,
    /// MXCSR of the monitor.
    pub host_mxcsr: u32,
    /// The vCPU's thread's stack pointer while translated code runs.
    pub host_rsp: u64,
    /// Where `enter` jumps to; for `exit::DEVICE`, the address behind the instruction.
    pub enter_target: u64,
    /// R11 there: where an indirect jump finds the flags.
    pub enter_recovery: u64,
    /// R11 of the last indirect jump to a block not known; 0 if `exit::LOOKUP` has another reason.
    pub branch: u64,
    /// RFLAGS for the guest at entry and from it at exit: the arithmetic ones count.
    pub host_flags: u64,
    /// `runtime::exit` code.
    pub exit_kind: u32,
    /// Number of the link to patch (`exit::LINK`).
    pub exit_link: u32,
    /// Number of the assist (`exit::DEVICE`).
    pub exit_assist: u32,
    /// Host address inside the block (`exit::INTERPRET_AT`).
    pub exit_site: u64,
    /// The `Vcpu`, for helpers.
    pub vcpu: u64,
    /// Address of the thunk that leaves after a host fault.
    pub fault_thunk: u64,
    /// What `recover` finds the flags by: an image of them (LAHF; SETO), a value of RSP.
    pub kept_flags: u64,
    pub kept_operand: u64,
    /// Per class: where recovered flags let an indirect jump go on.
    pub recovered: [u64; 2],
    /// Limits for inline checks, by segment register: the first offset that may not be read
    /// (written) any more; 0 where no access may be.
    pub readable: [u64; 6],
    pub writable: [u64; 6],
    /// Registers that a helper's call may change.
    pub saved: [u64; 16],
    pub saved_xmm: [[u64; 2]; 16],
    /// Taken in turns: one instruction may read two operands.
    pub bounce: [Bounce; 2],
    pub tlb: [Tlb; 2],
    /// What the last host fault in translated code was.
    pub fault: HostFault,
    /// Where `Thunks::retry` goes, with which R10 and R11.
    pub retry_target: u64,
    pub retry_r10: u64,
    pub retry_r11: u64,
    /// Per class, by bits 47:32 of an address: what it takes to the host address in a window (`window`).
    pub chunks: [[u64; CHUNKS]; 2],
    /// Per class: identity of the page (`link::PageIds`) that code at a virtual page comes from.
    pub code_tlb: [[u32; CODE_TLB_ENTRIES]; 2],
    /// Per class: host address of the block that an indirect jump to RIP should try, if that doesn't
    /// need the flags.
    pub jump: [[u64; JUMP_ENTRIES]; 2],
    /// The same for blocks that do.
    pub jump_live: [[u64; JUMP_ENTRIES]; 2],
}

/// The slot of the code TLB that virtual page `vpn` has.  Programs lie at round distances from each
/// other: higher bits have a part in it.
pub const fn code_slot(vpn: u64) -> usize {
    (vpn ^ vpn >> 12 ^ vpn >> 21) as usize % CODE_TLB_ENTRIES
}

pub struct Env {
    mapping: Mapping,
}

const AREA_OFFSET: usize = GUARD_BYTES + STACK_BYTES;
/// The Area's share of it is a number of whole huge pages.
const BYTES: usize = AREA_OFFSET + size_of::<Area>().next_multiple_of(HUGE);

impl Env {
    pub fn new() -> std::io::Result<Env> {
        // Zeroes are a valid Area.
        let mapping = Mapping::aligned(BYTES, AREA_OFFSET, HUGE, &Source::Zeros)?;
        // SAFETY: the first page of our own mapping.
        unsafe { libc::mprotect(mapping.start().cast(), GUARD_BYTES, libc::PROT_NONE) };
        Ok(Env { mapping })
    }

    pub fn area(&self) -> *mut Area {
        // SAFETY: inside the mapping; page aligned as Area asks.
        unsafe { self.mapping.start().add(AREA_OFFSET).cast() }
    }

    /// Moves the Area to huge pages: it is used a lot, and all over.
    pub fn settle(&self) {
        huge::collapse(self.area().cast(), BYTES - AREA_OFFSET);
    }

    pub fn attention(&self) -> *const AtomicU32 {
        // SAFETY: a field's address; no reference is made.
        unsafe { &raw const (*self.area()).attention }
    }

    /// # Safety
    /// Called once, and the reference is not used after the Env is gone.
    pub unsafe fn take_state(&self, state: CpuState) -> &'static mut CpuState {
        // SAFETY: the area is mapped and writable; the caller promises exclusivity.
        unsafe {
            let cpu = &raw mut (*self.area()).cpu;
            cpu.write(state);
            &mut *cpu
        }
    }
}
