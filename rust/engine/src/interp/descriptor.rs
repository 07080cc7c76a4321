//! Segment descriptors, and what loading a segment register checks (SDM vol. 3, 3.4 and 6.7 to 6.9).
//!
//! A descriptor is read from its table at the moment of the load, as processors do; what is loaded
//! into the hidden part is the truth from then on.  Tables are accessed with supervisor privilege.

use crate::fault::{Fault, vector};
use crate::memory::PAGE;
use crate::mmu::physical;
use crate::mmu::segment::canonical;
use crate::mmu::walk::Access;
use crate::state::{Segment, attr, seg};
use crate::vcpu::Vcpu;
use std::sync::atomic::{AtomicU8, Ordering};

/// Types of system descriptors (SDM vol. 3, table 3-2).
pub(super) mod system_type {
    pub const TSS16: u32 = 1;
    pub const LDT: u32 = 2;
    pub const BUSY_TSS16: u32 = 3;
    pub const CALL_GATE16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const INTERRUPT_GATE16: u32 = 6;
    pub const TRAP_GATE16: u32 = 7;
    pub const TSS32: u32 = 9;
    pub const BUSY_TSS32: u32 = 0xB;
    pub const CALL_GATE32: u32 = 0xC;
    pub const INTERRUPT_GATE32: u32 = 0xE;
    pub const TRAP_GATE32: u32 = 0xF;
    /// Set in the type of a TSS descriptor while the task runs or waits for a nested one.
    pub const BUSY: u8 = 2;
    /// Set in the types of 32-bit TSSes and gates.
    pub const WIDE: u32 = 8;
}

/// Attributes of a segment that real mode loads: data, read and write.
const REAL: u32 = attr::P | attr::S | attr::WRITABLE | attr::ACCESSED;

/// Requestor's privilege level.
pub(super) fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

pub(super) fn null(selector: u16) -> bool {
    selector & 0xFFFC == 0
}

/// An exception whose error code is a selector's index and TI.
pub(super) fn selector_fault(vector: u8, selector: u16) -> Fault {
    Fault::with_code(vector, (selector & 0xFFFC) as u32)
}

/// What a null selector leaves in a segment register; the limit stays for a later real-mode load.
pub(super) fn null_segment(selector: u16, limit: u32) -> Segment {
    Segment {
        base: 0,
        limit,
        attributes: attr::UNUSABLE,
        selector,
    }
}

/// A segment that SYSCALL and its kin load: flat, its descriptor isn't looked at.
pub(super) fn flat_segment(selector: u16, attributes: u32, cpl: u8) -> Segment {
    let fixed = attr::P | attr::S | attr::ACCESSED | attr::G | attr::WRITABLE;
    Segment {
        base: 0,
        limit: u32::MAX,
        attributes: attributes | fixed | (cpl as u32) << attr::DPL_SHIFT,
        selector,
    }
}

/// What V86 mode loads for `selector`.
pub(super) fn v86_segment(selector: u16) -> Segment {
    Segment::real(selector, REAL | 3 << attr::DPL_SHIFT)
}

/// A descriptor as it lies in the GDT, LDT or IDT; `upper` is the third doubleword of the 16-byte
/// ones of long mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub raw: u64,
    pub upper: u32,
}

impl Descriptor {
    /// In the layout of `state::attr`.
    pub fn attributes(self) -> u32 {
        (self.raw >> 40) as u32 & 0xF0FF
    }

    pub fn is(self, bits: u32) -> bool {
        self.attributes() & bits == bits
    }

    /// The type of a system descriptor, 0 (reserved) for code and data.
    pub fn system_type(self) -> u32 {
        if self.is(attr::S) {
            return 0;
        }
        self.attributes() & attr::TYPE
    }

    pub fn code(self) -> bool {
        self.is(attr::S | attr::CODE)
    }

    pub fn conforming(self) -> bool {
        self.is(attr::S | attr::CODE | attr::CONFORMING)
    }

    pub fn writable_data(self) -> bool {
        self.is(attr::S | attr::WRITABLE) && !self.is(attr::CODE)
    }

