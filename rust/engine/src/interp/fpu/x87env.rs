//! The x87 unit's control instructions on its state as a whole: WAIT, FNINIT, FNCLEX, FNSTENV,
//! FLDENV, FNSAVE, FRSTOR (SDM vol. 1, 8.1.10), and the FERR# pin.

use super::checks::{self, Pending, Unit};
use super::image::{Pointers, fsw};
use crate::fault::Fault;
use crate::fpustate::legacy;
use crate::mmu::walk::Access;
use crate::state::{XsaveArea, cr0};
use crate::vcpu::{Vcpu, locked};
use iced_x86::Instruction;

/// Bytes of the longest environment (32-bit operand size), and of ST0 to ST7 behind it.
const ENVIRONMENT_BYTES: usize = 28;
const STACK_BYTES: usize = 80;

/// Which of the four environment formats (SDM vol. 1, figures 8-9 to 8-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    /// Fields of 4 bytes, else of 2.
    wide: bool,
    /// Real and V86 mode: 20- or 32-bit linear pointers in place of selector and offset.
    linear: bool,
}

impl Format {
    /// The format of FNSTENV and FLDENV (14 or 28 bytes), FNSAVE and FRSTOR (94 or 108).
    fn of(v: &Vcpu, insn: &Instruction) -> Format {
        Format {
            wide: matches!(insn.memory_size().size(), 28 | 108),
            linear: v.cpu.real_or_v86(),
        }
    }

    /// Bytes of the environment.
    fn bytes(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    fn fields(self, image: &XsaveArea) -> [u32; 7] {
        let p = image.pointers();
        let (fop, fcs, fds) = (p.fop as u32 & 0x7FF, p.fcs as u32, p.fds as u32);
        let (fip, fdp) = (p.fip as u32, p.fdp as u32);
        // Reserved upper halves read as ones.
        let ones = 0xFFFF_0000;
        let [control, status, tags] =
            [image.fcw(), image.fsw(), full_tags(image)].map(|w| w as u32 | ones);
        if self.linear {
            let (fip, fdp) = (linear_pointer(fcs, fip), linear_pointer(fds, fdp));
            let instruction = (fip >> 16) << 12 | fop;
            let operand = (fdp >> 16) << 12;
            return [
                control,
                status,
                tags,
                fip & 0xFFFF | ones,
                instruction,
                fdp & 0xFFFF | ones,
                operand,
            ];
        }
        [control, status, tags, fip, fcs | fop << 16, fdp, fds | ones]
    }

    fn pointers(self, fields: &[u32; 7]) -> Pointers {
        let &[_, _, _, fip, instruction, fdp, operand] = fields;
        if self.linear {
            let high = |field: u32| (field & 0x0FFF_F000) << 4;
            return Pointers {
                fop: instruction as u16 & 0x7FF,
                fip: (fip & 0xFFFF | high(instruction)) as u64,
                fcs: 0,
                fdp: (fdp & 0xFFFF | high(operand)) as u64,
                fds: 0,
            };
        }
        Pointers {
            fop: (instruction >> 16) as u16 & 0x7FF,
            fip: fip as u64,
            fcs: instruction as u16,
            fdp: fdp as u64,
            fds: operand as u16,
        }
    }

    fn encode(self, fields: &[u32; 7]) -> [u8; ENVIRONMENT_BYTES] {
        let mut out = [0; ENVIRONMENT_BYTES];
        let size = if self.wide { 4 } else { 2 };
        for (slot, field) in out.chunks_exact_mut(size).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes()[..size]);
        }
        out
    }

    fn decode(self, bytes: &[u8]) -> [u32; 7] {
        let mut fields = [0; 7];
        let size = if self.wide { 4 } else { 2 };
        for (field, slot) in fields.iter_mut().zip(bytes.chunks_exact(size)) {
            *field = slot.iter().rev().fold(0, |v, &b| v << 8 | b as u32);
        }
        fields
    }
}

/// The linear address that a real-mode pointer is.
fn linear_pointer(selector: u32, offset: u32) -> u32 {
    (selector << 4).wrapping_add(offset)
}

/// The tag word of two bits per physical register, from what the registers hold.
fn full_tags(image: &XsaveArea) -> u16 {
    let top = image.top();
    let present = image.0[legacy::TAGS];
    (0..8).fold(0, |word, register| {
        let tag = if present >> register & 1 == 0 {
            3
        } else {
            content_tag(image.st((register + 8 - top) & 7))
        };
        word | tag << (2 * register)
    })
}

/// 0 valid, 1 zero, 2 special: infinity, NaN, denormal or an unsupported encoding.
fn content_tag(st: &[u8]) -> u16 {
    let exponent = (st[8] as u16 | (st[9] as u16) << 8) & 0x7FFF;
    let zero = st[..8].iter().all(|&b| b == 0);
    let integer_bit = st[7] & 0x80 != 0;
    match exponent {
        0 if zero => 1,
        0 | 0x7FFF => 2,
        _ if integer_bit => 0,
        _ => 2,
    }
}

