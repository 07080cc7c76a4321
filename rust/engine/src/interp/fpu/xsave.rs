//! Saving and restoring the state as such: FXSAVE, the XSAVE family (SDM vol. 1, chapter 13),
//! MXCSR, VZEROUPPER and VZEROALL.
//!
//! The guest's standard format has the host's layout, as CPUID.0Dh tells it, and is that of
//! `CpuState::fpu`.  A component is in use when it isn't in
//! its initial configuration.  XSAVES and XRSTORS aren't offered.

use super::checks::{self, Unit};
use super::image::{Pointers, ZMM_BYTES};
use crate::fault::Fault;
use crate::fpustate::{FCW_DEFAULT, MXCSR_DEFAULT, layout, legacy};
use crate::host::component;
use crate::mmu::segment::violation;
use crate::mmu::walk::Access;
use crate::state::{XSAVE_BYTES, XsaveArea, cr0, cr4, gpr};
use crate::vcpu::Vcpu;
use iced_x86::{EncodingKind, Instruction};

/// Bytes of an FXSAVE area, and of the XSAVE area's header behind it.
const FXSAVE_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;
const EXTENDED: usize = FXSAVE_BYTES + HEADER_BYTES;
/// XCOMP_BV bit 63: compacted format.
const COMPACTED: u64 = 1 << 63;

/// The components behind the header: (index, offset in the standard format, bytes).
fn places() -> [(u32, usize, usize); 4] {
    let l = layout();
    [
        (2, l.avx, 256),
        (5, l.opmask, 64),
        (6, l.zmm_hi256, 512),
        (7, l.hi16_zmm, 1024),
    ]
}

/// Offset and size in bytes of component `index` in the guest's standard format (CPUID.0Dh).
pub fn component_place(index: u32) -> Option<(usize, usize)> {
    let (_, offset, bytes) = places().into_iter().find(|p| p.0 == index)?;
    (offset != 0).then_some((offset, bytes))
}

/// Which of the saving instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Standard,
    Optimized,
    Compact,
}

/// XINUSE: the components that aren't in their initial configuration, as XGETBV with ECX=1 tells.
pub fn in_use(image: &XsaveArea) -> u64 {
    let b = &image.0;
    let zero = |range: &[u8]| range.iter().all(|&x| x == 0);
    let x87 = image.fcw() != FCW_DEFAULT || !zero(&b[2..24]) || !zero(&b[legacy::ST..legacy::XMM]);
    let mut bits = if x87 { component::X87 } else { 0 };
    for n in 0..32 {
        let value = image.vector(n);
        let used = |range: &[u8], bit| if zero(range) { 0 } else { bit };
        bits |= if n < 16 {
            used(&value[..16], component::SSE)
                | used(&value[16..32], component::AVX)
                | used(&value[32..], component::ZMM_HI256)
        } else {
            used(&value, component::HI16_ZMM)
        };
    }
    if (0..8).any(|k| image.opmask(k) != 0) {
        bits |= component::OPMASK;
    }
    bits
}

/// Writes a component in the guest's format and returns the bytes written: registers that the mode
/// hasn't are left out.
fn copy_out(image: &XsaveArea, index: u32, code64: bool, out: &mut [u8]) -> usize {
    let registers = if code64 { 16 } else { 8 };
    // (count, first register, part of the register)
    let (count, first, part) = match index {
        2 => (registers, 0, 16..32),
        6 => (registers, 0, 32..64),
        7 if code64 => (16, 16, 0..64),
        5 => {
            for (k, slot) in out.chunks_exact_mut(8).enumerate() {
                slot.copy_from_slice(&image.opmask(k).to_le_bytes());
            }
            return out.len();
        }
        _ => return 0,
    };
    for (n, slot) in out.chunks_exact_mut(part.len()).take(count).enumerate() {
        slot.copy_from_slice(&image.vector(first + n)[part.clone()]);
    }
    count * part.len()
}

