//! Task switches through 16- and 32-bit TSSes (SDM vol. 3, 8.2 to 8.6).
//!
//! Up to the commit point faults are those of the instruction in the old task.  From there on (the
//! new task's LDTR, segment registers and error code) they are raised in the new task, at its first
//! instruction: the state is then already the new task's, and RIP with it.
//!
//! The debug trap of a TSS with the T bit follows the switch.  Tasks don't exist in long mode.

use super::debug::{DR6_BT, DR7_LOCAL};
use super::descriptor::{
    Descriptor, null, null_segment, rpl, selector_fault, system_type, v86_segment,
};
use super::frame::Frame;
use crate::fault::{Fault, vector};
use crate::mmu::segment::canonical;
use crate::mmu::walk::Access;
use crate::state::{Segment, cr0, flags, gpr, seg};
use crate::vcpu::Vcpu;

/// What makes the processor switch tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Jump,
    Call,
    Interrupt { error_code: Option<u32> },
    Return,
}

/// Segment registers in the order of a TSS.
const TSS_SEGMENTS: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// Where a TSS keeps things (SDM vol. 3, figures 8-2 and 8-10), in bytes.
struct Layout {
    /// Of each register slot.
    size: u64,
    cr3: Option<u64>,
    eip: u64,
    eflags: u64,
    gprs: u64,
    segments: u64,
    /// A 16-bit TSS has ES, CS, SS and DS only.
    segment_count: usize,
    ldt: u64,
    /// The T bit.
    trap: Option<u64>,
    /// The smallest limit the TSS may have.
    limit: u32,
}

const TSS16: Layout = Layout {
    size: 2,
    cr3: None,
    eip: 0x0E,
    eflags: 0x10,
    gprs: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2A,
    trap: None,
    limit: 0x2B,
};

const TSS32: Layout = Layout {
    size: 4,
    cr3: Some(0x1C),
    eip: 0x20,
    eflags: 0x24,
    gprs: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
    trap: Some(0x64),
    limit: 0x67,
};

fn layout(attributes: u32) -> &'static Layout {
    if attributes & system_type::WIDE != 0 {
        &TSS32
    } else {
        &TSS16
    }
}

