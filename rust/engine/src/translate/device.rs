//! Accesses to devices out of translated code: ports, and memory that is a device's.
//!
//! Theory.  Devices run on the vCPU thread's own stack, because they may be written in Python.  So
//! translated code is left for an access (`exit::DEVICE`), but for no more than that: the dispatcher
//! has the instruction decoded, and knows where translated code goes on behind it.  IN and OUT have
//! this rule where they can't fault.  An access to memory gets it when it has found a device a few
//! times: its blocks are made anew.  Those that then find RAM too often lose it for good.
//!
//! Whatever a device does to interrupts, memory or its map asks for attention, so that execution goes
//! on through the run loop; modes and registers are beyond its reach.

use super::assist::Assist;
use super::link::{BlockTable, Map};
use crate::memory::PAGE;
use crate::vcpu::Vcpu;

/// Sites known at most.
const MAX_SITES: usize = 1 << 16;
/// Accesses to a device that make an instruction's rule that of devices.
const FOUND: u8 = 4;
/// It has lost that rule.
const NEVER: u8 = u8::MAX;

/// What an instruction's credit is at first and at most, and what an access elsewhere costs.
pub const FIRST_CREDIT: u8 = 16;
const MAX_CREDIT: u8 = 64;
const STRAY: u8 = 8;

/// Instructions that have accessed a device, by physical address: how often, up to `FOUND`, or `NEVER`.
#[derive(Default)]
pub struct Sites(Map<u64, u8>);

impl Sites {
    /// Whether the memory that the instruction at `physical` accesses is taken for a device's.
    pub fn has(&self, physical: u64) -> bool {
        !self.0.is_empty() && self.0.get(&physical) == Some(&FOUND)
    }

    /// It has accessed a device; whether that made it one of those.
    fn note(&mut self, physical: u64) -> bool {
        if self.0.len() >= MAX_SITES && !self.0.contains_key(&physical) {
            return false;
        }
        let seen = self.0.entry(physical).or_default();
        if *seen >= FOUND {
            return false;
        }
        *seen += 1;
        *seen == FOUND
    }
}

impl BlockTable {
    /// The physical address of the instruction `delta` behind a block's RIP, if it is in the block's page.
    fn site(&self, block: u32, delta: u64) -> Option<u64> {
        let block = &self.blocks[block as usize];
        let whole = block.second.is_none();
        whole.then(|| block.physical().wrapping_add(delta))
    }
}

impl Vcpu {
    /// The instruction `delta` behind the block's RIP, which the interpreter did, accessed a device.
    pub(super) fn note_device_access(&mut self, block: u32, delta: u64) {
        if let Some(site) = self.jit.table.site(block, delta)
            && self.jit.table.device_sites.note(site)
        {
            self.remake_blocks_of(site);
        }
    }

    /// Does an access for translated code, which was left for that; where to go on in it.
    pub(super) fn access_device(&mut self, number: u32, behind: u64) -> Option<u64> {
        let Some(Assist { ins, block, .. }) = self.jit.assists.get(number as usize).copied() else {
            self.error = Some(format!("access {number} to a device, which no block has"));
            return None;
        };
        self.next_rip = self.wrap_ip(ins.next_ip());
        let accesses = self.stats.device_accesses();
        if let Err(fault) = self.execute(&ins) {
            self.raise(fault);
            return None;
        }
        self.cpu.rip = self.next_rip;
        let stray = self.stats.device_accesses() == accesses;
        if !self.keep_credit(number, stray) {
            let delta = ins
                .ip()
                .wrapping_sub(self.jit.table.blocks[block as usize].rip());
            if let Some(site) = self.jit.table.site(block, delta) {
                self.jit.table.device_sites.0.insert(site, NEVER);
                self.remake_blocks_of(site);
            }
        }
        let goes_on = self.jit.table.blocks[block as usize].alive && !self.must_attend();
        goes_on.then_some(behind)
    }

    /// Drops the blocks with the instruction at `site`: it has another rule from now on.
    fn remake_blocks_of(&mut self, site: u64) {
        while let Some(block) = self.jit.table.made_from(site / PAGE, site, 1) {
            self.jit.table.templates.remove(&block);
            self.drop_block(block);
        }
    }

    /// Whether an instruction is still to be taken for one that accesses a device.
    fn keep_credit(&mut self, number: u32, stray: bool) -> bool {
        let Some(assist) = self.jit.assists.get_mut(number as usize) else {
            return true;
        };
        if stray {
            let left = assist.credit.checked_sub(STRAY);
            assist.credit = left.unwrap_or(0);
            return left.is_some();
        }
        assist.credit = (assist.credit + 1).min(MAX_CREDIT);
        true
    }
}
