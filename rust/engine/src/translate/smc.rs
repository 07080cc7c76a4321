//! Self-modifying code: pages that blocks were made from, and what a store to them drops.
//!
//! A page with code has no inline write entries: every store to it comes through the miss helper
//! (`prepare_store`), the interpreter or DMA (`invalidate_code`).  When its last block has gone and
//! stores still come, it is a plain page again.

use crate::memory::{PAGE, page_flag};
use crate::vcpu::Vcpu;
use std::sync::atomic::Ordering;

/// Stores to a page whose blocks are all dropped that make it a plain page: a guest that writes code,
/// runs it and writes it again would only pay for the changes otherwise.
const STORES_UNTIL_PLAIN: u32 = 64;

impl Vcpu {
    pub(crate) fn page_has_code(&self, physical: u64) -> bool {
        self.vm.memory.ram_offset(physical).is_some_and(|offset| {
            self.vm.memory.flags_at(offset).load(Ordering::Relaxed) & page_flag::HAS_CODE != 0
        })
    }

    /// Says that blocks are about to be made from the page at `physical` (host address `host`).
    /// Comes before its bytes are read: DMA afterwards is noted.
    pub(super) fn mark_code_page(&mut self, physical: u64, host: u64) {
        let Some(offset) = self.vm.memory.ram_offset(physical) else {
            return;
        };
        let flags = self.vm.memory.flags_at(offset);
        if flags.load(Ordering::Relaxed) & page_flag::HAS_CODE == 0 {
            flags.fetch_or(page_flag::HAS_CODE, Ordering::SeqCst);
            self.forbid_inline_writes(host);
        }
    }

    /// Lets a page without blocks take inline writes again.
    pub(super) fn forget_code_page(&mut self, page: u64) {
        if let Some(offset) = self.vm.memory.ram_offset(page * PAGE) {
            self.vm
                .memory
                .flags_at(offset)
                .fetch_and(!page_flag::HAS_CODE, Ordering::AcqRel);
        }
    }

    /// Readies a page with code for a store that translated code at host address `site` is about to
    /// do there (physical address, bytes; inside one page).  False: it changes the very block that
    /// does it, so the interpreter must.
    ///
    /// Runs while vector registers are the guest's: nothing here allocates or copies in bulk.
    pub(super) fn prepare_store(&mut self, address: u64, length: u64, site: u64) -> bool {
        let page = address / PAGE;
        let Some(code) = self.jit.table.code_pages.get(&page) else {
            self.forget_code_page(page);
            return true;
        };
        if code.may_hold_code((address % PAGE) as usize, length as usize) {
            let table = &self.jit.table;
            let itself = |&b: &u32| {
                let block = &table.blocks[b as usize];
                block.holds(site) && block.made_from(address, length)
            };
            if code.blocks.iter().any(itself) {
                return false;
            }
        }
        self.invalidate_in_page(address, length);
        true
    }

    /// Drops blocks whose source lies in the range (guest-physical, bytes).
    pub fn invalidate_code(&mut self, address: u64, length: u64) {
        let mut at = address;
        let end = address.saturating_add(length);
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            self.invalidate_in_page(at, next - at);
            at = next;
        }
    }

    fn invalidate_in_page(&mut self, address: u64, length: u64) {
        let (page, offset) = (address / PAGE, (address % PAGE) as usize);
        let Some(code) = self.jit.table.code_pages.get_mut(&page) else {
            return;
        };
        if code.blocks.is_empty() {
            code.stores_without_blocks += 1;
            if code.stores_without_blocks >= STORES_UNTIL_PLAIN {
                self.forget_code_page(page);
            }
            return;
        }
        if !code.may_hold_code(offset, length as usize) {
            return;
        }
        while let Some(index) = self.jit.table.made_from(page, address, length) {
            self.drop_block(index);
        }
        if let Some(code) = self.jit.table.code_pages.get_mut(&page) {
            code.unmark(offset, length as usize);
        }
    }

    pub(super) fn drop_block(&mut self, index: u32) {
        self.stats.invalidated_blocks += 1;
        // SAFETY: the Area is this vCPU's own; translated code isn't running or waits for a helper.
        let area = unsafe { &mut *self.env.area() };
        let jit = &mut self.jit;
        jit.table.remove(index, &mut jit.cache, area, &jit.thunks);
    }
}
