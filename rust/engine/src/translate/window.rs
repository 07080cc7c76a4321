//! Windows: memory of code at host addresses that the host's own paging checks.
//!
//! Theory.  A *window* is 4 GiB of host addresses that stands for 4 GiB of linear addresses (a
//! *chunk*): a page of it is a mapping of RAM's memfd where the guest's page tables and all that the
//! inline TLB asks for allow the access, and nothing else.  Code in `bit::WINDOW` mode adds the chunk's
//! addend to an address and accesses memory at once.  What isn't mapped raises a host fault, and
//! `window_fault` maps it, or has the interpreter do the instruction.  A page costs microseconds, so
//! only code that keeps running gets windows (`sample_windows`), as long as that pays: user code of an
//! address space, and the kernel, which has one space of its global pages whatever CR3 is.
//!
//! Confinement.  An address is a 32-bit offset in the window that GS is based on, or a 64-bit one plus
//! the addend that `Area::chunks` has for bits 47:32 of its base register.  Around each window lie
//! margins wider than any displacement; chunks without a window have addends into the *void*, where
//! nothing is ever mapped; other addresses aren't canonical after the addition.
//!
//! Coherence.  A window's page is as good as an entry of the inline TLB: INVLPG takes it away, whatever
//! drops more puts the whole space aside (`deactivate`), and before it is used again all its pages are
//! compared with the page tables (`revalidate`).
//!
//! Where RAM is frozen (`crate::backing`), a page is thawed before it is mapped, and so costs memory: only
//! a guest that keeps the CPU busy gets windows then.

use super::env::{KERNEL, USER};
use super::fault::HostFault;
use super::shown::Mapped;
pub use super::spaces::Policy;
use super::spaces::{
    CHUNK, FIRST_CREDIT, MAX_CREDIT, MAX_RUN, MAX_WINDOWS, MIN_RUN, RESERVED, SAMPLE_CREDIT, Space,
    base, chunk_of, chunk_start, crowded, ticks,
};
use super::tlb::area;
use crate::alias::Reservation;
use crate::memory::PAGE;
use crate::mmu::physical;
use crate::mmu::walk::{Access, right};
use crate::state::cr0;
use crate::vcpu::{Vcpu, host_tsc};
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// The same inside of a large page, whose other pages may be ones that the guest has never used.
const LARGE_RUN: u64 = 128;
/// Mappings that are made before a space has faulted.
const MAX_CACHED_RUNS: u32 = 512;
/// Samples in the same space, one after the other, that give it its windows.
const SAMPLES: u32 = 2;
/// Samples closer than this are one, in nanoseconds.
const SAMPLE_NS: u64 = 1_000_000;
/// Pages that are looked at in the time of a fault.
const LOOKS: usize = 64;

fn access(class: usize, write: bool) -> Access {
    let user = class == USER;
    if write {
        Access::write(user)
    } else {
        Access::read(user)
    }
}

/// What became of a window's missing page.
enum Fill {
    Mapped,
    /// It must be accessed in another way.
    Unmappable,
    /// The guest's own fault.
    Faults,
}

impl Vcpu {
    /// Chooses the spaces that get windows; where the host can't have any, none does.
    pub fn set_windows(&mut self, policy: Policy) {
        let area = area(self);
        let windows = &mut self.jit.windows;
        windows.deactivate_all(area);
        windows.policy = if self.jit.bmi2 { policy } else { Policy::Never };
    }

    /// The class that the current code could use windows of.
    pub(super) fn window_class(&self) -> Option<usize> {
        let possible = self.cpu.cr0 & cr0::PG != 0 && !self.cpu.v86();
        match self.cpu.cpl {
            0 if possible => Some(KERNEL),
            3 if possible => Some(USER),
            _ => None,
        }
    }

    fn window_key(&self, class: usize) -> u64 {
        match class {
            KERNEL => 0,
            _ => self.cpu.cr3 & !0xFFF,
        }
    }

