//! String instructions and their repetition (SDM vol. 1, 7.3.9).
//!
//! Theory: a repeated instruction runs element by element, and commits each: a fault leaves
//! (R)SI, (R)DI and (R)CX at the element that faulted.  After a bounded number of elements, or when
//! the vCPU is wanted, RIP stays at the instruction, which goes on after a look at interrupts.
//! Where source and destination are plain memory, MOVS, STOS, INS and OUTS take all elements up to a
//! page border at once; the device behind a port gets them in one call.

use super::host;
use super::operand::{mask, segment_number};
use crate::fault::Fault;
use crate::memory::PAGE;
use crate::mmu::physical;
use crate::mmu::walk::Access;
use crate::state::{cr0, flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Elements that a repeated instruction processes before it lets interrupts in.
const ELEMENTS_PER_STEP: u64 = 4096;

/// A decoded string instruction.
struct Form {
    kind: Kind,
    /// Bytes of an element.
    size: usize,
    /// Bytes of the address size, which is also that of the counter.
    address_size: usize,
    /// Segment of the source at (R)SI.
    segment: usize,
    repeated: bool,
    /// REPE's or REPNE's ZF to go on; only CMPS and SCAS look at it.
    while_zf: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

/// Executes a string instruction.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let form = form(insn)?;
    if !form.repeated {
        return element(v, &form);
    }
    let mut budget = ELEMENTS_PER_STEP;
    loop {
        let left = v.cpu.gpr[gpr::RCX] & mask(form.address_size);
        if left == 0 {
            return Ok(());
        }
        let done = match bulk(v, &form, left.min(budget)) {
            0 => {
                element(v, &form)?;
                1
            }
            done => done,
        };
        v.set_gpr(gpr::RCX, form.address_size, left - done);
        let compares = matches!(form.kind, Kind::Cmps | Kind::Scas);
        if compares && (v.cpu.rflags & flags::ZF != 0) != form.while_zf {
            return Ok(());
        }
        budget -= done.min(budget);
        let trap = v.cpu.rflags & flags::TF != 0;
        if left != done && (budget == 0 || trap || v.must_attend()) {
            v.next_rip = v.cpu.rip;
            return Ok(());
        }
    }
}

fn form(insn: &Instruction) -> Result<Form, Fault> {
    use Mnemonic::*;
    let (kind, size) = match insn.mnemonic() {
        Movsb => (Kind::Movs, 1),
        Movsw => (Kind::Movs, 2),
        Movsd => (Kind::Movs, 4),
        Movsq => (Kind::Movs, 8),
        Stosb => (Kind::Stos, 1),
        Stosw => (Kind::Stos, 2),
        Stosd => (Kind::Stos, 4),
        Stosq => (Kind::Stos, 8),
        Lodsb => (Kind::Lods, 1),
        Lodsw => (Kind::Lods, 2),
        Lodsd => (Kind::Lods, 4),
        Lodsq => (Kind::Lods, 8),
        Cmpsb => (Kind::Cmps, 1),
        Cmpsw => (Kind::Cmps, 2),
        Cmpsd => (Kind::Cmps, 4),
        Cmpsq => (Kind::Cmps, 8),
        Scasb => (Kind::Scas, 1),
        Scasw => (Kind::Scas, 2),
        Scasd => (Kind::Scas, 4),
        Scasq => (Kind::Scas, 8),
        Insb => (Kind::Ins, 1),
        Insw => (Kind::Ins, 2),
        Insd => (Kind::Ins, 4),
        Outsb => (Kind::Outs, 1),
        Outsw => (Kind::Outs, 2),
        Outsd => (Kind::Outs, 4),
        _ => return Err(Fault::UD),
    };
    Ok(Form {
        kind,
        size,
        address_size: address_size(insn),
        segment: segment_number(insn.memory_segment()),
        repeated: insn.has_rep_prefix() || insn.has_repne_prefix(),
        while_zf: insn.has_repe_prefix(),
    })
}

fn address_size(insn: &Instruction) -> usize {
    for i in 0..insn.op_count() {
        match insn.op_kind(i) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 4,
            _ => {}
        }
    }
    8
}

impl Form {
    fn source(&self, v: &Vcpu) -> u64 {
        v.cpu.gpr[gpr::RSI] & mask(self.address_size)
    }

    fn destination(&self, v: &Vcpu) -> u64 {
        v.cpu.gpr[gpr::RDI] & mask(self.address_size)
    }

    /// Moves (R)SI or (R)DI on by `elements`.
    fn advance(&self, v: &mut Vcpu, index: usize, elements: u64) {
        let bytes = elements.wrapping_mul(self.size as u64);
        let old = v.cpu.gpr[index];
        let new = if v.cpu.rflags & flags::DF != 0 {
            old.wrapping_sub(bytes)
        } else {
            old.wrapping_add(bytes)
        };
        v.set_gpr(index, self.address_size, new);
    }
}

