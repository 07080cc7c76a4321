//! Delivery of interrupts and exceptions (SDM vol. 3, chapter 7; vol. 2, INT n).
//!
//! `Vcpu::deliver` takes what is asynchronous or raised by the processor: it can't fail, as faults on
//! the way become double and triple faults.  INT n and its kin go through `software_interrupt`,
//! where a fault is one of the instruction.  VME's redirection bitmap isn't modelled (CPUID hides it).

use super::debug::DR7_GD;
use super::descriptor::{Descriptor, null_segment, selector_fault, system_type};
use super::frame::{Frame, Stack};
use super::task::Cause;
use crate::fault::{Fault, vector};
use crate::mmu::segment::canonical;
use crate::state::{Segment, flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic};

/// Error code bits (SDM vol. 3, figure 7-7): the event came from outside of the program; the index
/// is one of the IDT.
const EXT: u32 = 1 << 0;
const IDT: u32 = 1 << 1;

/// Where an event comes from, which decides about privilege checks, RIP and error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// INT n, INT3, INTO.
    Software,
    /// INT1: software, but delivered without privilege checks.
    PrivilegedSoftware,
    /// A fault or trap of the processor.
    Exception,
    Nmi,
    External,
}

/// Something to deliver through the IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub vector: u8,
    pub error_code: Option<u32>,
    pub source: Source,
    /// CR2 for #PF.
    pub address: u64,
}

impl Event {
    pub fn fault(fault: Fault) -> Event {
        let Fault {
            vector,
            error_code,
            address,
        } = fault;
        Event {
            vector,
            error_code,
            source: Source::Exception,
            address,
        }
    }

    pub fn trap(vector: u8) -> Event {
        Event {
            vector,
            error_code: None,
            source: Source::Exception,
            address: 0,
        }
    }

    pub fn software(vector: u8) -> Event {
        Event {
            source: Source::Software,
            ..Event::trap(vector)
        }
    }

    pub fn nmi() -> Event {
        Event {
            source: Source::Nmi,
            ..Event::trap(crate::fault::vector::NMI)
        }
    }

    pub fn external(vector: u8) -> Event {
        Event {
            source: Source::External,
            ..Event::trap(vector)
        }
    }
}

/// How an exception combines with one raised while it is delivered (SDM vol. 3, table 7-4).
#[derive(PartialEq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: &Event) -> Class {
    if event.source != Source::Exception {
        return Class::Benign;
    }
    match event.vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What follows `first` when its delivery raises `second` (SDM vol. 3, table 7-5); None: shutdown.
fn combine(first: &Event, second: Fault) -> Option<Event> {
    let second = Event::fault(second);
    let severe = matches!(class(&second), Class::Contributory | Class::PageFault);
    let double = match class(first) {
        Class::DoubleFault => return None,
        Class::Contributory => class(&second) == Class::Contributory,
        Class::PageFault => severe,
        Class::Benign => false,
    };
    if !double {
        return Some(second);
    }
    Some(Event::fault(Fault::with_code(vector::DF, 0)))
}

/// Whether RF is set in the flags that `event` pushes: fault-class exceptions but #DB, so that an
/// instruction breakpoint doesn't hit again (SDM vol. 3, 18.3.1.1).
fn sets_resume_flag(event: &Event) -> bool {
    let traps = [
        vector::DB,
        vector::NMI,
        vector::BP,
        vector::OF,
        vector::DF,
        vector::MC,
    ];
    event.source == Source::Exception && !traps.contains(&event.vector)
}

/// A usable gate of the IDT.
struct Gate {
    descriptor: Descriptor,
    /// Bytes of each value pushed.
    size: usize,
}

impl Vcpu {
    /// Delivers an event with RIP as it stands; faults on the way become double and triple faults.
    pub fn deliver(&mut self, event: Event) {
        let mut event = event;
        self.cpu.shadow = 0;
        // Debug exceptions end HLT, too.
        self.cpu.halted = false;
        while let Err(fault) = self.enter_handler(&event, self.cpu.rip) {
            match combine(&event, fault) {
                Some(next) => event = next,
                None => {
                    self.cpu.shutdown = true;
                    return;
                }
            }
        }
    }

    /// INT n, INT3, INTO and INT1: the handler returns to the next instruction.
    fn software_interrupt(&mut self, event: Event) -> Result<(), Fault> {
        self.enter_handler(&event, self.next_rip)?;
        self.next_rip = self.cpu.rip;
        // The handler's TF is clear: no single-step trap follows.
        self.single_step = false;
        Ok(())
    }

