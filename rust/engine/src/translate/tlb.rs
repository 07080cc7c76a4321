//! The inline TLB and the code TLB: what drops their entries.
//!
//! Invalid entries carry a tag two MiB away from any address that indexes their slot, so that
//! `address - tag` is never small (also not for addresses just below a tagged page).

use super::env::{Area, CODE_TLB_ENTRIES, KERNEL, TLB_ENTRIES, TlbEntry, USER, code_slot};
use crate::memory::PAGE;
use crate::vcpu::Vcpu;

fn invalid(index: usize) -> TlbEntry {
    TlbEntry {
        tag: ((index ^ 512) as u64) << 12,
        host: 0,
    }
}

pub fn clear(array: &mut [TlbEntry; TLB_ENTRIES]) {
    for (index, entry) in array.iter_mut().enumerate() {
        *entry = invalid(index);
    }
}

/// `fill(0)` without libc's memset: vector registers may be the guest's.
fn zero(identities: &mut [u32; CODE_TLB_ENTRIES]) {
    // SAFETY: STOSD writes exactly the array; DF is clear as the ABI has it.
    unsafe {
        core::arch::asm!(
            "rep stosd",
            inout("rcx") CODE_TLB_ENTRIES => _,
            inout("rdi") identities.as_mut_ptr() => _,
            in("eax") 0,
            options(nostack, preserves_flags)
        );
    }
}

/// Logs of the inline TLB's slots: kernel, user, and kernel slots that got global pages.
const GLOBAL: usize = 2;

/// Slots filled since the last flush: a flush touches only them.
///
/// `note` runs while vector registers are the guest's, where libc's memcpy must not: the lists never
/// grow beyond what they were made with.
pub struct FillLog {
    slots: [Vec<u16>; 3],
    /// The same of the code TLB.
    code: [Vec<u16>; 2],
    /// Kernel code pages that aren't global were entered in the code TLB.
    pub kernel_code_not_global: bool,
}

impl Default for FillLog {
    fn default() -> FillLog {
        let list = || Vec::with_capacity(TLB_ENTRIES);
        FillLog {
            slots: [list(), list(), list()],
            code: [list(), list()],
            kernel_code_not_global: false,
        }
    }
}

impl FillLog {
    pub fn note(&mut self, class: usize, index: usize, global: bool) {
        let global = global && class == KERNEL;
        let log = &mut self.slots[if global { GLOBAL } else { class }];
        if log.len() < TLB_ENTRIES && log.last() != Some(&(index as u16)) {
            log.push(index as u16);
        }
    }

    /// A page was entered in the code TLB.
    pub fn note_code(&mut self, class: usize, vpn: u64) {
        let (log, slot) = (&mut self.code[class], code_slot(vpn) as u16);
        if log.len() < TLB_ENTRIES && log.last() != Some(&slot) {
            log.push(slot);
        }
    }
}

pub(super) fn area(v: &Vcpu) -> &'static mut Area {
    // SAFETY: the Area is this vCPU's own and outlives the borrow; translated code isn't running.
    unsafe { &mut *v.env.area() }
}

/// Drops the entries of one log.
fn flush_log(v: &mut Vcpu, log: usize) {
    let class = if log == GLOBAL { KERNEL } else { log };
    let tlb = &mut area(v).tlb[class];
    let log = &mut v.jit.fills.slots[log];
    if log.len() >= TLB_ENTRIES {
        clear(&mut tlb.read);
        clear(&mut tlb.write);
    } else {
        for &slot in log.iter() {
            let slot = slot as usize;
            tlb.read[slot] = invalid(slot);
            tlb.write[slot] = invalid(slot);
        }
    }
    log.clear();
}

fn flush_code(v: &mut Vcpu, class: usize) {
    let identities = &mut area(v).code_tlb[class];
    let log = &mut v.jit.fills.code[class];
    if log.len() >= TLB_ENTRIES {
        zero(identities);
    } else {
        for &slot in log.iter() {
            identities[slot as usize] = 0;
        }
    }
    log.clear();
}

impl Vcpu {
    /// Drops all inline translations, global ones too.
    pub fn jit_flush_all(&mut self) {
        for log in [KERNEL, USER, GLOBAL] {
            flush_log(self, log);
        }
        flush_code(self, KERNEL);
        flush_code(self, USER);
        self.jit.windows.deactivate_all(area(self));
        self.jit.fills.kernel_code_not_global = false;
    }

    /// After a switch of address spaces: user pages and whatever isn't global.
    pub fn jit_switch_space(&mut self) {
        flush_log(self, USER);
        flush_log(self, KERNEL);
        flush_code(self, USER);
        self.jit.windows.deactivate(USER, area(self));
        if std::mem::take(&mut self.jit.fills.kernel_code_not_global) {
            flush_code(self, KERNEL);
        }
    }

    /// After INVLPG; `large`: the page may have been larger than 4 KiB.
    pub fn jit_flush_page(&mut self, linear: u64, large: bool) {
        if large {
            return self.jit_flush_all();
        }
        self.jit.windows.invalidate(linear);
        let area = area(self);
        let vpn = (linear >> 12) as usize;
        let slot = vpn % TLB_ENTRIES;
        for tlb in &mut area.tlb {
            tlb.read[slot] = invalid(slot);
            tlb.write[slot] = invalid(slot);
        }
        for class in &mut area.code_tlb {
            class[code_slot(linear >> 12)] = 0;
        }
    }

    /// Drops inline write entries of pages whose stores dirty logs must hear of.
    pub fn forbid_logged_writes(&mut self) {
        let memory = &self.vm.memory;
        self.jit.windows.forbid_writes(|host| memory.logged(host));
        for tlb in &mut area(self).tlb {
            for (index, entry) in tlb.write.iter_mut().enumerate() {
                if memory.logged(entry.host) {
                    *entry = invalid(index);
                }
            }
        }
    }

    /// Drops inline write entries of the physical page with host address `host`: it holds code now.
    pub fn forbid_inline_writes(&mut self, host: u64) {
        let page = host & !(PAGE - 1);
        self.jit.windows.forbid_writes_to(page);
        for tlb in &mut area(self).tlb {
            for (index, entry) in tlb.write.iter_mut().enumerate() {
                if entry.host == page {
                    *entry = invalid(index);
                }
            }
        }
    }
}
