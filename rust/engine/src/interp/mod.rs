//! The interpreter: one instruction at a time, in any mode, always right and never fast.
//!
//! `Vcpu::step` fetches, decodes and executes the instruction at CS:RIP.  A handler reads operands,
//! may fault (`Err(Fault)`, then nothing of the instruction is committed), and commits.  RIP moves
//! to `next_rip`, which branches change.  Handlers are grouped by instruction family, one file each.

mod alu;
mod bcd;
mod bits;
mod branch;
mod condition;
mod control;
mod data;
pub mod debug;
mod descriptor;
mod execute;
mod far;
pub mod fpu;
mod frame;
mod host;
pub mod interrupt;
pub mod msr;
mod muldiv;
pub mod operand;
mod port;
mod privileged;
mod segments;
mod shift;
mod stack;
mod string;
mod syscall;
mod system;
#[cfg(test)]
mod system_tests;
mod tables;
mod task;
#[cfg(test)]
pub mod test_support;
#[cfg(test)]
mod tests;
mod update;

use crate::fault::Fault;
use crate::memory::PAGE;
use crate::mmu::walk::Access;
use crate::state::{flags, seg, shadow};
use crate::vcpu::Vcpu;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use interrupt::Event;

/// The longest an instruction may be, in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// Decoder options: what real processors execute, reserved NOPs and aliases included.
pub const DECODER_OPTIONS: u32 = DecoderOptions::NONE;

impl Vcpu {
    /// Executes one instruction (of a repeated string instruction: some iterations) and delivers
    /// the exception or trap it raises.
    pub fn step(&mut self) {
        self.single_step = self.cpu.rflags & flags::TF != 0;
        let shadow_before = std::mem::take(&mut self.cpu.shadow);
        let pending_before = self.cpu.pending_db;
        // MOV SS holds instruction breakpoints off the instruction after it, but not on AMD.
        let watched =
            self.breakpoints_enabled() && (shadow_before & shadow::MOV_SS == 0 || self.is_amd());
        let breakpoint = if watched {
            self.check_instruction_breakpoint()
        } else {
            Ok(())
        };
        match breakpoint.and_then(|()| self.fetch_and_execute()) {
            Ok(()) => {
                self.cpu.rip = self.next_rip;
                // RF ends with the instruction it let through, unless that one set it (IRET).
                if self.single_step && self.cpu.shadow & shadow::MOV_SS == 0 {
                    self.cpu.pending_db |= debug::DR6_BS;
                }
            }
            Err(fault) => {
                self.cpu.shadow = shadow_before & shadow::MOV_SS;
                // Data breakpoints hit on the way come again with the instruction.
                self.cpu.pending_db = pending_before;
                self.raise(fault);
            }
        }
    }

    fn fetch_and_execute(&mut self) -> Result<(), Fault> {
        let (instruction, bytes) = self.fetch()?;
        self.insn_bytes = bytes;
        self.stats.count_interpreted(instruction.mnemonic());
        self.cpu.rflags &= !flags::RF;
        self.next_rip = self.wrap_ip(instruction.next_ip());
        self.execute(&instruction)
    }

    /// RIP is 16 or 32 bits wide outside 64-bit mode (by CS.D).
    pub fn wrap_ip(&self, rip: u64) -> u64 {
        if self.cpu.code64() {
            rip
        } else {
            rip & 0xFFFF_FFFF
        }
    }

    /// Decodes the instruction at CS:RIP, with its bytes.  Raises what fetching raises: #GP past
    /// the limit or over 15 bytes, #PF, and #UD for what no processor has.
    pub fn fetch(&mut self) -> Result<(Instruction, [u8; MAX_INSTRUCTION]), Fault> {
        let bits = self.cpu.code_bits();
        let mut bytes = [0u8; MAX_INSTRUCTION];
        let mut have = self.fetch_bytes(0, &mut bytes)?;
        loop {
            let mut decoder = Decoder::with_ip(bits, &bytes[..have], self.cpu.rip, DECODER_OPTIONS);
            let instruction = decoder.decode();
            if !instruction.is_invalid() {
                return Ok((instruction, bytes));
            }
            if decoder.position() >= MAX_INSTRUCTION {
                return Err(Fault::GP0);
            }
            if decoder.last_error() != DecoderError::NoMoreBytes {
                return Err(Fault::UD);
            }
            have += self.fetch_bytes(have, &mut bytes)?;
        }
    }

    /// Reads code bytes from CS:RIP + `from` up to the page's end or the segment's limit into
    /// `bytes[from..]`; how many.  None at all is a fault.
    fn fetch_bytes(&mut self, from: usize, bytes: &mut [u8]) -> Result<usize, Fault> {
        let offset = self.wrap_ip(self.cpu.rip.wrapping_add(from as u64));
        let mut room = bytes.len() - from;
        let linear = if self.cpu.code64() {
            if !crate::mmu::segment::canonical(offset) {
                return Err(Fault::GP0);
            }
            offset
        } else {
            let cs = &self.cpu.seg[seg::CS];
            let Some(left) = (cs.limit as u64).checked_sub(offset) else {
                return Err(Fault::GP0);
            };
            room = room.min((left + 1) as usize);
            cs.base.wrapping_add(offset) & 0xFFFF_FFFF
        };
        let page = self.translate(linear, Access::fetch(self.user()))?;
        let within = (linear % PAGE) as usize;
        room = room.min(PAGE as usize - within);
        if page.host.is_null() {
            bytes[from..from + room].fill(0xFF);
        } else {
            let target = bytes[from..from + room].as_mut_ptr();
            // SAFETY: within + room stays inside the page at `host`; target has `room` bytes.
            unsafe { std::ptr::copy(page.host.add(within), target, room) };
        }
        Ok(room)
    }

    /// Delivers a fault raised at the instruction at RIP.
    pub fn raise(&mut self, fault: Fault) {
        self.stats.exceptions += 1;
        self.deliver(Event::fault(fault));
    }
}