    /// Goes to the handler, pushing `return_rip`; a fault leaves everything but CR2 as it was.
    fn enter_handler(&mut self, event: &Event, return_rip: u64) -> Result<(), Fault> {
        if event.vector == vector::PF && event.source == Source::Exception {
            self.cpu.cr2 = event.address;
        }
        let entered = if self.cpu.protected() {
            self.enter_through_idt(event, return_rip)
        } else {
            self.enter_through_ivt(event.vector, return_rip)
        };
        let selector_code = [vector::TS, vector::NP, vector::SS, vector::GP];
        entered.map_err(|mut fault| {
            if event.source != Source::Software && selector_code.contains(&fault.vector) {
                fault.error_code = fault.error_code.map(|code| code | EXT);
            }
            fault
        })?;
        if event.vector == vector::DB && event.source == Source::Exception {
            self.cpu.dr[7] &= !DR7_GD;
        }
        Ok(())
    }

    /// Real-address mode: the interrupt vector table (SDM vol. 3, 22.1.4).
    fn enter_through_ivt(&mut self, vector: u8, return_rip: u64) -> Result<(), Fault> {
        let offset = vector as u64 * 4;
        if offset + 3 > self.cpu.idtr.limit as u64 {
            return Err(Fault::GP0);
        }
        let at = self.wrap_linear(self.cpu.idtr.base.wrapping_add(offset));
        let pointer = self.read_linear(at, 4, false)?;
        let mut frame = Frame::default();
        frame
            .push(self.cpu.rflags)
            .push(self.cpu.seg[seg::CS].selector as u64)
            .push(return_rip);
        let mut stack = self.current_stack();
        self.push_frame(&mut stack, 2, &frame)?;
        self.enter_stack(stack);
        self.cpu.rflags &= !(flags::IF | flags::TF | flags::AC | flags::RF);
        let cs = self.real_segment(seg::CS, (pointer >> 16) as u16);
        self.enter_code(cs, pointer & 0xFFFF, 0);
        Ok(())
    }

