//! Linear addresses to host memory: the second-level TLB, and the accesses the interpreter makes.
//!
//! Every cached translation carries a generation.  Non-global ones belong to the generation of
//! their address space (one for each PCID in use), global ones to `global`; a flush is a new number.
//! The first-level, inline TLB of translated code is filled from here (`translate::tlb`).

pub mod segment;
pub mod walk;

use crate::fault::Fault;
use crate::memory::{PAGE, Page, page_flag};
use crate::state::{CpuState, cr0, cr4};
use crate::vcpu::Vcpu;
use std::sync::atomic::Ordering;
use walk::{Access, Translation, permitted, right};

/// Rights of a cached page that come from the physical side.
pub mod physical {
    /// Device registers or nothing: no host address.
    pub const IO: u32 = 1 << 8;
    pub const ROM: u32 = 1 << 9;
}

/// A cached translation of one 4 KiB page.
#[derive(Clone, Copy, Debug)]
pub struct Cached {
    pub vpn: u64,
    pub generation: u32,
    /// `walk::right` and `physical` bits.
    pub rights: u32,
    /// Guest-physical address of the page, gated by A20; of RAM, its home (`Memory::home`).
    pub page: u64,
    /// Host address of the page; null for IO.
    pub host: *mut u8,
}

const EMPTY: Cached = Cached {
    vpn: 0,
    generation: 0,
    rights: 0,
    page: 0,
    host: std::ptr::null_mut(),
};

const WAYS: usize = 4;
const SETS: usize = 1024;

pub struct Mmu {
    sets: Box<[[Cached; WAYS]]>,
    victim: usize,
    /// Generation of the current address space.
    pub space: u32,
    /// Generation of global pages.
    pub global: u32,
    last: u32,
    /// Generations of the PCIDs in use; 0: none.
    pcid: Box<[u32]>,
    /// Linear range in which large pages were cached since the last full flush.
    large: (u64, u64),
    /// `Memory::generation` that the cached host addresses belong to.
    pub map_generation: u64,
}

// SAFETY: the host addresses are of guest RAM, which the Vm keeps mapped and any thread may touch.
unsafe impl Send for Mmu {}

impl Mmu {
    pub fn new() -> Mmu {
        Mmu {
            sets: vec![[EMPTY; WAYS]; SETS].into_boxed_slice(),
            victim: 0,
            space: 2,
            global: 1,
            last: 2,
            pcid: vec![0; 4096].into_boxed_slice(),
            large: (u64::MAX, 0),
            map_generation: 0,
        }
    }

    /// A number never used before.  At the end of the 32-bit range everything starts anew.
    fn next_generation(&mut self) -> u32 {
        if self.last == u32::MAX {
            for set in self.sets.iter_mut() {
                *set = [EMPTY; WAYS];
            }
            self.pcid.fill(0);
            self.global = 1;
            self.last = 1;
        }
        self.last += 1;
        self.last
    }

    pub fn find(&self, vpn: u64) -> Option<&Cached> {
        let set = &self.sets[vpn as usize % SETS];
        set.iter()
            .find(|c| c.vpn == vpn && (c.generation == self.space || c.generation == self.global))
    }

    fn insert(&mut self, entry: Cached) {
        if entry.rights & right::LARGE != 0 {
            self.large = (self.large.0.min(entry.vpn), self.large.1.max(entry.vpn));
        }
        let set = &mut self.sets[entry.vpn as usize % SETS];
        let (space, global) = (self.space, self.global);
        let stale = |c: &Cached| c.generation != space && c.generation != global;
        let way = set
            .iter()
            .position(|c| c.vpn == entry.vpn && c.generation == entry.generation)
            .or_else(|| set.iter().position(stale))
            .unwrap_or(self.victim);
        set[way] = entry;
        self.victim = (self.victim + 1) % WAYS;
    }