    /// Data or readable code.
    pub fn readable(self) -> bool {
        self.is(attr::S) && (!self.is(attr::CODE) || self.is(attr::READABLE))
    }

    pub fn present(self) -> bool {
        self.is(attr::P)
    }

    pub fn dpl(self) -> u8 {
        (self.attributes() >> attr::DPL_SHIFT & 3) as u8
    }

    pub fn base(self) -> u64 {
        self.raw >> 16 & 0xFF_FFFF | (self.raw >> 56) << 24 | (self.upper as u64) << 32
    }

    /// In bytes, granularity applied.
    pub fn limit(self) -> u32 {
        let limit = self.raw as u32 & 0xFFFF | (self.raw >> 32) as u32 & 0xF_0000;
        if self.is(attr::G) {
            limit << 12 | 0xFFF
        } else {
            limit
        }
    }

    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
            selector,
        }
    }

    /// A gate's target selector.
    pub fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// A gate's target offset, 16 bits of it for the 16-bit kinds.
    pub fn gate_offset(self) -> u64 {
        let low = self.raw & 0xFFFF;
        if self.system_type() & system_type::WIDE == 0 {
            return low;
        }
        low | self.raw >> 32 & 0xFFFF_0000 | (self.upper as u64) << 32
    }

    /// Parameters that a call gate copies.
    pub fn gate_parameters(self) -> usize {
        (self.raw >> 32 & 0x1F) as usize
    }

    /// The interrupt stack that a 64-bit gate asks for, 0: none.
    pub fn gate_ist(self) -> u64 {
        self.raw >> 32 & 7
    }
}