/// The reverse of `copy_out`.
fn copy_in(image: &mut XsaveArea, index: u32, code64: bool, bytes: &[u8]) {
    let registers = if code64 { 16 } else { 8 };
    let mut merge = |n: usize, from: usize, part: &[u8]| {
        let mut value = image.vector(n);
        value[from..from + part.len()].copy_from_slice(part);
        image.set_vector(n, &value);
    };
    match index {
        2 => (0..registers).for_each(|n| merge(n, 16, &bytes[16 * n..16 * n + 16])),
        6 => (0..registers).for_each(|n| merge(n, 32, &bytes[32 * n..32 * n + 32])),
        7 if code64 => (0..16).for_each(|n| merge(16 + n, 0, &bytes[64 * n..64 * n + 64])),
        5 => {
            for (k, part) in bytes.chunks_exact(8).take(8).enumerate() {
                let value = part.iter().rev().fold(0, |v, &b| v << 8 | b as u64);
                image.set_opmask(k, value);
            }
        }
        _ => {}
    }
}

/// FIP, FDP and the selectors: with REX.W 64-bit offsets, else 32-bit ones with selectors.
fn pointers_out(image: &XsaveArea, rex_w: bool, out: &mut [u8]) {
    let p = image.pointers();
    let with = |offset: u64, selector: u16| {
        if rex_w {
            offset
        } else {
            offset & 0xFFFF_FFFF | (selector as u64) << 32
        }
    };
    out[legacy::FIP..legacy::FDP].copy_from_slice(&with(p.fip, p.fcs).to_le_bytes());
    out[legacy::FDP..legacy::MXCSR].copy_from_slice(&with(p.fdp, p.fds).to_le_bytes());
}

fn pointers_in(bytes: &[u8], rex_w: bool) -> Pointers {
    let at = |i: usize| (0..8).fold(0, |v, n| v | (bytes[i + n] as u64) << (8 * n));
    let (fip, fdp) = (at(legacy::FIP), at(legacy::FDP));
    let fop = u16::from_le_bytes([bytes[legacy::FOP], bytes[legacy::FOP + 1]]) & 0x7FF;
    if rex_w {
        return Pointers {
            fop,
            fip,
            fdp,
            ..Pointers::default()
        };
    }
    Pointers {
        fop,
        fip: fip & 0xFFFF_FFFF,
        fcs: (fip >> 32) as u16,
        fdp: fdp & 0xFFFF_FFFF,
        fds: (fdp >> 32) as u16,
    }
}

fn x87_out(image: &XsaveArea, rex_w: bool, out: &mut [u8]) {
    out[..legacy::FIP].copy_from_slice(&image.0[..legacy::FIP]);
    pointers_out(image, rex_w, out);
    for i in 0..8 {
        let at = legacy::ST + 16 * i;
        out[at..at + 10].copy_from_slice(image.st(i));
        out[at + 10..at + 16].fill(0);
    }
}

fn x87_in(image: &mut XsaveArea, rex_w: bool, bytes: &[u8]) {
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    image.set_control_and_status(word(legacy::FCW), word(legacy::FSW));
    image.set_u16(legacy::TAGS, bytes[legacy::TAGS] as u16);
    image.set_pointers(pointers_in(bytes, rex_w));
    for i in 0..8 {
        let at = legacy::ST + 16 * i;
        image.set_st(i, &bytes[at..at + 10]);
    }
}

fn mxcsr_out(v: &Vcpu, out: &mut [u8]) {
    let (value, mask) = (v.cpu.fpu.mxcsr(), v.native.traits.mxcsr_mask);
    out[legacy::MXCSR..legacy::MXCSR_MASK].copy_from_slice(&value.to_le_bytes());
    out[legacy::MXCSR_MASK..legacy::ST].copy_from_slice(&mask.to_le_bytes());
}

/// MXCSR in an area; #GP(0) for reserved bits.
fn mxcsr_in(v: &Vcpu, bytes: &[u8]) -> Result<u32, Fault> {
    let b = &bytes[legacy::MXCSR..legacy::MXCSR_MASK];
    let value = b.iter().rev().fold(0, |v, &x| v << 8 | x as u32);
    if value & !v.native.traits.mxcsr_mask == 0 {
        Ok(value)
    } else {
        Err(Fault::GP0)
    }
}

/// Bytes of the XMM registers that the mode has.
fn xmm_bytes(code64: bool) -> usize {
    if code64 { 16 * 16 } else { 8 * 16 }
}

/// Whether 64-bit FIP and FDP are asked for.
fn is_rex_w(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Fxsave64 | Fxrstor64 | Xsave64 | Xsaveopt64 | Xsavec64 | Xrstor64
    )
}