    /// Translated code was left because of attention: is it the same code again and again?
    pub(super) fn sample_windows(&mut self) {
        let Some(class) = self.window_class() else {
            return;
        };
        if self.jit.windows.policy != Policy::Busy {
            return;
        }
        let (now, key) = (host_tsc(), self.window_key(class));
        let (tsc, halted_ns) = (self.tsc(), self.stats.ns_halted);
        let windows = &mut self.jit.windows;
        let domain = &mut windows.domains[class];
        if now.wrapping_sub(domain.last_sample) < ticks(SAMPLE_NS) {
            return;
        }
        domain.last_sample = now;
        windows.load.measure(tsc, halted_ns);
        if domain.active {
            if let Some(space) = domain.spaces.last_mut() {
                space.credit = (space.credit + SAMPLE_CREDIT).min(MAX_CREDIT);
            }
            return;
        }
        let (candidate, count) = domain.candidate;
        let count = if candidate == key { count + 1 } else { 1 };
        domain.candidate = (key, count);
        if count >= SAMPLES && !domain.banned(key, now) {
            self.activate_windows(class);
        }
    }

    /// Under `Policy::Always`: windows for whatever code is about to run.
    pub(super) fn force_windows(&mut self) {
        if self.jit.windows.policy != Policy::Always {
            return;
        }
        if let Some(class) = self.window_class()
            && !self.jit.windows.active(class)
        {
            self.activate_windows(class);
        }
    }

    /// Forgets windows whose pages have gone: RAM was frozen or replaced.
    pub(crate) fn attend_to_revocations(&mut self) {
        let revocations = self.vm.memory.aliases().revocations();
        if self.jit.windows.revocations == revocations {
            return;
        }
        let (area, tsc) = (area(self), self.tsc());
        let windows = &mut self.jit.windows;
        windows.revocations = revocations;
        windows.clear(area);
        windows.load.start(tsc, self.stats.ns_halted);
    }

    /// Gives the current code its windows.
    fn activate_windows(&mut self, class: usize) {
        let area = area(self);
        let (key, generation) = (self.window_key(class), self.vm.memory.generation());
        let windows = &mut self.jit.windows;
        let pays = windows.load.high || windows.policy == Policy::Always;
        if !pays && !self.vm.memory.is_all_shared() {
            return;
        }
        if windows.generation != generation {
            windows.clear(area);
            windows.generation = generation;
        }
        if windows.void.is_none() {
            windows.void = Reservation::new(&self.vm.memory, RESERVED).ok();
            for chunk in 0..=u16::MAX {
                let absent = windows.absent(chunk);
                area.chunks[KERNEL][chunk as usize] = absent;
                area.chunks[USER][chunk as usize] = absent;
            }
        }
        if windows.void.is_none() {
            windows.policy = Policy::Never;
            return;
        }
        let domain = &mut windows.domains[class];
        domain.choose(key);
        domain.active = true;
        self.revalidate(class);
        if !self.pay_for_fault(class) {
            return;
        }
        let domain = &self.jit.windows.domains[class];
        let Some(space) = domain.spaces.last() else {
            return;
        };
        for (chunk, window) in &space.windows {
            area.chunks[class][*chunk as usize] = base(window).wrapping_sub(chunk_start(*chunk));
        }
        // Code of 32 bits has no other.
        if !self.add_window(class, 0) || self.map_cached(class).is_none() {
            self.drop_windows(class);
        }
    }

    /// Maps pages that the address space has used of late, but for those that wait to be thawed: all of
    /// them now, that could take long.
    fn map_cached(&mut self, class: usize) -> Option<()> {
        let mut used = self.mmu.pages_in_use(class == USER);
        used.sort_unstable();
        let mut runs = 0;
        for vpn in used {
            let known = self.jit.windows.space(class)?.pages.contains(vpn);
            if known || runs >= MAX_CACHED_RUNS || !self.add_window(class, chunk_of(vpn << 12)) {
                continue;
            }
            if let Some(page) = self.mappable(class, vpn, false)
                && self.vm.memory.is_shared(page.host, PAGE)
            {
                self.map_run(class, vpn, page)?;
                runs += 1;
            }
        }
        Some(())
    }

    /// Takes the pages away that the page tables don't have any more as they were.
    fn revalidate(&mut self, class: usize) {
        let Some(space) = self.jit.windows.space(class) else {
            return;
        };
        let mut pages = std::mem::take(&mut space.pages);
        space.credit -= (pages.len() / LOOKS) as i32;
        pages.retain(|vpn, page| {
            let now = self.mappable(class, vpn, false);
            let good =
                now.is_some_and(|now| now.host == page.host && (now.writable || !page.writable));
            if !good && let Some(space) = self.jit.windows.space(class) {
                space.protect(vpn, libc::PROT_NONE);
            }
            good
        });
        if let Some(space) = self.jit.windows.space(class) {
            space.pages = pages;
        }
    }