impl Vcpu {
    /// Linear address of the descriptor, if all `bytes` of it are inside its table.
    fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.cpu.gdtr.base, self.cpu.gdtr.limit as u64)
        } else if self.cpu.ldtr.usable() {
            (self.cpu.ldtr.base, self.cpu.ldtr.limit as u64)
        } else {
            return None;
        };
        let offset = (selector & 0xFFF8) as u64;
        (offset + bytes - 1 <= limit).then(|| self.wrap_linear(base.wrapping_add(offset)))
    }

    /// The 8-byte descriptor that `selector` names; outside its table is `vector`(selector).
    pub(super) fn read_descriptor(
        &mut self,
        selector: u16,
        vector: u8,
    ) -> Result<Descriptor, Fault> {
        let Some(at) = self.descriptor_address(selector, 8) else {
            return Err(selector_fault(vector, selector));
        };
        let raw = self.read_linear(at, 8, false)?;
        Ok(Descriptor { raw, upper: 0 })
    }

    /// As `read_descriptor`; LDTs, TSSes and gates have 16 bytes in long mode, where the type field
    /// of the upper half must be 0.
    pub(super) fn read_wide_descriptor(
        &mut self,
        selector: u16,
        vector: u8,
    ) -> Result<Descriptor, Fault> {
        let low = self.read_descriptor(selector, vector)?;
        if !self.cpu.long_mode() || low.is(attr::S) {
            return Ok(low);
        }
        let Some(at) = self.descriptor_address(selector, 16) else {
            return Err(selector_fault(vector, selector));
        };
        let upper = self.read_linear(self.wrap_linear(at.wrapping_add(8)), 8, false)?;
        if upper >> 32 & 0x1F00 != 0 {
            return Err(selector_fault(vector, selector));
        }
        Ok(Descriptor {
            raw: low.raw,
            upper: upper as u32,
        })
    }

    /// Sets and clears bits of a descriptor's type field, atomically: other processors may load it.
    pub(super) fn update_type(&mut self, selector: u16, set: u8, clear: u8) -> Result<(), Fault> {
        let Some(at) = self.descriptor_address(selector, 8) else {
            return Ok(());
        };
        let at = self.wrap_linear(at.wrapping_add(5));
        let page = self.translate(at, Access::write(false))?;
        if page.rights & (physical::IO | physical::ROM) != 0 {
            let byte = self.read_linear(at, 1, false)? as u8;
            return self.write_linear(at, 1, ((byte | set) & !clear) as u64, false);
        }
        if self.in_assist && !self.assist_may_write(&page) {
            return Err(Fault::NO_ASSIST);
        }
        let offset = at % PAGE;
        // SAFETY: the offset is inside the page at `host`; RAM is shared with others as atomics.
        let byte = unsafe { AtomicU8::from_ptr(page.host.add(offset as usize)) };
        byte.fetch_or(set, Ordering::SeqCst);
        byte.fetch_and(!clear, Ordering::SeqCst);
        self.note_store(page.page + offset, 1);
        Ok(())
    }

    /// Sets the accessed bit of a code or data descriptor, in its table and in `d`.
    pub(super) fn mark_accessed(&mut self, selector: u16, d: &mut Descriptor) -> Result<(), Fault> {
        if !d.is(attr::ACCESSED) {
            self.update_type(selector, attr::ACCESSED as u8, 0)?;
            d.raw |= (attr::ACCESSED as u64) << 40;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do (SDM vol. 2, MOV).
    pub fn load_segment(&mut self, index: usize, selector: u16) -> Result<(), Fault> {
        self.cpu.seg[index] = self.segment_for(index, selector)?;
        Ok(())
    }

    /// What `load_segment` would load.
    pub(super) fn segment_for(&mut self, index: usize, selector: u16) -> Result<Segment, Fault> {
        if self.cpu.real_or_v86() {
            return Ok(self.real_segment(index, selector));
        }
        if index != seg::SS {
            return self.data_segment(index, selector, vector::GP);
        }
        let cpl = self.cpu.cpl;
        if null(selector) && self.cpu.code64() && cpl < 3 && rpl(selector) == cpl {
            return Ok(self.null_stack_segment(selector));
        }
        self.stack_segment(selector, cpl, vector::GP)
    }

    /// Real mode sets the base alone, so that limits loaded in protected mode stay ("unreal mode").
    pub(super) fn real_segment(&self, index: usize, selector: u16) -> Segment {
        if self.cpu.v86() {
            return v86_segment(selector);
        }
        let old = self.cpu.seg[index];
        Segment {
            base: (selector as u64) << 4,
            limit: if old.usable() {
                old.limit
            } else {
                old.limit.max(0xFFFF)
            },
            attributes: old.attributes & (attr::DB | attr::G | attr::AVL) | REAL,
            selector,
        }
    }

    /// SS with a null selector, which 64-bit mode allows below CPL 3.
    pub(super) fn null_stack_segment(&self, selector: u16) -> Segment {
        let mut s = null_segment(selector, self.cpu.seg[seg::SS].limit);
        s.attributes |= (rpl(selector) as u32) << attr::DPL_SHIFT;
        s
    }

    /// A segment for ES, DS, FS or GS; one that can't be is `vector`(selector), #GP or #TS.
    pub(super) fn data_segment(
        &mut self,
        index: usize,
        selector: u16,
        vector: u8,
    ) -> Result<Segment, Fault> {
        if null(selector) {
            return Ok(null_segment(selector, self.cpu.seg[index].limit));
        }
        let mut d = self.read_descriptor(selector, vector)?;
        let privileged = rpl(selector).max(self.cpu.cpl) > d.dpl() && !d.conforming();
        if !d.readable() || privileged {
            return Err(selector_fault(vector, selector));
        }
        if !d.present() {
            return Err(selector_fault(vector::NP, selector));
        }
        self.mark_accessed(selector, &mut d)?;
        Ok(d.segment(selector))
    }

    /// A segment for SS at privilege level `cpl`; one that can't be is `vector`(selector), #GP or #TS.
    pub(super) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
    ) -> Result<Segment, Fault> {
        if null(selector) {
            return Err(Fault::with_code(vector, 0));
        }
        let mut d = self.read_descriptor(selector, vector)?;
        if rpl(selector) != cpl || d.dpl() != cpl || !d.writable_data() {
            return Err(selector_fault(vector, selector));
        }
        if !d.present() {
            return Err(selector_fault(vector::SS, selector));
        }
        self.mark_accessed(selector, &mut d)?;
        Ok(d.segment(selector))
    }

    /// The descriptor of a code segment; anything else is `vector`(selector).
    fn code_descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Fault> {
        if null(selector) {
            return Err(Fault::with_code(vector, 0));
        }
        let d = self.read_descriptor(selector, vector)?;
        self.check_code_descriptor(selector, d, vector)?;
        Ok(d)
    }

    fn check_code_descriptor(&self, selector: u16, d: Descriptor, vector: u8) -> Result<(), Fault> {
        if !d.code() || self.cpu.long_mode() && d.is(attr::L | attr::DB) {
            return Err(selector_fault(vector, selector));
        }
        Ok(())
    }

    /// The last steps of a load of CS: presence, accessed bit, RPL made `cpl`.
    fn code_segment(
        &mut self,
        selector: u16,
        mut d: Descriptor,
        cpl: u8,
    ) -> Result<Segment, Fault> {
        if !d.present() {
            return Err(selector_fault(vector::NP, selector));
        }
        self.mark_accessed(selector, &mut d)?;
        Ok(d.segment(selector & 0xFFFC | cpl as u16))
    }

    /// CS for a far JMP or CALL straight to `selector`, whose descriptor is `d`: same privilege.
    pub(super) fn direct_code(&mut self, selector: u16, d: Descriptor) -> Result<Segment, Fault> {
        self.check_code_descriptor(selector, d, vector::GP)?;
        let cpl = self.cpu.cpl;
        let allowed = if d.conforming() {
            d.dpl() <= cpl
        } else {
            rpl(selector) <= cpl && d.dpl() == cpl
        };
        if !allowed {
            return Err(selector_fault(vector::GP, selector));
        }
        self.code_segment(selector, d, cpl)
    }

    /// CS for RET, IRET or a task switch, the new privilege level being the selector's RPL.
    pub(super) fn return_code(&mut self, selector: u16, vector: u8) -> Result<Segment, Fault> {
        let d = self.code_descriptor(selector, vector)?;
        let cpl = rpl(selector);
        let allowed = if d.conforming() {
            d.dpl() <= cpl
        } else {
            d.dpl() == cpl
        };
        if !allowed {
            return Err(selector_fault(vector, selector));
        }
        self.code_segment(selector, d, cpl)
    }

    /// CS for a gate's target: same or more privilege.  With the new privilege level.
    pub(super) fn gate_code(&mut self, selector: u16) -> Result<(Segment, u8), Fault> {
        let d = self.code_descriptor(selector, vector::GP)?;
        let wrong_width = self.cpu.long_mode() && !d.is(attr::L);
        if d.dpl() > self.cpu.cpl || wrong_width {
            return Err(selector_fault(vector::GP, selector));
        }
        let cpl = if d.conforming() {
            self.cpu.cpl
        } else {
            d.dpl()
        };
        Ok((self.code_segment(selector, d, cpl)?, cpl))
    }

    /// Whether `cs` would be 64-bit code.
    pub(super) fn is_code64(&self, cs: &Segment) -> bool {
        self.cpu.long_mode() && cs.is(attr::L)
    }

    /// RIP as wide as `cs` makes it; #GP(0) past the limit or non-canonical.
    pub(super) fn checked_rip(&self, cs: &Segment, rip: u64) -> Result<u64, Fault> {
        if self.is_code64(cs) {
            return if canonical(rip) {
                Ok(rip)
            } else {
                Err(Fault::GP0)
            };
        }
        let rip = rip & 0xFFFF_FFFF;
        if rip > cs.limit as u64 {
            return Err(Fault::GP0);
        }
        Ok(rip)
    }

    /// Commits a far transfer to a checked CS:RIP.
    pub(super) fn enter_code(&mut self, cs: Segment, rip: u64, cpl: u8) {
        self.cpu.seg[seg::CS] = cs;
        self.cpu.cpl = cpl;
        self.cpu.rip = rip;
        self.next_rip = rip;
    }
}