/// The linear address of the area; #GP(0) if it isn't a multiple of `alignment`.
fn area_address(
    v: &Vcpu,
    insn: &Instruction,
    length: usize,
    alignment: u64,
    write: bool,
) -> Result<u64, Fault> {
    let place = v.place(insn);
    let linear = v.linear(place.segment, place.offset, 1, write)?;
    if linear & (alignment - 1) != 0 {
        return Err(Fault::GP0);
    }
    v.linear(place.segment, place.offset, length, write)
        .map_err(|_| violation(place.segment))
}

fn fxsave_checks(v: &Vcpu, insn: &Instruction) -> Result<(), Fault> {
    checks::available(v, insn)?;
    checks::enabled(v, Unit::X87)
}

pub fn fxsave(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    fxsave_checks(v, insn)?;
    let linear = area_address(v, insn, FXSAVE_BYTES, 16, true)?;
    let code64 = v.cpu.code64();
    let mut out = [0; legacy::BYTES];
    x87_out(&v.cpu.fpu, is_rex_w(insn), &mut out);
    mxcsr_out(v, &mut out);
    let end = legacy::XMM + xmm_bytes(code64);
    out[legacy::XMM..end].copy_from_slice(&v.cpu.fpu.0[legacy::XMM..end]);
    let user = v.user();
    v.probe_linear(linear, FXSAVE_BYTES, Access::write(user))?;
    v.write_linear_bytes(linear, &out[..end], user)
}

pub fn fxrstor(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    fxsave_checks(v, insn)?;
    let linear = area_address(v, insn, FXSAVE_BYTES, 16, false)?;
    let mut bytes = [0; FXSAVE_BYTES];
    v.read_linear_bytes(linear, &mut bytes, v.user())?;
    let mxcsr = mxcsr_in(v, &bytes)?;
    let end = legacy::XMM + xmm_bytes(v.cpu.code64());
    let image = &mut v.cpu.fpu;
    image.set_mxcsr(mxcsr);
    x87_in(image, is_rex_w(insn), &bytes);
    image.0[legacy::XMM..end].copy_from_slice(&bytes[legacy::XMM..end]);
    Ok(())
}

/// #UD and #NM of the XSAVE family, and the requested-feature bitmap.
fn requested(v: &Vcpu, insn: &Instruction) -> Result<u64, Fault> {
    checks::available(v, insn)?;
    if v.cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    if v.cpu.cr0 & cr0::TS != 0 {
        return Err(Fault::NM);
    }
    let asked = v.cpu.gpr[gpr::RDX] << 32 | v.cpu.gpr[gpr::RAX] & 0xFFFF_FFFF;
    Ok(asked & v.cpu.xcr0)
}

/// The end of the standard format with the components `bits`.
fn standard_end(bits: u64) -> usize {
    let end = |p: &(u32, usize, usize)| if bits >> p.0 & 1 != 0 { p.1 + p.2 } else { 0 };
    places().iter().map(end).max().unwrap_or(0).max(EXTENDED)
}

/// Calls `each` with (index, offset, bytes) of the extended components in `bits`, in the standard
/// format or, one after the other, in the compacted format of `compacted`.
fn extended_places(
    bits: u64,
    compacted: Option<u64>,
    mut each: impl FnMut(u32, usize, usize),
) -> usize {
    let mut next = EXTENDED;
    for (index, offset, bytes) in places() {
        let at = match compacted {
            None => offset,
            Some(present) if present >> index & 1 != 0 => {
                next += bytes;
                next - bytes
            }
            Some(_) => continue,
        };
        if bits >> index & 1 != 0 {
            each(index, at, bytes);
        }
    }
    next
}

