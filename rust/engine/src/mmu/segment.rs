//! Logical addresses: segment limits, types and wrap-around (SDM vol. 3, 6.3 to 6.5 and 4.2).

use crate::fault::{Fault, vector};
use crate::mmu::walk::Access;
use crate::state::{Segment, attr, seg};
use crate::vcpu::Vcpu;

impl Vcpu {
    /// The linear address of `length` bytes at `offset` in segment register `index`; the fault that
    /// segmentation raises for it.  In 64-bit mode only FS and GS have a base, and addresses must
    /// be canonical.
    #[inline]
    pub fn linear(
        &self,
        index: usize,
        offset: u64,
        length: usize,
        write: bool,
    ) -> Result<u64, Fault> {
        let s = &self.cpu.seg[index];
        if self.cpu.code64() {
            let base = if index >= seg::FS { s.base } else { 0 };
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(length as u64 - 1);
            return if canonical(linear) && canonical(last) {
                Ok(linear)
            } else {
                Err(violation(index))
            };
        }
        // Real mode has no types: code writes through CS there.
        let type_allows = !self.cpu.protected() || type_allows(s, write);
        if !type_allows || !limit_allows(s, offset, length as u64) {
            return Err(violation(index));
        }
        Ok(s.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    /// Reads up to 8 bytes at a logical address with the current privilege.
    #[inline]
    pub fn read(&mut self, index: usize, offset: u64, size: usize) -> Result<u64, Fault> {
        let linear = self.linear(index, offset, size, false)?;
        self.check_alignment(linear, size)?;
        self.read_linear(linear, size, self.user())
    }

    /// Writes up to 8 bytes at a logical address with the current privilege.
    #[inline]
    pub fn write(
        &mut self,
        index: usize,
        offset: u64,
        size: usize,
        value: u64,
    ) -> Result<(), Fault> {
        let linear = self.linear(index, offset, size, true)?;
        self.check_alignment(linear, size)?;
        self.write_linear(linear, size, value, self.user())
    }

    /// Raises what a write of `size` bytes would raise, without writing.
    pub fn probe_write(&mut self, index: usize, offset: u64, size: usize) -> Result<(), Fault> {
        let linear = self.linear(index, offset, size, true)?;
        self.check_alignment(linear, size)?;
        self.probe_linear(linear, size, Access::write(self.user()))
    }

    pub fn read_bytes(&mut self, index: usize, offset: u64, out: &mut [u8]) -> Result<(), Fault> {
        let linear = self.linear(index, offset, out.len(), false)?;
        self.read_linear_bytes(linear, out, self.user())
    }

    pub fn write_bytes(&mut self, index: usize, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let linear = self.linear(index, offset, data.len(), true)?;
        self.write_linear_bytes(linear, data, self.user())
    }

    /// #AC for misaligned user accesses where CR0.AM and EFLAGS.AC ask for it.
    #[inline]
    pub(crate) fn check_alignment(&self, linear: u64, size: usize) -> Result<(), Fault> {
        use crate::state::{cr0, flags};
        let asked = self.cpu.rflags & flags::AC != 0 && self.cpu.cr0 & cr0::AM != 0;
        if asked && self.user() && linear & (size as u64 - 1) & 7 != 0 {
            return Err(Fault::with_code(vector::AC, 0));
        }
        Ok(())
    }
}

/// 48-bit canonical addresses.
pub fn canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// #SS(0) for the stack segment, #GP(0) for the others.
pub fn violation(index: usize) -> Fault {
    if index == seg::SS {
        Fault::SS0
    } else {
        Fault::GP0
    }
}

/// Type check of a hidden descriptor cache (protected mode but 64-bit).
fn type_allows(s: &Segment, write: bool) -> bool {
    let code = s.is(attr::CODE);
    if write {
        !code && s.is(attr::WRITABLE)
    } else {
        !code || s.is(attr::READABLE)
    }
}

/// Limit check of a hidden descriptor cache (any mode but 64-bit).
pub(crate) fn limit_allows(s: &Segment, offset: u64, length: u64) -> bool {
    if !s.usable() {
        return false;
    }
    let code = s.is(attr::CODE);
    let last = offset + (length - 1);
    if !code && s.is(attr::EXPAND_DOWN) {
        let top = if s.is(attr::DB) { 0xFFFF_FFFF } else { 0xFFFF };
        return offset > s.limit as u64 && last <= top;
    }
    // A 4 GiB segment lets an access wrap around its end, as processors do.
    last <= s.limit as u64 || s.limit == u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(limit: u32, bits: u32) -> Segment {
        Segment {
            base: 0,
            limit,
            attributes: attr::P | attr::S | attr::WRITABLE | bits,
            selector: 0,
        }
    }

    #[test]
    fn limit_is_the_last_valid_offset() {
        assert!(limit_allows(&data(0xFFF, 0), 0xFFC, 4));
        assert!(!limit_allows(&data(0xFFF, 0), 0xFFD, 4));
    }

    #[test]
    fn expand_down_segments_are_valid_above_the_limit() {
        let s = data(0xFFF, attr::EXPAND_DOWN);
        assert!(!limit_allows(&s, 0xFFF, 1));
        assert!(limit_allows(&s, 0x1000, 2));
        assert!(!limit_allows(&s, 0xFFFF, 2));
        assert!(limit_allows(
            &data(0xFFF, attr::EXPAND_DOWN | attr::DB),
            0xFFFF,
            2
        ));
    }

    #[test]
    fn non_canonical_addresses_are_told() {
        assert!(canonical(0x7FFF_FFFF_FFFF) && canonical(0xFFFF_8000_0000_0000));
        assert!(!canonical(0x8000_0000_0000));
    }
}