    /// Numbers of the pages cached now: those that users may access, or the global ones that they
    /// may not.
    pub fn pages_in_use(&self, user: bool) -> Vec<u64> {
        let current = |c: &&Cached| c.generation == self.space || c.generation == self.global;
        let wanted = |c: &&Cached| match c.rights & (right::USER | right::GLOBAL) {
            right::GLOBAL => !user,
            rights => user && rights & right::USER != 0,
        };
        let all = self.sets.iter().flatten().filter(current);
        all.filter(wanted).map(|c| c.vpn).collect()
    }

    /// Drops everything, global pages too.
    pub fn flush_all(&mut self) {
        self.pcid.fill(0);
        self.global = self.next_generation();
        self.space = self.next_generation();
        self.large = (u64::MAX, 0);
    }

    /// Drops the current address space's non-global pages.
    pub fn flush_space(&mut self) {
        self.space = self.next_generation();
    }

    /// Whether the next new generation is an ordinary one.
    fn has_generations(&self) -> bool {
        self.last != u32::MAX
    }

    /// Goes to another address space; `keep`: its cached pages may be used (CR3 bit 63 with PCIDs).
    pub fn switch(&mut self, pcid: u16, keep: bool) {
        let known = self.pcid[pcid as usize];
        self.space = if keep && known != 0 {
            known
        } else {
            self.next_generation()
        };
        self.pcid[pcid as usize] = self.space;
    }

    /// Drops the pages of a PCID that isn't the current one.
    pub fn forget_pcid(&mut self, pcid: u16) {
        self.pcid[pcid as usize] = 0;
    }

    /// Drops every cached page that `linear`'s translation may be part of (INVLPG).
    /// Tells whether large pages may have been among them.
    pub fn flush_page(&mut self, linear: u64) -> bool {
        let vpn = linear >> 12;
        for c in &mut self.sets[vpn as usize % SETS] {
            if c.vpn == vpn {
                *c = EMPTY;
            }
        }
        let large = vpn | 0x3FFFF >= self.large.0 && vpn & !0x3FFFF <= self.large.1;
        if large {
            // A page of 2 MiB, 4 MiB or 1 GiB was cached in fragments.
            for set in self.sets.iter_mut() {
                for c in set.iter_mut() {
                    if c.rights & right::LARGE != 0 && c.vpn >> 18 == vpn >> 18 {
                        *c = EMPTY;
                    }
                }
            }
        }
        large
    }
}

impl Default for Mmu {
    fn default() -> Mmu {
        Mmu::new()
    }
}

impl Vcpu {
    /// The cached translation of `linear`'s page, walked for if needed; a page fault if not permitted.
    #[inline]
    pub fn translate(&mut self, linear: u64, access: Access) -> Result<Cached, Fault> {
        if let Some(c) = self.mmu.find(linear >> 12)
            && permitted(self.cpu, c.rights, access)
            && (!access.write || c.rights & right::DIRTY != 0)
        {
            return Ok(*c);
        }
        self.walk(linear, access)
    }

    #[cold]
    fn walk(&mut self, linear: u64, access: Access) -> Result<Cached, Fault> {
        self.stats.page_walks += 1;
        let Translation { page, mut rights } =
            walk::walk(self.cpu, &self.vm.memory, linear, access)?;
        let page = self.vm.memory.gate(page);
        let local_apic = self.apic.page();
        let io = |p| Some(p) == local_apic || self.vm.io.page_has_mmio(p);
        let kind = if Some(page) == local_apic {
            Page::Io
        } else {
            self.vm.memory.page(page, io)
        };
        let mut page = page;
        let host = match kind {
            Page::Ram(p) => {
                page = self.vm.memory.home(p, page);
                p
            }
            Page::Rom(p) => {
                rights |= physical::ROM;
                p.cast_mut()
            }
            Page::Io => {
                rights |= physical::IO;
                std::ptr::null_mut()
            }
        };
        let generation = if rights & right::GLOBAL != 0 {
            self.mmu.global
        } else {
            self.mmu.space
        };
        let entry = Cached {
            vpn: linear >> 12,
            generation,
            rights,
            page,
            host,
        };
        self.mmu.insert(entry);
        Ok(entry)
    }