/// One element; registers move on only if it didn't fault.
fn element(v: &mut Vcpu, form: &Form) -> Result<(), Fault> {
    let size = form.size;
    let (source, destination) = (form.source(v), form.destination(v));
    match form.kind {
        Kind::Movs => {
            let value = v.read(form.segment, source, size)?;
            v.write(seg::ES, destination, size, value)?;
        }
        Kind::Stos => v.write(seg::ES, destination, size, v.cpu.gpr[gpr::RAX])?,
        Kind::Lods => {
            let value = v.read(form.segment, source, size)?;
            v.set_gpr(gpr::RAX, size, value);
        }
        Kind::Cmps => {
            let first = v.read(form.segment, source, size)?;
            let second = v.read(seg::ES, destination, size)?;
            compare(v, size, first, second);
        }
        Kind::Scas => {
            let second = v.read(seg::ES, destination, size)?;
            compare(v, size, v.cpu.gpr[gpr::RAX], second);
        }
        Kind::Ins => {
            let port = v.cpu.gpr[gpr::RDX] as u16;
            v.check_port(port, size)?;
            // The device must not lose what memory then refuses.
            v.probe_write(seg::ES, destination, size)?;
            let value = v.port_read(port, size);
            v.write(seg::ES, destination, size, value)?;
        }
        Kind::Outs => {
            let port = v.cpu.gpr[gpr::RDX] as u16;
            v.check_port(port, size)?;
            let value = v.read(form.segment, source, size)?;
            v.port_write(port, size, value);
        }
    }
    if !matches!(form.kind, Kind::Stos | Kind::Scas | Kind::Ins) {
        form.advance(v, gpr::RSI, 1);
    }
    if !matches!(form.kind, Kind::Lods | Kind::Outs) {
        form.advance(v, gpr::RDI, 1);
    }
    Ok(())
}

fn compare(v: &mut Vcpu, size: usize, first: u64, second: u64) {
    let (_, after) = host::sub(size, first, second, v.cpu.rflags);
    v.set_arithmetic(after);
}

/// Plain memory under the elements of a string.
struct Run {
    /// Host and guest-physical address of the first element.
    host: *mut u8,
    address: u64,
    elements: u64,
}

/// Does up to `limit` elements of MOVS, STOS, INS or OUTS at once, if all of them are plain memory and nothing
/// can fault; how many.
fn bulk(v: &mut Vcpu, form: &Form, limit: u64) -> u64 {
    let checks_alignment = v.cpu.rflags & flags::AC != 0 && v.cpu.cr0 & cr0::AM != 0;
    let breakpoints = v.cpu.dr[7] & 0xFF != 0;
    let single = v.cpu.rflags & flags::TF != 0;
    if checks_alignment || breakpoints || single {
        return 0;
    }
    match form.kind {
        Kind::Stos => {
            let Some(to) = run(v, form, seg::ES, form.destination(v), true, limit) else {
                return 0;
            };
            let value = v.cpu.gpr[gpr::RAX];
            fill(v, form, &to, value);
            form.advance(v, gpr::RDI, to.elements);
            to.elements
        }
        Kind::Movs => {
            let from = run(v, form, form.segment, form.source(v), false, limit);
            let to = run(v, form, seg::ES, form.destination(v), true, limit);
            let (Some(from), Some(mut to)) = (from, to) else {
                return 0;
            };
            to.elements = to.elements.min(from.elements);
            copy(v, form, &from, &to);
            form.advance(v, gpr::RSI, to.elements);
            form.advance(v, gpr::RDI, to.elements);
            to.elements
        }
        Kind::Ins => input(v, form, limit),
        Kind::Outs => output(v, form, limit),
        _ => 0,
    }
}

/// INS over plain memory: the device is asked once for all elements.
fn input(v: &mut Vcpu, form: &Form, limit: u64) -> u64 {
    let port = v.cpu.gpr[gpr::RDX] as u16;
    if !may_stream(v, form, port) {
        return 0;
    }
    let Some(to) = run(v, form, seg::ES, form.destination(v), true, limit) else {
        return 0;
    };
    // By way of a buffer: the device may use the guest's memory meanwhile.
    let mut buffer = [0; PAGE as usize];
    let bytes = (to.elements * form.size as u64) as usize;
    v.port_read_string(port, form.size, &mut buffer[..bytes]);
    // SAFETY: `run` found all elements inside one page of RAM, upwards from `host`.
    unsafe { core::ptr::copy_nonoverlapping(buffer.as_ptr(), to.host, bytes) };
    note_run(v, form, &to);
    form.advance(v, gpr::RDI, to.elements);
    to.elements
}