/// One bit per register that a tag word calls not empty.
fn abridged_tags(word: u16) -> u8 {
    (0..8).fold(0, |bits, r| bits | ((word >> (2 * r) & 3 != 3) as u8) << r)
}

/// WAIT: #NM with CR0.MP and TS, #MF for pending exceptions.
pub fn wait(v: &mut Vcpu) -> Result<(), Fault> {
    let both = cr0::MP | cr0::TS;
    if v.cpu.cr0 & both == both {
        return Err(Fault::NM);
    }
    checks::pending_x87(v).map(|_| ())
}

/// The checks of a control instruction that doesn't wait.
fn check(v: &Vcpu, insn: &Instruction) -> Result<(), Fault> {
    checks::available(v, insn)?;
    checks::enabled(v, Unit::X87)
}

pub fn fninit(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    check(v, insn)?;
    v.cpu.fpu.init_x87();
    Ok(())
}

pub fn fnclex(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    check(v, insn)?;
    let kept = v.cpu.fpu.fsw() & !(fsw::EXCEPTIONS | fsw::SF | fsw::ES | fsw::B);
    v.cpu.fpu.set_u16(legacy::FSW, kept);
    Ok(())
}

/// FNSTENV: stores the environment, then masks all exceptions.
pub fn fnstenv(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    check(v, insn)?;
    let format = Format::of(v, insn);
    let bytes = format.encode(&format.fields(&v.cpu.fpu));
    let place = v.place(insn);
    v.write_bytes(place.segment, place.offset, &bytes[..format.bytes()])?;
    let (fcw, status) = (v.cpu.fpu.fcw(), v.cpu.fpu.fsw());
    v.cpu
        .fpu
        .set_control_and_status(fcw | fsw::EXCEPTIONS, status);
    Ok(())
}

/// FNSAVE: stores the environment and the registers, then FNINIT.
pub fn fnsave(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    check(v, insn)?;
    let format = Format::of(v, insn);
    let n = format.bytes();
    let mut bytes = [0; ENVIRONMENT_BYTES + STACK_BYTES];
    bytes[..ENVIRONMENT_BYTES].copy_from_slice(&format.encode(&format.fields(&v.cpu.fpu)));
    for i in 0..8 {
        bytes[n + 10 * i..n + 10 * i + 10].copy_from_slice(v.cpu.fpu.st(i));
    }
    let place = v.place(insn);
    v.write_bytes(place.segment, place.offset, &bytes[..n + STACK_BYTES])?;
    v.cpu.fpu.init_x87();
    Ok(())
}

pub fn fldenv(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    load(v, insn, 0)
}

pub fn frstor(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    load(v, insn, STACK_BYTES)
}

/// Loads the environment and, if they follow it, the registers.
fn load(v: &mut Vcpu, insn: &Instruction, stack_bytes: usize) -> Result<(), Fault> {
    check(v, insn)?;
    if checks::pending_x87(v)? == Pending::Frozen {
        return Ok(());
    }
    let format = Format::of(v, insn);
    let n = format.bytes();
    let mut bytes = [0; ENVIRONMENT_BYTES + STACK_BYTES];
    let place = v.place(insn);
    let linear = v.linear(place.segment, place.offset, n + stack_bytes, false)?;
    // AMD looks at the last byte first, as CR2 tells when it is in a page of its own.
    let last = linear.wrapping_add((n + stack_bytes) as u64 - 1);
    v.probe_linear(v.wrap_linear(last), 1, Access::read(v.user()))?;
    v.read_bytes(place.segment, place.offset, &mut bytes[..n + stack_bytes])?;
    let fields = format.decode(&bytes[..n]);
    let image = &mut v.cpu.fpu;
    image.set_top((fields[1] >> fsw::TOP_SHIFT & 7) as usize);
    image.set_control_and_status(fields[0] as u16, fields[1] as u16);
    image.set_u16(legacy::TAGS, abridged_tags(fields[2] as u16) as u16);
    image.set_pointers(format.pointers(&fields));
    for (i, st) in bytes[n..n + stack_bytes].chunks_exact(10).enumerate() {
        image.set_st(i, st);
    }
    Ok(())
}

impl Vcpu {
    /// Drives the FERR# pin.
    pub(super) fn set_ferr(&mut self, level: bool) {
        if self.ferr == level {
            return;
        }
        self.ferr = level;
        let listener = locked(&self.shared.ferr).clone();
        if let Some(listener) = listener {
            listener(level);
        }
    }
}

/// FERR# ends with the last pending exception.
pub fn update_ferr(v: &mut Vcpu) {
    if v.ferr && v.cpu.fpu.unmasked_exceptions() == 0 {
        v.set_ferr(false);
    }
}