    /// How a page may be in a window; None: not at all, or not for this access.
    fn mappable(&mut self, class: usize, vpn: u64, write: bool) -> Option<Mapped> {
        let page = self.translate(vpn << 12, access(class, write)).ok()?;
        let global = page.rights & (right::GLOBAL | right::USER) == right::GLOBAL;
        if class == KERNEL && !global {
            return None;
        }
        let memory = &self.vm.memory;
        let offset = memory.ram_offset(page.page)?;
        if page.rights & (physical::IO | physical::ROM) != 0 || offset >= memory.ram_bytes() {
            return None;
        }
        if write {
            memory.note_dirty(offset);
        }
        let allowed = right::WRITE | right::DIRTY;
        let plain = memory.flags_at(offset).load(Ordering::SeqCst) == 0;
        let writable = plain && page.rights & allowed == allowed;
        (writable || !write).then_some(Mapped {
            host: page.host as u64,
            writable,
            large: page.rights & right::LARGE != 0,
        })
    }

    /// Makes a window for a chunk of the active space.
    fn add_window(&mut self, class: usize, chunk: u16) -> bool {
        let area = area(self);
        let Some(space) = self.jit.windows.space(class) else {
            return false;
        };
        if space.window(chunk).is_some() {
            return true;
        }
        let room = space.windows.len() < MAX_WINDOWS;
        let reserve = || Reservation::new(&self.vm.memory, RESERVED).ok();
        let Some(window) = room.then(reserve).flatten() else {
            return false;
        };
        area.chunks[class][chunk as usize] = base(&window).wrapping_sub(chunk_start(chunk));
        space.windows.push((chunk, window));
        true
    }

    /// Forgets the active space, and leaves it without windows for a while.
    fn drop_windows(&mut self, class: usize) {
        let area = area(self);
        let windows = &mut self.jit.windows;
        windows.deactivate(class, area);
        let domain = &mut windows.domains[class];
        if let Some(space) = domain.spaces.pop() {
            domain.ban(space.key, host_tsc());
        }
    }

    /// After a host fault at `site`: maps what was missing; where to go on.  None: the interpreter must
    /// do the instruction.
    pub(super) fn window_fault(&mut self, site: u64) -> Option<u64> {
        let area = area(self);
        let fault = std::mem::take(&mut area.fault);
        let (block, class) = (self.jit.table.block_at(site)?, self.window_class()?);
        if !fault.is_page_fault() || self.must_attend() || !self.pay_for_fault(class) {
            return None;
        }
        let mut known = false;
        // Addresses in the void may be either addend's.
        for addend in self.addends(class, &fault) {
            let linear = fault.address.wrapping_sub(addend);
            if !self.is_addend_of(class, addend, linear) {
                continue;
            }
            match self.fill_window(class, linear, fault.wrote()) {
                Fill::Mapped => {
                    self.stats.window_faults += 1;
                    area.retry_target = self.jit.table.instruction_start(site)?;
                    area.retry_r10 = self.renewed(class, fault.r10, linear);
                    area.retry_r11 = self.renewed(class, fault.r11, linear);
                    return Some(self.jit.thunks.retry);
                }
                Fill::Unmappable => {
                    self.jit.table.set_soft(block);
                    self.drop_block(block);
                    return None;
                }
                Fill::Faults => known = true,
            }
        }
        if !known {
            // A displacement led out of the window.
            self.jit.table.set_soft(block);
            self.drop_block(block);
        }
        None
    }

    /// What may have been added to the linear address of a fault.
    fn addends(&mut self, class: usize, fault: &HostFault) -> [u64; 2] {
        let windows = &mut self.jit.windows;
        match windows.space(class).and_then(|space| space.window(0)) {
            Some(base) if class == USER && !self.cpu.code64() => [base; 2],
            _ => [fault.r10, fault.r11],
        }
    }

    fn is_addend_of(&self, class: usize, addend: u64, linear: u64) -> bool {
        let chunk = chunk_of(linear) as usize;
        area(self).chunks[class][chunk] == addend && (self.cpu.code64() || linear < CHUNK)
    }