/// OUTS over plain memory: the device gets all elements in one call.
fn output(v: &mut Vcpu, form: &Form, limit: u64) -> u64 {
    let port = v.cpu.gpr[gpr::RDX] as u16;
    if !may_stream(v, form, port) {
        return 0;
    }
    let source = form.source(v);
    let Some(from) = run(v, form, form.segment, source, false, limit) else {
        return 0;
    };
    let mut buffer = [0; PAGE as usize];
    let bytes = (from.elements * form.size as u64) as usize;
    // SAFETY: as in `input`.
    unsafe { core::ptr::copy_nonoverlapping(from.host, buffer.as_mut_ptr(), bytes) };
    v.port_write_string(port, form.size, &buffer[..bytes]);
    form.advance(v, gpr::RSI, from.elements);
    from.elements
}

/// Whether the port may be used, and memory goes upwards; if not, elements find out one by one.
fn may_stream(v: &mut Vcpu, form: &Form, port: u16) -> bool {
    v.cpu.rflags & flags::DF == 0 && v.check_port(port, form.size).is_ok()
}

/// The plain memory at `offset`, up to `limit` elements in the direction of DF and within a page.
fn run(
    v: &mut Vcpu,
    form: &Form,
    segment: usize,
    offset: u64,
    write: bool,
    limit: u64,
) -> Option<Run> {
    let size = form.size as u64;
    let down = v.cpu.rflags & flags::DF != 0;
    let linear = v.linear(segment, offset, form.size, write).ok()?;
    let within = linear % PAGE;
    let top = mask(form.address_size);
    if within + size > PAGE || top - offset < size - 1 {
        return None;
    }
    let elements = if down {
        limit
            .min(within / size + 1)
            .min((offset / size).saturating_add(1))
    } else {
        let room = top - offset;
        limit
            .min((PAGE - within) / size)
            .min(((room - (size - 1)) / size).saturating_add(1))
    };
    let last = if down {
        offset - (elements - 1) * size
    } else {
        offset + (elements - 1) * size
    };
    v.linear(segment, last, form.size, write).ok()?;
    let user = v.user();
    let access = if write {
        Access::write(user)
    } else {
        Access::read(user)
    };
    let page = v.translate(linear, access).ok()?;
    if v.in_assist && write && !v.assist_may_write(&page) {
        return None;
    }
    let unfit = if write {
        physical::IO | physical::ROM
    } else {
        physical::IO
    };
    if page.rights & unfit != 0 {
        return None;
    }
    Some(Run {
        // SAFETY: `within` is inside the page at `host`.
        host: unsafe { page.host.add(within as usize) },
        address: page.page + within,
        elements,
    })
}

/// Tells of the stores to all elements of a run.
fn note_run(v: &mut Vcpu, form: &Form, run: &Run) {
    let bytes = run.elements * form.size as u64;
    let first = if v.cpu.rflags & flags::DF != 0 {
        run.address + form.size as u64 - bytes
    } else {
        run.address
    };
    v.note_store(first, bytes);
}

/// STOS over a run.
fn fill(v: &mut Vcpu, form: &Form, to: &Run, value: u64) {
    macro_rules! fill {
        ($instruction:literal) => {
            // SAFETY: `run` found all elements inside one page of RAM; DF is cleared again.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    inout("rcx") to.elements => _,
                    inout("rdi") to.host => _,
                    in("rax") value,
                    options(nostack)
                );
            }
        };
    }
    let down = v.cpu.rflags & flags::DF != 0;
    match (form.size, down) {
        (1, false) => fill!("rep stosb"),
        (2, false) => fill!("rep stosw"),
        (4, false) => fill!("rep stosd"),
        (_, false) => fill!("rep stosq"),
        (1, true) => fill!("std; rep stosb; cld"),
        (2, true) => fill!("std; rep stosw; cld"),
        (4, true) => fill!("std; rep stosd; cld"),
        (_, true) => fill!("std; rep stosq; cld"),
    }
    note_run(v, form, to);
}

/// MOVS over two runs: the host's own, so overlapping strings repeat as they do element by element.
fn copy(v: &mut Vcpu, form: &Form, from: &Run, to: &Run) {
    macro_rules! copy {
        ($instruction:literal) => {
            // SAFETY: `run` found all elements inside a page each; DF is cleared again.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    inout("rcx") to.elements => _,
                    inout("rsi") from.host => _,
                    inout("rdi") to.host => _,
                    options(nostack)
                );
            }
        };
    }
    let down = v.cpu.rflags & flags::DF != 0;
    match (form.size, down) {
        (1, false) => copy!("rep movsb"),
        (2, false) => copy!("rep movsw"),
        (4, false) => copy!("rep movsd"),
        (_, false) => copy!("rep movsq"),
        (1, true) => copy!("std; rep movsb; cld"),
        (2, true) => copy!("std; rep movsw; cld"),
        (4, true) => copy!("std; rep movsd; cld"),
        (_, true) => copy!("std; rep movsq; cld"),
    }
    note_run(v, form, to);
}
