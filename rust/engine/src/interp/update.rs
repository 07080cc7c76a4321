//! Read-modify-write of an operand (SDM vol. 3, 9.1: locked atomic operations).
//!
//! A locked update of RAM is atomic on the host, so other vCPUs, translated or not, see it as one.
//! Not modelled: the bus lock over a page border or a device's registers; those are a read and
//! a write.

use super::host;
use super::operand::Place;
use crate::fault::Fault;
use crate::memory::PAGE;
use crate::mmu::physical;
use crate::mmu::walk::Access;
use crate::state::flags;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Vcpu {
    /// Replaces operand `i` by what `f` makes of it; `f` also yields something for the caller.
    /// A locked update may call `f` again for a newer value.
    pub(super) fn update<R>(
        &mut self,
        insn: &Instruction,
        i: u32,
        f: impl Fn(u64) -> (u64, R),
    ) -> Result<R, Fault> {
        if insn.op_kind(i) == OpKind::Register {
            let register = insn.op_register(i);
            let (value, result) = f(self.reg(register));
            self.set_reg(register, value);
            return Ok(result);
        }
        // XCHG with memory locks without being asked.
        let locked = insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg;
        self.update_memory(self.place(insn), self.size_of(insn, i), locked, f)
    }

    /// `update` of `size` bytes (1, 2, 4 or 8) of memory.
    pub(super) fn update_memory<R>(
        &mut self,
        place: Place,
        size: usize,
        locked: bool,
        f: impl Fn(u64) -> (u64, R),
    ) -> Result<R, Fault> {
        self.probe_write(place.segment, place.offset, size)?;
        let linear = self.linear(place.segment, place.offset, size, true)?;
        if locked && let Some((host, address)) = self.ram_within_page(linear, size)? {
            loop {
                let old = self.read_linear(linear, size, self.user())?;
                let (value, result) = f(old);
                // SAFETY: `ram_within_page` vouches for `size` bytes at `host`.
                if unsafe { host::compare_exchange(host, size, old, value) } {
                    self.note_store(address, size as u64);
                    return Ok(result);
                }
            }
        }
        let old = self.read_linear(linear, size, self.user())?;
        let (value, result) = f(old);
        self.write_linear(linear, size, value, self.user())?;
        Ok(result)
    }

    /// Host and guest-physical address of `size` writable bytes, if they are RAM in one page.
    pub(super) fn ram_within_page(
        &mut self,
        linear: u64,
        size: usize,
    ) -> Result<Option<(*mut u8, u64)>, Fault> {
        let page = self.translate(linear, Access::write(self.user()))?;
        let offset = (linear % PAGE) as usize;
        if offset + size > PAGE as usize || page.rights & (physical::IO | physical::ROM) != 0 {
            return Ok(None);
        }
        // SAFETY: the offset is inside the page.
        let host = unsafe { page.host.add(offset) };
        Ok(Some((host, page.page + offset as u64)))
    }

    /// Sets the arithmetic flags, and leaves the others.
    pub(super) fn set_arithmetic(&mut self, value: u64) {
        self.cpu.rflags = self.cpu.rflags & !flags::ARITHMETIC | value & flags::ARITHMETIC;
    }

    /// Sets or clears the flags of `bits`.
    pub(super) fn set_flag(&mut self, bits: u64, on: bool) {
        if on {
            self.cpu.rflags |= bits;
        } else {
            self.cpu.rflags &= !bits;
        }
    }
}