    /// An addend, as it is after the chunk of `linear` got a window.
    fn renewed(&self, class: usize, addend: u64, linear: u64) -> u64 {
        let chunk = chunk_of(linear);
        if addend == self.jit.windows.absent(chunk) {
            return area(self).chunks[class][chunk as usize];
        }
        addend
    }

    /// Whether the active space may go on with one more fault.
    fn pay_for_fault(&mut self, class: usize) -> bool {
        let area = area(self);
        let windows = &mut self.jit.windows;
        let bounded = windows.policy == Policy::Busy;
        let Some(space) = windows.space(class) else {
            return false;
        };
        space.credit -= 1;
        if space.credit >= 0 || !bounded {
            return true;
        }
        let key = space.key;
        space.credit = FIRST_CREDIT;
        windows.deactivate(class, area);
        windows.domains[class].ban(key, host_tsc());
        false
    }

    fn fill_window(&mut self, class: usize, linear: u64, write: bool) -> Fill {
        let vpn = linear >> 12;
        let allowed = crate::mmu::segment::canonical(linear)
            && self.translate(linear, access(class, write)).is_ok();
        if !allowed {
            return Fill::Faults;
        }
        let Some(page) = self.mappable(class, vpn, write) else {
            return Fill::Unmappable;
        };
        if crowded() {
            self.jit.windows.drop_idle();
        }
        let full = |space: &mut Space| space.is_full() || crowded();
        let no_room = self.jit.windows.space(class).is_some_and(full);
        if no_room || !self.add_window(class, chunk_of(linear)) {
            self.drop_windows(class);
            return Fill::Faults;
        }
        if self.map_run(class, vpn, page).is_none() {
            self.drop_windows(class);
            return Fill::Faults;
        }
        Fill::Mapped
    }

    /// Maps a page, and the next ones with it where that costs nothing.
    fn map_run(&mut self, class: usize, vpn: u64, page: Mapped) -> Option<()> {
        let count = self.run_from_page(class, vpn, page);
        let space = self.jit.windows.space(class)?;
        let (window, place) = space.place(vpn)?;
        let shown = window.show(place, page.host, count * PAGE, page.writable, !page.large);
        space.count_change();
        space.next = vpn + count;
        for n in 0..count {
            let host = page.host + n * PAGE;
            space.pages.insert(vpn + n, Mapped { host, ..page });
        }
        shown.then_some(())
    }

    /// How many pages from `vpn` on can be mapped with it: neighbours in RAM too, with the same rights.
    fn run_from_page(&mut self, class: usize, vpn: u64, first: Mapped) -> u64 {
        let Some(space) = self.jit.windows.space(class) else {
            return 1;
        };
        space.run = if vpn == space.next {
            (space.run * 2).min(MAX_RUN)
        } else {
            MIN_RUN
        };
        let most = if first.large {
            (vpn / LARGE_RUN + 1) * LARGE_RUN - vpn
        } else {
            space.run.min((vpn / MAX_RUN + 1) * MAX_RUN - vpn)
        };
        let mut count = 1;
        while count < most {
            let next = vpn + count;
            if self
                .jit
                .windows
                .space(class)
                .is_some_and(|s| s.pages.contains(next))
            {
                break;
            }
            // A walk for another page would say that it was accessed.
            if !first.large && self.mmu.find(next).is_none() {
                break;
            }
            match self.mappable(class, next, false) {
                Some(page)
                    if page.host == first.host + count * PAGE
                        && (page.writable, page.large) == (first.writable, first.large) => {}
                _ => break,
            }
            count += 1;
        }
        count
    }

    /// Before translated code runs on this thread: GS is based on the window of 32-bit user code.
    pub(super) fn base_gs_on_window(&mut self) {
        let space = self.jit.windows.space(USER);
        if let Some(base) = space.and_then(|space| space.window(0)) {
            set_gs_base(base);
        }
    }
}

thread_local! {
    static GS_BASE: Cell<u64> = const { Cell::new(0) };
}

/// The host's GS base of this thread, which nothing but windows uses.
fn set_gs_base(base: u64) {
    if GS_BASE.replace(base) == base {
        return;
    }
    const ARCH_SET_GS: libc::c_int = 0x1001;
    // SAFETY: no code of the process but translated code addresses memory through GS.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}
