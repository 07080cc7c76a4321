//! Self-modifying code: pages that blocks were made from, and what a store to them drops.
//!
//! A page with code has no inline write entries, so every store to it comes through the
//! interpreter (or DMA) and `invalidate_code`.  When its last block goes, it is a plain page again.

use super::link::granules;
use crate::memory::{PAGE, page_flag};
use crate::vcpu::Vcpu;
use std::sync::atomic::Ordering;

impl Vcpu {
    pub(super) fn page_has_code(&self, physical: u64) -> bool {
        self.vm.memory.ram_offset(physical).is_some_and(|offset| {
            self.vm.memory.flags_at(offset).load(Ordering::Relaxed) & page_flag::HAS_CODE != 0
        })
    }

    /// Registers that block `index` was made from a range of one page (host address `host`).
    pub(super) fn note_code(&mut self, index: u32, physical: u64, bytes: u64, host: u64) {
        self.jit.table.note_source(index, physical, bytes);
        let Some(offset) = self.vm.memory.ram_offset(physical) else {
            return;
        };
        let flags = self.vm.memory.flags_at(offset);
        if flags.fetch_or(page_flag::HAS_CODE, Ordering::AcqRel) & page_flag::HAS_CODE == 0 {
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
        let page = address / PAGE;
        let Some(code) = self.jit.table.code_pages.get_mut(&page) else {
            return;
        };
        if code.granules & granules(address, length) == 0 {
            return;
        }
        let blocks = std::mem::take(&mut code.blocks);
        let mut kept = Vec::with_capacity(blocks.len());
        let mut left = 0;
        for index in blocks {
            let block = &self.jit.table.blocks[index as usize];
            if !block.alive {
                continue;
            }
            let hit = block
                .sources
                .iter()
                .any(|&(start, bytes)| start < address + length && address < start + bytes);
            if hit {
                self.drop_block(index);
                continue;
            }
            for &(start, bytes) in &block.sources {
                if bytes != 0 && start / PAGE == page {
                    left |= granules(start, bytes);
                }
            }
            kept.push(index);
        }
        if kept.is_empty() {
            self.jit.table.code_pages.remove(&page);
            self.forget_code_page(page);
        } else if let Some(code) = self.jit.table.code_pages.get_mut(&page) {
            code.granules = left;
            code.blocks = kept;
        }
    }

    pub(super) fn drop_block(&mut self, index: u32) {
        self.stats.invalidated_blocks += 1;
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area = unsafe { &mut *self.env.area() };
        let jit = &mut self.jit;
        jit.table
            .remove(index, &mut jit.cache, area, jit.thunks.lookup);
    }
}
