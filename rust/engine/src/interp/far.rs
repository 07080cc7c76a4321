//! Far control transfers: JMP, CALL, RET and IRET between segments (SDM vol. 2, under each).
//!
//! Shadow stacks (CET) don't exist here.

use super::descriptor::{Descriptor, null, rpl, selector_fault, system_type, v86_segment};
use super::frame::{Frame, Stack};
use super::task::Cause;
use crate::fault::{Fault, vector};
use crate::state::{Segment, attr, flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, OpKind};

/// The flags that IRET and POPF may always write.
const USER_FLAGS: u64 = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;

/// Executes far JMP, CALL, RET and IRET.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    use Code::*;
    let (size, call) = match insn.code() {
        Jmp_ptr1616 | Jmp_m1616 => (2, false),
        Jmp_ptr1632 | Jmp_m1632 => (4, false),
        Jmp_m1664 => (8, false),
        Call_ptr1616 | Call_m1616 => (2, true),
        Call_ptr1632 | Call_m1632 => (4, true),
        Call_m1664 => (8, true),
        Retfw => return Some(v.far_return(2, 0)),
        Retfd => return Some(v.far_return(4, 0)),
        Retfq => return Some(v.far_return(8, 0)),
        Retfw_imm16 => return Some(v.far_return(2, insn.immediate16())),
        Retfd_imm16 => return Some(v.far_return(4, insn.immediate16())),
        Retfq_imm16 => return Some(v.far_return(8, insn.immediate16())),
        Iretw => return Some(v.interrupt_return(2)),
        Iretd => return Some(v.interrupt_return(4)),
        Iretq => return Some(v.interrupt_return(8)),
        _ => return None,
    };
    Some(v.far_target(insn, size).and_then(|(selector, offset)| {
        if call {
            v.far_call(selector, offset, size)
        } else {
            v.far_jump(selector, offset)
        }
    }))
}

impl Vcpu {
    /// The far pointer of a JMP or CALL.
    fn far_target(&mut self, insn: &Instruction, size: usize) -> Result<(u16, u64), Fault> {
        match insn.op_kind(0) {
            OpKind::FarBranch16 => Ok((insn.far_branch_selector(), insn.far_branch16() as u64)),
            OpKind::FarBranch32 => Ok((insn.far_branch_selector(), insn.far_branch32() as u64)),
            _ => self.far_pointer(insn, size),
        }
    }

    /// The far pointer in memory: an offset of `size` bytes, then a selector.
    pub(super) fn far_pointer(
        &mut self,
        insn: &Instruction,
        size: usize,
    ) -> Result<(u16, u64), Fault> {
        let place = self.place(insn);
        let mut bytes = [0; 10];
        self.read_bytes(place.segment, place.offset, &mut bytes[..size + 2])?;
        let selector = u16::from_le_bytes([bytes[size], bytes[size + 1]]);
        bytes[size..].fill(0);
        let offset = bytes
            .iter()
            .take(8)
            .rev()
            .fold(0, |n, b| n << 8 | *b as u64);
        Ok((selector, offset))
    }

    fn far_jump(&mut self, selector: u16, offset: u64) -> Result<(), Fault> {
        if self.cpu.real_or_v86() {
            let cs = self.real_segment(seg::CS, selector);
            let rip = self.checked_rip(&cs, offset)?;
            self.enter_code(cs, rip, self.cpu.cpl);
            return Ok(());
        }
        let d = self.far_descriptor(selector)?;
        if d.is(attr::S) {
            let cs = self.direct_code(selector, d)?;
            let rip = self.checked_rip(&cs, offset)?;
            self.enter_code(cs, rip, self.cpu.cpl);
            return Ok(());
        }
        if self.task_target(selector, d, Cause::Jump)? {
            return Ok(());
        }
        let (gate, _) = self.call_gate(selector, d)?;
        let (cs, cpl) = self.gate_code(gate.gate_selector())?;
        if cpl != self.cpu.cpl {
            return Err(selector_fault(vector::GP, cs.selector));
        }
        let rip = self.checked_rip(&cs, gate.gate_offset())?;
        self.enter_code(cs, rip, cpl);
        Ok(())
    }

