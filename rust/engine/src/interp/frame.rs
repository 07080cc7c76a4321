//! Stack frames: what gates, far calls and interrupts push, and what returns pop.
//!
//! The stack may be another than SS:RSP names, or be used with another privilege; nothing of it is
//! committed before the whole frame has been checked.

use crate::fault::{Fault, vector};
use crate::mmu::segment::{canonical, limit_allows};
use crate::mmu::walk::Access;
use crate::state::{Segment, attr, gpr, seg};
use crate::vcpu::Vcpu;
use std::mem::MaybeUninit;

/// The most a frame holds: 31 parameters, SS, ESP, CS and EIP of a call gate.
const MAX_FRAME: usize = 35;

/// Values to push, in the order of the pushes.  Those not pushed yet stay uninitialized: the memset
/// for all would break an assist's promise about vector registers.
pub(super) struct Frame {
    values: [MaybeUninit<u64>; MAX_FRAME],
    count: usize,
}

impl Default for Frame {
    fn default() -> Frame {
        Frame {
            values: [const { MaybeUninit::uninit() }; MAX_FRAME],
            count: 0,
        }
    }
}

impl Frame {
    pub fn push(&mut self, value: u64) -> &mut Frame {
        if let Some(slot) = self.values.get_mut(self.count) {
            slot.write(value);
            self.count += 1;
        }
        self
    }

    fn values(&self) -> &[u64] {
        let pushed = self.values.as_ptr().cast();
        // SAFETY: `push` initialized the first `count`, which is within the array.
        unsafe { std::slice::from_raw_parts(pushed, self.count) }
    }
}

/// A stack, with its pointer as it would become.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    pub segment: Segment,
    /// Addressed as in 64-bit mode: flat.
    pub flat: bool,
    /// All of RSP; pushes and pops change the part that the stack's address size covers.
    pub pointer: u64,
    pub user: bool,
    /// Error code of the #SS when it is full.
    pub error_code: u32,
}

impl Stack {
    /// A stack of the privilege level `cpl` that a TSS names.
    pub fn inner(segment: Segment, pointer: u64, cpl: u8) -> Stack {
        Stack {
            flat: false,
            user: cpl == 3,
            error_code: (segment.selector & 0xFFFC) as u32,
            segment,
            pointer,
        }
    }

    fn mask(&self) -> u64 {
        if self.flat {
            u64::MAX
        } else if self.segment.is(attr::DB) {
            0xFFFF_FFFF
        } else {
            0xFFFF
        }
    }

    /// Moves the pointer by `bytes`, wrapping at the stack's address size.
    pub fn advance(&mut self, bytes: u64) {
        let mask = self.mask();
        self.pointer = self.pointer & !mask | self.pointer.wrapping_add(bytes) & mask;
    }

    fn linear(&self, size: usize) -> Result<u64, Fault> {
        let offset = self.pointer & self.mask();
        let full = Err(Fault::with_code(vector::SS, self.error_code));
        if self.flat {
            let last = offset.wrapping_add(size as u64 - 1);
            return if canonical(offset) && canonical(last) {
                Ok(offset)
            } else {
                full
            };
        }
        if !limit_allows(&self.segment, offset, size as u64) {
            return full;
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }
}

impl Vcpu {
    /// The stack that SS:RSP names.
    pub(super) fn current_stack(&self) -> Stack {
        Stack {
            segment: self.cpu.seg[seg::SS],
            flat: self.cpu.code64(),
            pointer: self.cpu.gpr[gpr::RSP],
            user: self.user(),
            error_code: 0,
        }
    }

    /// Pushes a frame of values of `size` bytes: all of it, or nothing and a fault.
    pub(super) fn push_frame(
        &mut self,
        stack: &mut Stack,
        size: usize,
        frame: &Frame,
    ) -> Result<(), Fault> {
        let values = frame.values();
        let mut probe = *stack;
        for _ in values {
            probe.advance((size as u64).wrapping_neg());
            let linear = probe.linear(size)?;
            self.check_frame_alignment(stack, linear, size)?;
            self.probe_linear(linear, size, Access::write(stack.user))?;
        }
        for value in values {
            stack.advance((size as u64).wrapping_neg());
            let linear = stack.linear(size)?;
            self.write_linear(linear, size, *value, stack.user)?;
        }
        Ok(())
    }

    /// Pops a value of `size` bytes.
    pub(super) fn pop_frame(&mut self, stack: &mut Stack, size: usize) -> Result<u64, Fault> {
        let linear = stack.linear(size)?;
        self.check_frame_alignment(stack, linear, size)?;
        let value = self.read_linear(linear, size, stack.user)?;
        stack.advance(size as u64);
        Ok(value)
    }

    /// #AC is for accesses with user privilege: not for the frames of inner levels.
    fn check_frame_alignment(&self, stack: &Stack, linear: u64, size: usize) -> Result<(), Fault> {
        if stack.user {
            self.check_alignment(linear, size)
        } else {
            Ok(())
        }
    }

    /// Makes `stack` the current one.
    pub(super) fn enter_stack(&mut self, stack: Stack) {
        self.cpu.seg[seg::SS] = stack.segment;
        self.cpu.gpr[gpr::RSP] = stack.pointer;
    }

    /// RSP of an outward return: as much of it as the new stack's address size takes.
    pub(super) fn outer_pointer(&self, cs: &Segment, ss: &Segment, pointer: u64) -> u64 {
        let old = self.cpu.gpr[gpr::RSP];
        if self.is_code64(cs) {
            pointer
        } else if ss.is(attr::DB) {
            pointer & 0xFFFF_FFFF
        } else {
            old & !0xFFFF | pointer & 0xFFFF
        }
    }
}