    /// Whether the current privilege level accesses memory as a user.
    pub fn user(&self) -> bool {
        self.cpu.cpl == 3
    }

    /// Reads up to 8 bytes at a linear address, little-endian.
    #[inline]
    pub fn read_linear(&mut self, linear: u64, size: usize, user: bool) -> Result<u64, Fault> {
        let c = self.translate(linear, Access::read(user))?;
        if self.breakpoints_enabled() {
            self.note_access(linear, size, false);
        }
        let offset = (linear % PAGE) as usize;
        if self.in_assist && (offset + size > PAGE as usize || c.rights & physical::IO != 0) {
            return Err(Fault::NO_ASSIST);
        }
        if offset + size > PAGE as usize {
            let mut bytes = [0; 8];
            self.read_linear_bytes(linear, &mut bytes[..size], user)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        if c.rights & physical::IO != 0 {
            return Ok(self.read_physical_io(c.page + offset as u64, size));
        }
        // SAFETY: offset + size stays inside the page at `host`.
        Ok(unsafe { load(c.host.add(offset), size) })
    }

    /// Writes up to 8 bytes at a linear address; nothing is written if any byte faults.
    #[inline]
    pub fn write_linear(
        &mut self,
        linear: u64,
        size: usize,
        value: u64,
        user: bool,
    ) -> Result<(), Fault> {
        let c = self.translate(linear, Access::write(user))?;
        if self.breakpoints_enabled() {
            self.note_access(linear, size, true);
        }
        let offset = (linear % PAGE) as usize;
        if self.in_assist && (offset + size > PAGE as usize || !self.assist_may_write(&c)) {
            return Err(Fault::NO_ASSIST);
        }
        if offset + size > PAGE as usize {
            return self.write_linear_bytes(linear, &value.to_le_bytes()[..size], user);
        }
        if c.rights & physical::IO != 0 {
            self.write_physical_io(c.page + offset as u64, size, value);
        } else if c.rights & physical::ROM != 0 {
            self.write_rom(c.page + offset as u64, &value.to_le_bytes()[..size]);
        } else {
            // SAFETY: offset + size stays inside the page at `host`.
            unsafe { store(c.host.add(offset), size, value) };
            self.note_store(c.page + offset as u64, size as u64);
        }
        Ok(())
    }

    /// Reads any number of bytes; each page is translated before the first byte is taken.
    pub fn read_linear_bytes(
        &mut self,
        linear: u64,
        out: &mut [u8],
        user: bool,
    ) -> Result<(), Fault> {
        if self.in_assist {
            return Err(Fault::NO_ASSIST);
        }
        self.probe_linear(linear, out.len(), Access::read(user))?;
        if self.breakpoints_enabled() {
            self.note_access(linear, out.len(), false);
        }
        let mut done = 0;
        while done < out.len() {
            let at = self.wrap_linear(linear.wrapping_add(done as u64));
            let c = self.translate(at, Access::read(user))?;
            let offset = (at % PAGE) as usize;
            let n = (PAGE as usize - offset).min(out.len() - done);
            let target = &mut out[done..done + n];
            if c.rights & physical::IO != 0 {
                for (i, byte) in target.iter_mut().enumerate() {
                    *byte = self.read_physical_io(c.page + (offset + i) as u64, 1) as u8;
                }
            } else {
                // SAFETY: offset + n stays inside the page at `host`.
                unsafe { std::ptr::copy(c.host.add(offset), target.as_mut_ptr(), n) };
            }
            done += n;
        }
        Ok(())
    }

    /// Writes any number of bytes; nothing is written if any of them faults.
    pub fn write_linear_bytes(
        &mut self,
        linear: u64,
        data: &[u8],
        user: bool,
    ) -> Result<(), Fault> {
        if self.in_assist {
            return Err(Fault::NO_ASSIST);
        }
        self.probe_linear(linear, data.len(), Access::write(user))?;
        if self.breakpoints_enabled() {
            self.note_access(linear, data.len(), true);
        }
        let mut done = 0;
        while done < data.len() {
            let at = self.wrap_linear(linear.wrapping_add(done as u64));
            let c = self.translate(at, Access::write(user))?;
            let offset = (at % PAGE) as usize;
            let n = (PAGE as usize - offset).min(data.len() - done);
            let source = &data[done..done + n];
            if c.rights & physical::IO != 0 {
                for (i, byte) in source.iter().enumerate() {
                    self.write_physical_io(c.page + (offset + i) as u64, 1, *byte as u64);
                }
            } else if c.rights & physical::ROM != 0 {
                self.write_rom(c.page + offset as u64, source);
            } else {
                // SAFETY: offset + n stays inside the page at `host`.
                unsafe { std::ptr::copy(source.as_ptr(), c.host.add(offset), n) };
                self.note_store(c.page + offset as u64, n as u64);
            }
            done += n;
        }
        Ok(())
    }

    /// Whether a store to the page has no effects but the store.
    pub fn assist_may_write(&self, page: &Cached) -> bool {
        page.rights & (physical::IO | physical::ROM) == 0 && !self.page_has_code(page.page)
    }

    /// Raises the fault that an access of `length` bytes would, without accessing.
    pub fn probe_linear(
        &mut self,
        linear: u64,
        length: usize,
        access: Access,
    ) -> Result<(), Fault> {
        let mut at = linear;
        let mut left = length as u64;
        while left > 0 {
            self.translate(self.wrap_linear(at), access)?;
            let n = (PAGE - at % PAGE).min(left);
            at = at.wrapping_add(n);
            left -= n;
        }
        Ok(())
    }

    /// Linear addresses are 32 bits wide outside long mode.
    #[inline]
    pub fn wrap_linear(&self, linear: u64) -> u64 {
        if self.cpu.long_mode() {
            linear
        } else {
            linear & 0xFFFF_FFFF
        }
    }

    fn read_physical_io(&mut self, address: u64, size: usize) -> u64 {
        self.stats.mmio_accesses += 1;
        if Some(address & !(PAGE - 1)) == self.apic.page() {
            return self.apic_read(address % PAGE, size);
        }
        if size.is_power_of_two() {
            return self.vm.io.mmio_read(address, size as u8);
        }
        (0..size).fold(0, |v, i| {
            v | self.vm.io.mmio_read(address + i as u64, 1) << (8 * i)
        })
    }

    /// A store inside a page that reads as memory and isn't RAM: to the RAM behind it, to the flash
    /// chip's registers, or nowhere.
    fn write_rom(&mut self, address: u64, data: &[u8]) {
        if self.vm.memory.write_beneath(address, data)
            || !self.vm.io.page_has_mmio(address & !(PAGE - 1))
        {
            return;
        }
        if data.len() <= 8 && data.len().is_power_of_two() {
            let value = data.iter().rfold(0, |v, byte| v << 8 | *byte as u64);
            return self.write_physical_io(address, data.len(), value);
        }
        for (at, byte) in (address..).zip(data) {
            self.write_physical_io(at, 1, *byte as u64);
        }
    }

    fn write_physical_io(&mut self, address: u64, size: usize, value: u64) {
        self.stats.mmio_accesses += 1;
        if Some(address & !(PAGE - 1)) == self.apic.page() {
            self.apic_write(address % PAGE, size, value);
        } else if size.is_power_of_two() {
            self.vm.io.mmio_write(address, size as u8, value);
        } else {
            for i in 0..size {
                self.vm
                    .io
                    .mmio_write(address + i as u64, 1, value >> (8 * i) & 0xFF);
            }
        }
    }

    /// Drops translated code that a store of `length` bytes inside a page changed, and tells the
    /// dirty logs; `address` as `Cached::page` has it.
    #[inline]
    pub fn note_store(&mut self, address: u64, length: u64) {
        let Some(offset) = self.vm.memory.ram_offset(address) else {
            return;
        };
        let flags = self.vm.memory.flags_at(offset).load(Ordering::Relaxed);
        if flags != 0 {
            self.vm.memory.note_dirty(offset);
            if flags & page_flag::HAS_CODE != 0 {
                self.invalidate_code(address, length);
            }
        }
    }

    /// After a change of CR0.PG/WP, CR4 paging bits, EFER.NXE, or of the physical map: no
    /// translation survives.
    pub fn flush_tlb_all(&mut self) {
        self.stats.tlb_flushes += 1;
        self.mmu.flush_all();
        self.jit_flush_all();
    }

    /// After MOV CR3 (and task switches) to `value`; loads the PDPTEs where PAE paging wants them.
    /// CR3 itself is set here.  A bad PDPTE is #GP(0) and leaves CR3 as it was.
    pub fn load_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let pcids = self.cpu.cr4 & cr4::PCIDE != 0;
        let keep = pcids && value >> 63 != 0;
        let value = value & !(1 << 63);
        if self.pae_without_long_mode() {
            if self.in_assist {
                return Err(Fault::NO_ASSIST);
            }
            self.cpu.pdpte = self.read_pdptes(value)?;
        }
        if self.in_assist && !self.mmu.has_generations() {
            return Err(Fault::NO_ASSIST);
        }
        self.cpu.cr3 = value;
        self.stats.tlb_flushes += 1;
        if pcids {
            self.mmu.switch((value & 0xFFF) as u16, keep);
        } else {
            self.mmu.flush_space();
        }
        self.jit_switch_space();
        Ok(())
    }