/// XSAVE, XSAVEOPT and XSAVEC (SDM vol. 1, 13.7, 13.9, 13.10).
pub fn xsave(v: &mut Vcpu, insn: &Instruction, form: Form) -> Result<(), Fault> {
    let rfbm = requested(v, insn)?;
    let compact = form == Form::Compact;
    let end = if compact {
        extended_places(0, Some(rfbm), |_, _, _| {})
    } else {
        standard_end(rfbm)
    };
    let linear = area_address(v, insn, end, 64, true)?;
    let user = v.user();
    v.probe_linear(linear, end, Access::write(user))?;
    let old_present = v.read_linear(linear.wrapping_add(FXSAVE_BYTES as u64), 8, user)?;
    let mut used = in_use(&v.cpu.fpu);
    if compact && v.cpu.fpu.mxcsr() != MXCSR_DEFAULT {
        used |= component::SSE;
    }
    let saved = if form == Form::Standard {
        rfbm
    } else {
        rfbm & used
    };
    let with_mxcsr = if compact {
        saved & component::SSE != 0
    } else {
        rfbm & (component::SSE | component::AVX) != 0
    };
    let mut area = Area::new();
    area.add_legacy(v, is_rex_w(insn), saved, with_mxcsr);
    area.add_extended(v, saved, compact.then_some(rfbm));
    let kept = if compact { 0 } else { old_present & !rfbm };
    area.add_header(kept | used & rfbm, compact.then_some(rfbm));
    for &(at, bytes) in &area.pieces {
        let data = &area.bytes[at..at + bytes];
        v.write_linear_bytes(linear.wrapping_add(at as u64), data, user)?;
    }
    Ok(())
}

/// An area being saved: what isn't in `pieces` (offset, bytes) stays as it is in memory.
struct Area {
    bytes: [u8; XSAVE_BYTES],
    pieces: Vec<(usize, usize)>,
}

impl Area {
    fn new() -> Area {
        Area {
            bytes: [0; XSAVE_BYTES],
            pieces: Vec::new(),
        }
    }

    fn add_legacy(&mut self, v: &Vcpu, rex_w: bool, saved: u64, with_mxcsr: bool) {
        let image = &v.cpu.fpu;
        if saved & component::X87 != 0 {
            x87_out(image, rex_w, &mut self.bytes);
            self.pieces.push((0, legacy::MXCSR));
            self.pieces.push((legacy::ST, legacy::XMM - legacy::ST));
        }
        if with_mxcsr {
            mxcsr_out(v, &mut self.bytes);
            self.pieces.push((legacy::MXCSR, 8));
        }
        if saved & component::SSE != 0 {
            let length = xmm_bytes(v.cpu.code64());
            let range = legacy::XMM..legacy::XMM + length;
            self.bytes[range.clone()].copy_from_slice(&image.0[range]);
            self.pieces.push((legacy::XMM, length));
        }
    }

    fn add_extended(&mut self, v: &Vcpu, saved: u64, compacted: Option<u64>) {
        let (image, code64) = (&v.cpu.fpu, v.cpu.code64());
        extended_places(saved, compacted, |index, at, bytes| {
            let written = copy_out(image, index, code64, &mut self.bytes[at..at + bytes]);
            self.pieces.push((at, written));
        });
    }

    fn add_header(&mut self, present: u64, compacted: Option<u64>) {
        let header = &mut self.bytes[FXSAVE_BYTES..EXTENDED];
        header[..8].copy_from_slice(&present.to_le_bytes());
        if let Some(layout) = compacted {
            header[8..16].copy_from_slice(&(layout | COMPACTED).to_le_bytes());
        }
        let written = if compacted.is_some() { 16 } else { 8 };
        self.pieces.push((FXSAVE_BYTES, written));
    }
}

/// XRSTOR of either format (SDM vol. 1, 13.8).
pub fn xrstor(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let rfbm = requested(v, insn)?;
    let linear = area_address(v, insn, EXTENDED, 64, false)?;
    let user = v.user();
    let mut area = [0; XSAVE_BYTES];
    v.read_linear_bytes(linear, &mut area[..EXTENDED], user)?;
    let (present, compacted) = check_header(v, &area[FXSAVE_BYTES..EXTENDED])?;
    let restored = rfbm & present;
    let end = match compacted {
        Some(layout) => extended_places(0, Some(layout), |_, _, _| {}),
        None => standard_end(restored),
    };
    let linear = area_address(v, insn, end, 64, false)?;
    v.read_linear_bytes(linear, &mut area[..end], user)?;
    let mxcsr = restored_mxcsr(v, &area, rfbm, present, compacted.is_some())?;
    let code64 = v.cpu.code64();
    let image = &mut v.cpu.fpu;
    if let Some(mxcsr) = mxcsr {
        image.set_mxcsr(mxcsr);
    }
    restore_legacy(image, &area, insn, rfbm, restored, code64);
    extended_places(rfbm, compacted, |index, at, bytes| {
        if restored >> index & 1 != 0 {
            copy_in(image, index, code64, &area[at..at + bytes]);
        }
    });
    for (index, _, bytes) in places() {
        if rfbm & !restored & 1 << index != 0 {
            copy_in(image, index, code64, &[0; XSAVE_BYTES][..bytes]);
        }
    }
    Ok(())
}