/// What a TSS holds of the task, the stacks of inner levels aside.
#[derive(Default)]
struct Image {
    cr3: Option<u64>,
    eip: u64,
    eflags: u64,
    gprs: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Vcpu {
    /// A switch through a task gate, whose own checks are done.
    pub(super) fn task_through_gate(
        &mut self,
        gate: Descriptor,
        cause: Cause,
        return_rip: u64,
        flags: u64,
    ) -> Result<(), Fault> {
        let selector = gate.gate_selector();
        if selector & 4 != 0 {
            return Err(selector_fault(vector::GP, selector));
        }
        let tss = self.read_descriptor(selector, vector::GP)?;
        if !matches!(tss.system_type(), system_type::TSS16 | system_type::TSS32) {
            return Err(selector_fault(vector::GP, selector));
        }
        self.switch_task(selector, tss, cause, return_rip, flags)
    }

    /// IRET with NT set: back to the task that the back link names.
    pub(super) fn return_from_task(&mut self) -> Result<(), Fault> {
        let at = self.wrap_linear(self.cpu.tr.base);
        let selector = self.read_linear(at, 2, false)? as u16;
        if selector & 4 != 0 {
            return Err(selector_fault(vector::TS, selector));
        }
        let tss = self.read_descriptor(selector, vector::TS)?;
        if !matches!(
            tss.system_type(),
            system_type::BUSY_TSS16 | system_type::BUSY_TSS32
        ) {
            return Err(selector_fault(vector::TS, selector));
        }
        let flags = self.cpu.rflags & !flags::NT;
        self.switch_task(selector, tss, Cause::Return, self.next_rip, flags)
    }

    /// The switch itself (SDM vol. 3, 8.3), the new TSS's descriptor being of the right type.
    /// `return_rip` and `flags` are saved in the old TSS.
    pub(super) fn switch_task(
        &mut self,
        selector: u16,
        tss: Descriptor,
        cause: Cause,
        return_rip: u64,
        flags: u64,
    ) -> Result<(), Fault> {
        if self.in_assist {
            return Err(Fault::NO_ASSIST);
        }
        if !tss.present() {
            return Err(selector_fault(vector::NP, selector));
        }
        let new = layout(tss.attributes());
        if tss.limit() < new.limit {
            return Err(selector_fault(vector::TS, selector));
        }
        let image = self.read_task(tss.base(), new)?;
        self.probe_task(tss.base(), new, cause)?;
        self.leave_task(selector, cause, return_rip, flags)?;
        if matches!(cause, Cause::Call | Cause::Interrupt { .. }) {
            let link = self.cpu.tr.selector as u64;
            self.write_linear(self.wrap_linear(tss.base()), 2, link, false)?;
        }
        self.cpu.tr = tss.segment(selector);
        self.cpu.tr.attributes |= system_type::BUSY as u32;
        self.enter_task(&image, cause)
    }

    fn read_task(&mut self, base: u64, layout: &Layout) -> Result<Image, Fault> {
        let mut field = |offset: u64, size: u64| {
            let at = self.wrap_linear(base.wrapping_add(offset));
            self.read_linear(at, size as usize, false)
        };
        let mut image = Image {
            eip: field(layout.eip, layout.size)?,
            eflags: field(layout.eflags, layout.size)?,
            ldt: field(layout.ldt, 2)? as u16,
            ..Image::default()
        };
        for (i, gpr) in image.gprs.iter_mut().enumerate() {
            *gpr = field(layout.gprs + i as u64 * layout.size, layout.size)?;
            if layout.size == 2 {
                // The upper halves aren't in a 16-bit TSS.
                *gpr |= 0xFFFF_0000;
            }
        }
        for (i, selector) in image.selectors[..layout.segment_count]
            .iter_mut()
            .enumerate()
        {
            *selector = field(layout.segments + i as u64 * layout.size, 2)? as u16;
        }
        if let Some(offset) = layout.cr3 {
            image.cr3 = Some(field(offset, 4)?);
        }
        if let Some(offset) = layout.trap {
            image.trap = field(offset, 2)? & 1 != 0;
        }
        Ok(image)
    }

    /// Raises in the old task what the writes of the switch would raise.
    fn probe_task(&mut self, new_base: u64, new: &Layout, cause: Cause) -> Result<(), Fault> {
        let old = layout(self.cpu.tr.attributes);
        let dynamic = (old.segments + old.segment_count as u64 * old.size - old.eip) as usize;
        if self.cpu.tr.limit < old.limit {
            return Err(selector_fault(vector::TS, self.cpu.tr.selector));
        }
        let at = self.wrap_linear(self.cpu.tr.base.wrapping_add(old.eip));
        self.probe_linear(at, dynamic, Access::write(false))?;
        if matches!(cause, Cause::Call | Cause::Interrupt { .. }) {
            let length = new.size as usize;
            self.probe_linear(self.wrap_linear(new_base), length, Access::write(false))?;
        }
        Ok(())
    }

    /// Saves the old task in its TSS and moves the busy marks.
    fn leave_task(
        &mut self,
        new_selector: u16,
        cause: Cause,
        return_rip: u64,
        flags: u64,
    ) -> Result<(), Fault> {
        if cause != Cause::Return {
            self.update_type(new_selector, system_type::BUSY, 0)?;
        }
        if matches!(cause, Cause::Jump | Cause::Return) {
            self.update_type(self.cpu.tr.selector, 0, system_type::BUSY)?;
        }
        let layout = layout(self.cpu.tr.attributes);
        let base = self.cpu.tr.base;
        let size = layout.size as usize;
        let save = |v: &mut Vcpu, offset: u64, size: usize, value: u64| {
            let at = v.wrap_linear(base.wrapping_add(offset));
            v.write_linear(at, size, value, false)
        };
        save(self, layout.eip, size, return_rip)?;
        save(self, layout.eflags, size, flags)?;
        for i in 0..8 {
            let value = self.cpu.gpr[i];
            save(self, layout.gprs + i as u64 * layout.size, size, value)?;
        }
        for (i, index) in TSS_SEGMENTS[..layout.segment_count].iter().enumerate() {
            let value = self.cpu.seg[*index].selector as u64;
            save(self, layout.segments + i as u64 * layout.size, 2, value)?;
        }
        Ok(())
    }

    /// The commit point and what follows in the new task.
    fn enter_task(&mut self, image: &Image, cause: Cause) -> Result<(), Fault> {
        let nested = matches!(cause, Cause::Call | Cause::Interrupt { .. });
        self.cpu.cr0 |= cr0::TS;
        self.cpu.dr[7] &= !DR7_LOCAL;
        self.cpu.rip = image.eip;
        self.next_rip = image.eip;
        self.cpu.gpr[..8].copy_from_slice(&image.gprs);
        let valid = 0x003F_7FD5;
        self.cpu.rflags = image.eflags & valid | flags::FIXED;
        if nested {
            self.cpu.rflags |= flags::NT;
        }
        self.single_step = false;
        // Until each is loaded none is usable; a fault finds the new selectors.
        for (index, selector) in TSS_SEGMENTS.into_iter().zip(image.selectors) {
            let limit = self.cpu.seg[index].limit;
            self.cpu.seg[index] = null_segment(selector, limit);
        }
        self.cpu.ldtr = null_segment(image.ldt, 0);
        self.cpu.cpl = if self.cpu.v86() {
            3
        } else {
            rpl(image.selectors[1])
        };
        if image.trap {
            self.cpu.pending_db |= DR6_BT;
        }
        if self.cpu.cr0 & cr0::PG != 0
            && let Some(cr3) = image.cr3
        {
            self.load_cr3(cr3)?;
        }
        self.load_task_segments(image)?;
        if let Cause::Interrupt {
            error_code: Some(code),
        } = cause
        {
            let mut frame = Frame::default();
            frame.push(code as u64);
            let mut stack = self.current_stack();
            let size = layout(self.cpu.tr.attributes).size as usize;
            self.push_frame(&mut stack, size, &frame)?;
            self.cpu.gpr[gpr::RSP] = stack.pointer;
        }
        self.ask_attention();
        Ok(())
    }

    fn load_task_segments(&mut self, image: &Image) -> Result<(), Fault> {
        if !null(image.ldt) {
            self.cpu.ldtr = self.ldt_segment(image.ldt, vector::TS, vector::TS)?;
        }
        if self.cpu.v86() {
            for (index, selector) in TSS_SEGMENTS.into_iter().zip(image.selectors) {
                self.cpu.seg[index] = v86_segment(selector);
            }
        } else {
            let [es, cs, ss, ds, fs, gs] = image.selectors;
            let code = self.return_code(cs, vector::TS)?;
            self.cpu.seg[seg::CS] = code;
            self.cpu.seg[seg::SS] = self.stack_segment(ss, self.cpu.cpl, vector::TS)?;
            for (index, selector) in [(seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)] {
                self.cpu.seg[index] = self.data_segment(index, selector, vector::TS)?;
            }
        }
        let cs = self.cpu.seg[seg::CS];
        self.checked_rip(&cs, image.eip)?;
        Ok(())
    }

    /// What LLDT and task switches load: an LDT's segment; `vector` for what isn't one, `absent` for
    /// one that isn't present.
    pub(super) fn ldt_segment(
        &mut self,
        selector: u16,
        vector: u8,
        absent: u8,
    ) -> Result<Segment, Fault> {
        if selector & 4 != 0 {
            return Err(selector_fault(vector, selector));
        }
        let d = self.read_wide_descriptor(selector, vector)?;
        if d.system_type() != system_type::LDT {
            return Err(selector_fault(vector, selector));
        }
        if !d.present() {
            return Err(selector_fault(absent, selector));
        }
        if !canonical(d.base()) {
            return Err(selector_fault(vector, selector));
        }
        Ok(d.segment(selector))
    }
}