    fn pae_without_long_mode(&self) -> bool {
        let CpuState {
            cr0: c0, cr4: c4, ..
        } = *self.cpu;
        c0 & cr0::PG != 0 && c4 & cr4::PAE != 0 && !self.cpu.long_mode()
    }

    /// The four page-directory-pointer-table entries at `cr3` (SDM vol. 3, 5.4.1).
    pub fn read_pdptes(&mut self, cr3: u64) -> Result<[u64; 4], Fault> {
        let mut bytes = [0; 32];
        self.vm
            .memory
            .read(self.vm.memory.gate(cr3 & 0xFFFF_FFE0), &mut bytes, |_| {
                false
            });
        let mut entries = [0; 4];
        for (entry, raw) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = raw.iter().rev().fold(0, |v, b| v << 8 | *b as u64);
            let reserved = 0x1E6 | !((1u64 << walk::PHYSICAL_BITS) - 1);
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return Err(Fault::GP0);
            }
        }
        Ok(entries)
    }

    /// INVLPG.
    pub fn flush_tlb_page(&mut self, linear: u64) {
        let large = self.mmu.flush_page(linear);
        self.jit_flush_page(linear, large);
    }
}

/// # Safety
/// `size` (1 to 8) bytes at `p` are readable.
#[inline]
unsafe fn load(p: *const u8, size: usize) -> u64 {
    // SAFETY: the caller's promise; unaligned reads are used where alignment isn't known.
    unsafe {
        match size {
            1 => *p as u64,
            2 => p.cast::<u16>().read_unaligned() as u64,
            4 => p.cast::<u32>().read_unaligned() as u64,
            8 => p.cast::<u64>().read_unaligned(),
            _ => (0..size).fold(0, |v, i| v | (*p.add(i) as u64) << (8 * i)),
        }
    }
}

/// # Safety
/// `size` (1 to 8) bytes at `p` are writable.
#[inline]
unsafe fn store(p: *mut u8, size: usize, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => *p = value as u8,
            2 => p.cast::<u16>().write_unaligned(value as u16),
            4 => p.cast::<u32>().write_unaligned(value as u32),
            8 => p.cast::<u64>().write_unaligned(value),
            _ => (0..size).for_each(|i| *p.add(i) = (value >> (8 * i)) as u8),
        }
    }
}