/// XSTATE_BV, and XCOMP_BV's components if the format is the compacted one; #GP(0) for a header
/// that isn't valid.
fn check_header(v: &Vcpu, header: &[u8]) -> Result<(u64, Option<u64>), Fault> {
    let at = |i: usize| {
        header[i..i + 8]
            .iter()
            .rev()
            .fold(0, |n, &b| n << 8 | b as u64)
    };
    let (present, xcomp) = (at(0), at(8));
    let compacted = xcomp & COMPACTED != 0;
    let layout = xcomp & !COMPACTED;
    let valid = if compacted {
        checks::offers_compaction(v)
            && layout & !v.cpu.xcr0 == 0
            && present & !layout == 0
            && header[16..].iter().all(|&b| b == 0)
    } else {
        present & !v.cpu.xcr0 == 0 && header[8..24].iter().all(|&b| b == 0)
    };
    if valid {
        Ok((present, compacted.then_some(layout)))
    } else {
        Err(Fault::GP0)
    }
}

/// The MXCSR that XRSTOR loads, if any.
fn restored_mxcsr(
    v: &Vcpu,
    area: &[u8; XSAVE_BYTES],
    rfbm: u64,
    present: u64,
    compacted: bool,
) -> Result<Option<u32>, Fault> {
    if compacted {
        return match (rfbm & component::SSE != 0, present & component::SSE != 0) {
            (false, _) => Ok(None),
            (true, false) => Ok(Some(MXCSR_DEFAULT)),
            (true, true) => mxcsr_in(v, area).map(Some),
        };
    }
    if rfbm & (component::SSE | component::AVX) == 0 {
        return Ok(None);
    }
    mxcsr_in(v, area).map(Some)
}

/// Restores or initializes x87 and XMM registers.
fn restore_legacy(
    image: &mut XsaveArea,
    area: &[u8],
    insn: &Instruction,
    rfbm: u64,
    restored: u64,
    code64: bool,
) {
    if restored & component::X87 != 0 {
        x87_in(image, is_rex_w(insn), area);
    } else if rfbm & component::X87 != 0 {
        image.init_x87();
        image.0[legacy::ST..legacy::XMM].fill(0);
    }
    let end = legacy::XMM + xmm_bytes(code64);
    if restored & component::SSE != 0 {
        image.0[legacy::XMM..end].copy_from_slice(&area[legacy::XMM..end]);
    } else if rfbm & component::SSE != 0 {
        image.0[legacy::XMM..end].fill(0);
    }
}

fn mxcsr_checks(v: &Vcpu, insn: &Instruction) -> Result<(), Fault> {
    checks::available(v, insn)?;
    let unit = if insn.encoding() == EncodingKind::VEX {
        Unit::Avx
    } else {
        Unit::Sse { mmx: false }
    };
    checks::enabled(v, unit)
}

pub fn ldmxcsr(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    mxcsr_checks(v, insn)?;
    let value = v.read_operand(insn, 0)? as u32;
    if value & !v.native.traits.mxcsr_mask != 0 {
        return Err(Fault::GP0);
    }
    v.cpu.fpu.set_mxcsr(value);
    Ok(())
}

pub fn stmxcsr(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    mxcsr_checks(v, insn)?;
    let value = v.cpu.fpu.mxcsr();
    v.write_operand(insn, 0, value as u64)
}

/// VZEROUPPER and VZEROALL: clears registers 0 to 15 (0 to 7 outside 64-bit mode) above `kept`
/// bytes.
pub fn vzero(v: &mut Vcpu, insn: &Instruction, kept: usize) -> Result<(), Fault> {
    checks::available(v, insn)?;
    checks::enabled(v, Unit::Avx)?;
    let count = if v.cpu.code64() { 16 } else { 8 };
    for n in 0..count {
        let mut value = [0; ZMM_BYTES];
        value[..kept].copy_from_slice(&v.cpu.fpu.vector(n)[..kept]);
        v.cpu.fpu.set_vector(n, &value);
    }
    Ok(())
}