    fn far_call(&mut self, selector: u16, offset: u64, size: usize) -> Result<(), Fault> {
        let mut frame = Frame::default();
        frame
            .push(self.cpu.seg[seg::CS].selector as u64)
            .push(self.next_rip);
        let mut stack = self.current_stack();
        if self.cpu.real_or_v86() {
            let cs = self.real_segment(seg::CS, selector);
            let rip = self.checked_rip(&cs, offset)?;
            self.push_frame(&mut stack, size, &frame)?;
            self.enter_stack(stack);
            self.enter_code(cs, rip, self.cpu.cpl);
            return Ok(());
        }
        let d = self.far_descriptor(selector)?;
        if d.is(attr::S) {
            let cs = self.direct_code(selector, d)?;
            let rip = self.checked_rip(&cs, offset)?;
            self.push_frame(&mut stack, size, &frame)?;
            self.enter_stack(stack);
            self.enter_code(cs, rip, self.cpu.cpl);
            return Ok(());
        }
        if self.task_target(selector, d, Cause::Call)? {
            return Ok(());
        }
        let (gate, size) = self.call_gate(selector, d)?;
        self.call_through_gate(gate, size)
    }

    /// What a far JMP or CALL in protected mode names.
    fn far_descriptor(&mut self, selector: u16) -> Result<Descriptor, Fault> {
        if null(selector) {
            return Err(Fault::GP0);
        }
        self.read_descriptor(selector, vector::GP)
    }

    /// Whether `d` is a TSS or a task gate; the task is then switched to.
    fn task_target(&mut self, selector: u16, d: Descriptor, cause: Cause) -> Result<bool, Fault> {
        use system_type::*;
        let kind = d.system_type();
        if self.cpu.long_mode() || !matches!(kind, TSS16 | TSS32 | TASK_GATE) {
            return Ok(false);
        }
        if d.dpl() < rpl(selector).max(self.cpu.cpl) {
            return Err(selector_fault(vector::GP, selector));
        }
        let (rip, flags) = (self.next_rip, self.cpu.rflags);
        if kind == TASK_GATE {
            if !d.present() {
                return Err(selector_fault(vector::NP, selector));
            }
            self.task_through_gate(d, cause, rip, flags)?;
        } else {
            if selector & 4 != 0 {
                return Err(selector_fault(vector::GP, selector));
            }
            self.switch_task(selector, d, cause, rip, flags)?;
        }
        Ok(true)
    }