    fn enter_through_idt(&mut self, event: &Event, return_rip: u64) -> Result<(), Fault> {
        let gate = self.read_gate(event)?;
        let mut image = self.cpu.rflags;
        if sets_resume_flag(event) {
            image |= flags::RF;
        }
        if gate.descriptor.system_type() == system_type::TASK_GATE {
            let cause = Cause::Interrupt {
                error_code: event.error_code,
            };
            return self.task_through_gate(gate.descriptor, cause, return_rip, image);
        }
        let (cs, cpl) = self.gate_code(gate.descriptor.gate_selector())?;
        let mut frame = Frame::default();
        let mut stack = self.handler_stack(&gate, &cs, cpl, &mut frame)?;
        let rip = self.checked_rip(&cs, gate.descriptor.gate_offset())?;
        frame
            .push(image)
            .push(self.cpu.seg[seg::CS].selector as u64)
            .push(return_rip);
        if let Some(code) = event.error_code {
            frame.push(code as u64);
        }
        self.push_frame(&mut stack, gate.size, &frame)?;
        self.enter_stack(stack);
        if self.cpu.v86() {
            for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
                self.cpu.seg[index] = null_segment(0, 0xFFFF);
            }
        }
        self.cpu.rflags &= !(flags::TF | flags::NT | flags::VM | flags::RF);
        // Trap gates have the lowest type bit set.
        if gate.descriptor.system_type() & 1 == 0 {
            self.cpu.rflags &= !flags::IF;
        }
        self.enter_code(cs, rip, cpl);
        Ok(())
    }

    /// The event's gate, checked as far as the gate itself goes.
    fn read_gate(&mut self, event: &Event) -> Result<Gate, Fault> {
        use system_type::*;
        let code = (event.vector as u32) << 3 | IDT;
        let bad = Err(Fault::with_code(vector::GP, code));
        let long = self.cpu.long_mode();
        let bytes = if long { 16 } else { 8 };
        let offset = event.vector as u64 * bytes;
        if offset + bytes - 1 > self.cpu.idtr.limit as u64 {
            return bad;
        }
        let at = self.wrap_linear(self.cpu.idtr.base.wrapping_add(offset));
        let raw = self.read_linear(at, 8, false)?;
        let mut descriptor = Descriptor { raw, upper: 0 };
        if long {
            let upper = self.read_linear(at.wrapping_add(8), 8, false)?;
            if upper >> 32 & 0x1F00 != 0 {
                return bad;
            }
            descriptor.upper = upper as u32;
        }
        let size = match descriptor.system_type() {
            INTERRUPT_GATE32 | TRAP_GATE32 if long => 8,
            INTERRUPT_GATE32 | TRAP_GATE32 => 4,
            INTERRUPT_GATE16 | TRAP_GATE16 | TASK_GATE if !long => 2,
            _ => return bad,
        };
        if event.source == Source::Software && descriptor.dpl() < self.cpu.cpl {
            return bad;
        }
        if !descriptor.present() {
            return Err(Fault::with_code(vector::NP, code));
        }
        Ok(Gate { descriptor, size })
    }

    /// The stack that the handler in `cs` runs on; `frame` gets what is pushed for a change of it.
    fn handler_stack(
        &mut self,
        gate: &Gate,
        cs: &Segment,
        cpl: u8,
        frame: &mut Frame,
    ) -> Result<Stack, Fault> {
        let inner = cpl < self.cpu.cpl;
        if self.cpu.v86() && cpl != 0 {
            // From V86 mode only a nonconforming handler at level 0 will do.
            return Err(selector_fault(vector::GP, cs.selector));
        }
        let old_ss = self.cpu.seg[seg::SS];
        let old_rsp = self.cpu.gpr[gpr::RSP];
        if self.cpu.long_mode() {
            frame.push(old_ss.selector as u64).push(old_rsp);
            return self.handler_stack64(gate.descriptor.gate_ist(), inner, cpl);
        }
        if !inner {
            return Ok(self.current_stack());
        }
        let (selector, pointer) = self.tss_stack(cpl)?;
        let segment = self.stack_segment(selector, cpl, vector::TS)?;
        if self.cpu.v86() {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                frame.push(self.cpu.seg[index].selector as u64);
            }
        }
        frame.push(old_ss.selector as u64).push(old_rsp);
        Ok(Stack::inner(segment, pointer, cpl))
    }

    /// Long mode: by IST, by privilege, or the current one; aligned to 16 bytes (SDM vol. 3, 7.14.2).
    fn handler_stack64(&mut self, ist: u64, inner: bool, cpl: u8) -> Result<Stack, Fault> {
        let pointer = if ist != 0 {
            self.tss_pointer64(0x24 + (ist - 1) * 8)?
        } else if inner {
            self.tss_pointer64(4 + cpl as u64 * 8)?
        } else {
            self.cpu.gpr[gpr::RSP]
        };
        let segment = if inner {
            self.null_stack_segment(cpl as u16)
        } else {
            self.cpu.seg[seg::SS]
        };
        Ok(Stack {
            segment,
            flat: true,
            pointer: pointer & !0xF,
            user: cpl == 3,
            error_code: 0,
        })
    }

    /// A 64-bit stack pointer from the TSS.
    pub(super) fn tss_pointer64(&mut self, offset: u64) -> Result<u64, Fault> {
        if offset + 7 > self.cpu.tr.limit as u64 {
            let tss = self.cpu.tr.selector;
            return Err(selector_fault(vector::TS, tss));
        }
        let pointer = self.read_linear(self.cpu.tr.base.wrapping_add(offset), 8, false)?;
        if !canonical(pointer) {
            return Err(Fault::SS0);
        }
        Ok(pointer)
    }

    /// SS and (E)SP for privilege level `cpl` from a 16- or 32-bit TSS (SDM vol. 3, 8.2.1 and 8.6).
    pub(super) fn tss_stack(&mut self, cpl: u8) -> Result<(u16, u64), Fault> {
        let wide = self.cpu.tr.attributes & system_type::WIDE != 0;
        let (offset, size) = if wide {
            (4 + cpl as u64 * 8, 4)
        } else {
            (2 + cpl as u64 * 4, 2)
        };
        if offset + size + 1 > self.cpu.tr.limit as u64 {
            let tss = self.cpu.tr.selector;
            return Err(selector_fault(vector::TS, tss));
        }
        let at = self.cpu.tr.base.wrapping_add(offset);
        let pointer = self.read_linear(self.wrap_linear(at), size as usize, false)?;
        let at = self.wrap_linear(at.wrapping_add(size));
        let selector = self.read_linear(at, 2, false)? as u16;
        Ok((selector, pointer))
    }
}

/// INT n, INT3, INTO and INT1 (SDM vol. 2, INT n/INTO/INT3/INT1).
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    let event = match insn.mnemonic() {
        Mnemonic::Int if v.cpu.v86() && v.cpu.iopl() < 3 => return Some(Err(Fault::GP0)),
        Mnemonic::Int => Event::software(insn.immediate8()),
        Mnemonic::Int3 => Event::software(vector::BP),
        Mnemonic::Into if v.cpu.rflags & flags::OF == 0 => return Some(Ok(())),
        Mnemonic::Into => Event::software(vector::OF),
        Mnemonic::Int1 => return Some(int1(v)),
        _ => return None,
    };
    Some(v.software_interrupt(event))
}

/// INT1 is a #DB, and takes those along that MOV SS held off.
fn int1(v: &mut Vcpu) -> Result<(), Fault> {
    v.software_interrupt(Event {
        source: Source::PrivilegedSoftware,
        ..Event::trap(vector::DB)
    })?;
    let held = std::mem::take(&mut v.cpu.pending_db);
    if held != 0 {
        v.record_debug(held);
    }
    Ok(())
}