    /// The call gate `d`, checked as far as the gate itself goes, with the size of what it pushes.
    fn call_gate(&mut self, selector: u16, d: Descriptor) -> Result<(Descriptor, usize), Fault> {
        use system_type::*;
        let size = match d.system_type() {
            CALL_GATE32 if self.cpu.long_mode() => 8,
            CALL_GATE32 => 4,
            CALL_GATE16 if !self.cpu.long_mode() => 2,
            _ => return Err(selector_fault(vector::GP, selector)),
        };
        if d.dpl() < rpl(selector).max(self.cpu.cpl) {
            return Err(selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(selector_fault(vector::NP, selector));
        }
        Ok((self.read_wide_descriptor(selector, vector::GP)?, size))
    }

    fn call_through_gate(&mut self, gate: Descriptor, size: usize) -> Result<(), Fault> {
        let (cs, cpl) = self.gate_code(gate.gate_selector())?;
        let mut frame = Frame::default();
        let mut stack = self.current_stack();
        if self.cpu.long_mode() {
            stack.flat = true;
        }
        if cpl < self.cpu.cpl {
            let old = self.current_stack();
            stack = self.gate_stack(cpl)?;
            frame.push(old.segment.selector as u64).push(old.pointer);
            if !self.cpu.long_mode() {
                self.copy_parameters(gate.gate_parameters(), size, &mut frame)?;
            }
        }
        frame
            .push(self.cpu.seg[seg::CS].selector as u64)
            .push(self.next_rip);
        let rip = self.checked_rip(&cs, gate.gate_offset())?;
        self.push_frame(&mut stack, size, &frame)?;
        self.enter_stack(stack);
        self.enter_code(cs, rip, cpl);
        Ok(())
    }

    /// The stack of privilege level `cpl` that the TSS names.
    fn gate_stack(&mut self, cpl: u8) -> Result<Stack, Fault> {
        if self.cpu.long_mode() {
            let pointer = self.tss_pointer64(4 + cpl as u64 * 8)?;
            return Ok(Stack {
                flat: true,
                ..Stack::inner(self.null_stack_segment(cpl as u16), pointer, cpl)
            });
        }
        let (selector, pointer) = self.tss_stack(cpl)?;
        let segment = self.stack_segment(selector, cpl, vector::TS)?;
        Ok(Stack::inner(segment, pointer, cpl))
    }

    /// Copies a gate's parameters off the caller's stack, the one pushed first first.
    fn copy_parameters(
        &mut self,
        count: usize,
        size: usize,
        frame: &mut Frame,
    ) -> Result<(), Fault> {
        for i in (0..count).rev() {
            let mut caller = self.current_stack();
            caller.advance((i * size) as u64);
            frame.push(self.pop_frame(&mut caller, size)?);
        }
        Ok(())
    }

    /// RET far, releasing `parameters` bytes more (SDM vol. 2, RET).
    fn far_return(&mut self, size: usize, parameters: u16) -> Result<(), Fault> {
        let mut stack = self.current_stack();
        let rip = self.pop_frame(&mut stack, size)?;
        let selector = self.pop_frame(&mut stack, size)? as u16;
        if self.cpu.real_or_v86() {
            let cs = self.real_segment(seg::CS, selector);
            let rip = self.checked_rip(&cs, rip)?;
            stack.advance(parameters as u64);
            self.enter_stack(stack);
            self.enter_code(cs, rip, self.cpu.cpl);
            return Ok(());
        }
        let (cs, cpl) = self.returned_code(selector)?;
        let rip = self.checked_rip(&cs, rip)?;
        stack.advance(parameters as u64);
        if cpl == self.cpu.cpl {
            self.enter_stack(stack);
            self.enter_code(cs, rip, cpl);
            return Ok(());
        }
        let pointer = self.pop_frame(&mut stack, size)?;
        let selector = self.pop_frame(&mut stack, size)? as u16;
        let segment = self.returned_stack(selector, &cs, cpl)?;
        let pointer = self.outer_pointer(&cs, &segment, pointer);
        let flat = self.is_code64(&cs);
        let mut stack = Stack {
            flat,
            ..Stack::inner(segment, pointer, cpl)
        };
        stack.advance(parameters as u64);
        self.enter_stack(stack);
        self.enter_code(cs, rip, cpl);
        self.drop_privileged_segments();
        Ok(())
    }

    /// CS and privilege level that a RET or IRET goes to: never more privilege.
    fn returned_code(&mut self, selector: u16) -> Result<(Segment, u8), Fault> {
        if null(selector) {
            return Err(Fault::GP0);
        }
        if rpl(selector) < self.cpu.cpl {
            return Err(selector_fault(vector::GP, selector));
        }
        Ok((self.return_code(selector, vector::GP)?, rpl(selector)))
    }

    /// SS of an outward return.  64-bit code below level 3 may have a null one.
    fn returned_stack(&mut self, selector: u16, cs: &Segment, cpl: u8) -> Result<Segment, Fault> {
        if null(selector) && self.is_code64(cs) && cpl != 3 && rpl(selector) == cpl {
            return Ok(self.null_stack_segment(selector));
        }
        self.stack_segment(selector, cpl, vector::GP)
    }

    /// After a return to an outer level: data segments that it couldn't have loaded become null.
    /// Their bases stay, which 64-bit code sees of FS and GS.
    fn drop_privileged_segments(&mut self) {
        for index in [seg::ES, seg::FS, seg::GS, seg::DS] {
            let cpl = self.cpu.cpl;
            let s = &mut self.cpu.seg[index];
            let conforming = s.is(attr::CODE | attr::CONFORMING);
            if s.usable() && !conforming && s.dpl() < cpl {
                s.selector = 0;
                s.attributes |= attr::UNUSABLE;
            }
        }
    }

    /// IRET (SDM vol. 2, IRET/IRETD/IRETQ).
    fn interrupt_return(&mut self, size: usize) -> Result<(), Fault> {
        // NMIs are unblocked even by an IRET that faults.
        if self.cpu.nmi_blocked {
            self.cpu.nmi_blocked = false;
            self.ask_attention_if_pending();
        }
        if !self.cpu.protected() {
            self.interrupt_return_real(size)?;
        } else if self.cpu.v86() {
            if self.cpu.iopl() < 3 {
                return Err(Fault::GP0);
            }
            self.interrupt_return_real(size)?;
        } else if self.cpu.rflags & flags::NT == 0 {
            self.interrupt_return_protected(size)?;
        } else if self.cpu.long_mode() {
            return Err(Fault::GP0);
        } else {
            self.return_from_task()?;
        }
        self.ask_attention_if_pending();
        Ok(())
    }

    /// Real-address and V86 mode; in the latter IOPL stays.
    fn interrupt_return_real(&mut self, size: usize) -> Result<(), Fault> {
        let mut stack = self.current_stack();
        let rip = self.pop_frame(&mut stack, size)?;
        let selector = self.pop_frame(&mut stack, size)? as u16;
        let image = self.pop_frame(&mut stack, size)?;
        let cs = self.real_segment(seg::CS, selector);
        let rip = self.checked_rip(&cs, rip)?;
        let mut writable = USER_FLAGS | flags::IF | wide_flags(size);
        if !self.cpu.v86() {
            writable |= flags::IOPL;
        }
        self.enter_stack(stack);
        self.enter_code(cs, rip, self.cpu.cpl);
        self.merge_flags(image, writable);
        Ok(())
    }

    fn interrupt_return_protected(&mut self, size: usize) -> Result<(), Fault> {
        let mut stack = self.current_stack();
        let rip = self.pop_frame(&mut stack, size)?;
        let selector = self.pop_frame(&mut stack, size)? as u16;
        let image = self.pop_frame(&mut stack, size)?;
        let legacy = !self.cpu.long_mode();
        if legacy && size == 4 && image & flags::VM != 0 && self.cpu.cpl == 0 {
            return self.return_to_v86(stack, rip, selector, image);
        }
        let old_cpl = self.cpu.cpl;
        let mut writable = USER_FLAGS | wide_flags(size);
        if old_cpl <= self.cpu.iopl() {
            writable |= flags::IF;
        }
        if old_cpl == 0 {
            writable |= flags::IOPL;
            if size > 2 {
                writable |= flags::VIF | flags::VIP;
            }
        }
        let (cs, cpl) = self.returned_code(selector)?;
        let rip = self.checked_rip(&cs, rip)?;
        if cpl != old_cpl || self.cpu.code64() {
            let pointer = self.pop_frame(&mut stack, size)?;
            let selector = self.pop_frame(&mut stack, size)? as u16;
            stack.segment = self.returned_stack(selector, &cs, cpl)?;
            stack.pointer = self.outer_pointer(&cs, &stack.segment, pointer);
        }
        self.enter_stack(stack);
        self.enter_code(cs, rip, cpl);
        if cpl != old_cpl {
            self.drop_privileged_segments();
        }
        self.merge_flags(image, writable);
        Ok(())
    }

    /// IRETD at level 0 with VM set in the image.
    fn return_to_v86(
        &mut self,
        mut stack: Stack,
        rip: u64,
        cs: u16,
        image: u64,
    ) -> Result<(), Fault> {
        let pointer = self.pop_frame(&mut stack, 4)?;
        let mut selectors = [
            (seg::SS, 0),
            (seg::ES, 0),
            (seg::DS, 0),
            (seg::FS, 0),
            (seg::GS, 0),
        ];
        for (_, selector) in &mut selectors {
            *selector = self.pop_frame(&mut stack, 4)? as u16;
        }
        if rip > 0xFFFF {
            return Err(Fault::GP0);
        }
        for (index, selector) in selectors {
            self.cpu.seg[index] = v86_segment(selector);
        }
        self.cpu.gpr[gpr::RSP] = pointer;
        self.enter_code(v86_segment(cs), rip, 3);
        let rest = flags::IF | flags::IOPL | flags::VM | flags::VIF | flags::VIP;
        self.merge_flags(image, USER_FLAGS | wide_flags(4) | rest);
        Ok(())
    }

    /// Takes the `writable` flags from `image`.
    fn merge_flags(&mut self, image: u64, writable: u64) {
        self.cpu.rflags = self.cpu.rflags & !writable | image & writable;
    }
}

/// The flags that only an image wider than 16 bits brings.
fn wide_flags(size: usize) -> u64 {
    if size == 2 {
        0
    } else {
        flags::RF | flags::AC | flags::ID
    }
}
