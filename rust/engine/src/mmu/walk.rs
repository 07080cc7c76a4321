//! Page-table walks of all paging modes (SDM vol. 3, chapter 5).

use crate::fault::{Fault, pf};
use crate::memory::{Memory, PAGE, Page};
use crate::state::{CpuState, cr0, cr4, efer};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Physical address bits that the guest's CPU has (CPUID 80000008h).
pub const PHYSICAL_BITS: u32 = 40;
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;

/// Page-table entry bits (SDM vol. 3, table 5-20).
mod pte {
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const XD: u64 = 1 << 63;
}

/// What an access is, as page protection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    /// At CPL 3, and not an implicit supervisor access.
    pub user: bool,
    pub fetch: bool,
}

impl Access {
    pub const fn read(user: bool) -> Access {
        Access {
            write: false,
            user,
            fetch: false,
        }
    }

    pub const fn write(user: bool) -> Access {
        Access {
            write: true,
            user,
            fetch: false,
        }
    }

    pub const fn fetch(user: bool) -> Access {
        Access {
            write: false,
            user,
            fetch: true,
        }
    }
}

/// Rights of a translation.
pub mod right {
    pub const USER: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const NO_EXECUTE: u32 = 1 << 2;
    pub const DIRTY: u32 = 1 << 3;
    pub const GLOBAL: u32 = 1 << 4;
    /// From a page larger than 4 KiB.
    pub const LARGE: u32 = 1 << 5;
}

/// The 4 KiB page that a linear address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the page (not gated by A20).
    pub page: u64,
    pub rights: u32,
}

/// Whether `rights` allow the access; the fault's error code without P otherwise.
pub fn permitted(cpu: &CpuState, rights: u32, access: Access) -> bool {
    let user_page = rights & right::USER != 0;
    if access.user && !user_page {
        return false;
    }
    if access.fetch {
        let smep = cpu.cr4 & cr4::SMEP != 0;
        return rights & right::NO_EXECUTE == 0 && (access.user || !smep || !user_page);
    }
    if access.write && rights & right::WRITE == 0 {
        return !access.user && cpu.cr0 & cr0::WP == 0;
    }
    true
}

struct Walk<'a> {
    cpu: &'a CpuState,
    memory: &'a Memory,
    linear: u64,
    access: Access,
    /// Accessed and dirty bits are set.
    marks: bool,
}

/// Translates the page of `linear`, setting accessed and dirty bits; what the access may not do is a #PF.
pub fn walk(
    cpu: &CpuState,
    memory: &Memory,
    linear: u64,
    access: Access,
) -> Result<Translation, Fault> {
    if cpu.cr0 & cr0::PG == 0 {
        let rights = right::USER | right::WRITE | right::DIRTY | right::GLOBAL;
        return Ok(Translation {
            page: linear & 0xFFFF_F000,
            rights,
        });
    }
    let walk = Walk {
        cpu,
        memory,
        linear,
        access,
        marks: true,
    };
    walk.any_mode()
}

/// The page of `linear` as a debugger looks: any right will do, and no bit is set.
pub fn peek(cpu: &CpuState, memory: &Memory, linear: u64) -> Option<u64> {
    if cpu.cr0 & cr0::PG == 0 {
        return Some(linear & 0xFFFF_F000);
    }
    let walk = Walk {
        cpu,
        memory,
        linear,
        access: Access::read(false),
        marks: false,
    };
    walk.any_mode().ok().map(|found| found.page)
}

impl Walk<'_> {
    fn any_mode(&self) -> Result<Translation, Fault> {
        let cpu = self.cpu;
        if cpu.cr4 & cr4::PAE == 0 {
            return self.two_level();
        }
        if cpu.long_mode() {
            return self.levels(cpu.cr3 & PHYSICAL_MASK & !0xFFF, 3);
        }
        let pdpte = cpu.pdpte[(self.linear >> 30 & 3) as usize];
        if pdpte & pte::P == 0 {
            return Err(self.fault(0));
        }
        self.levels(pdpte & PHYSICAL_MASK & !0xFFF, 1)
    }

    fn fault(&self, code: u32) -> Fault {
        let nx = self.cpu.cr4 & cr4::PAE != 0 && self.cpu.efer & efer::NXE != 0;
        let instruction = self.access.fetch && (nx || self.cpu.cr4 & cr4::SMEP != 0);
        let code = code
            | if self.access.write { pf::W } else { 0 }
            | if self.access.user { pf::U } else { 0 }
            | if instruction { pf::I } else { 0 };
        Fault::page(self.linear, code)
    }

    /// The final step: rights checked, A and D set in `entry`.
    fn finish(&self, rights: u32, page: u64) -> Result<Translation, Fault> {
        if !permitted(self.cpu, rights, self.access) {
            return Err(self.fault(pf::P));
        }
        Ok(Translation { page, rights })
    }

    /// PAE and 4-level paging from the table at `table`, `level` 3 (PML4) to 0 (page table).
    fn levels(&self, mut table: u64, mut level: u32) -> Result<Translation, Fault> {
        let nxe = self.cpu.efer & efer::NXE != 0;
        let long = self.cpu.long_mode();
        let mut rights = right::USER | right::WRITE;
        let top = level as usize;
        let mut upper = [(0, 0); 4];
        loop {
            let at = table + (self.linear >> (12 + 9 * level) & 0x1FF) * 8;
            let entry = self.load(at, 8);
            if entry & pte::P == 0 {
                return Err(self.fault(0));
            }
            let mut reserved = 0x000F_FFFF_FFFF_F000 & !PHYSICAL_MASK;
            if !nxe {
                reserved |= pte::XD;
            }
            if !long {
                reserved |= 0x7FF0_0000_0000_0000;
            }
            let large = level > 0 && entry & pte::PS != 0;
            if large && level <= 2 {
                reserved |= ((1 << (12 + 9 * level)) - 1) & !0x1FFF;
            } else if large {
                reserved |= pte::PS;
            }
            if entry & reserved != 0 {
                return Err(self.fault(pf::P | pf::RSVD));
            }
            rights = combine(rights, entry);
            if level > 0 && !large {
                upper[level as usize] = (at, entry);
                table = entry & PHYSICAL_MASK & !0xFFF;
                level -= 1;
                continue;
            }
            let mask = (1u64 << (12 + 9 * level)) - 1;
            let page = (entry & PHYSICAL_MASK & !mask & !0xFFF) | self.linear & mask & !0xFFF;
            if large {
                rights |= right::LARGE;
            }
            let done = self.leaf(at, 8, entry, rights, page)?;
            // An access that faults leaves no trace.
            for (at, entry) in &upper[level as usize + 1..=top] {
                self.set(*at, 8, *entry, pte::A);
            }
            return Ok(done);
        }
    }

    /// 32-bit paging with optional 4 MiB pages (PSE, PSE-36).
    fn two_level(&self) -> Result<Translation, Fault> {
        let at = (self.cpu.cr3 & 0xFFFF_F000) + (self.linear >> 22 & 0x3FF) * 4;
        let entry = self.load(at, 4);
        if entry & pte::P == 0 {
            return Err(self.fault(0));
        }
        let rights = combine(right::USER | right::WRITE, entry);
        if entry & pte::PS != 0 && self.cpu.cr4 & cr4::PSE != 0 {
            // Bits 39:32 of the address lie in bits 20:13; bit 21 is reserved.
            if entry & 1 << 21 != 0 {
                return Err(self.fault(pf::P | pf::RSVD));
            }
            let base = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32;
            let page = base | self.linear & 0x003F_F000;
            return self.leaf(at, 4, entry, rights | right::LARGE, page);
        }
        let (directory_at, directory) = (at, entry);
        let at = (entry & 0xFFFF_F000) + (self.linear >> 12 & 0x3FF) * 4;
        let entry = self.load(at, 4);
        if entry & pte::P == 0 {
            return Err(self.fault(0));
        }
        let done = self.leaf(at, 4, entry, combine(rights, entry), entry & 0xFFFF_F000)?;
        self.set(directory_at, 4, directory, pte::A);
        Ok(done)
    }

    fn leaf(
        &self,
        at: u64,
        width: u8,
        entry: u64,
        mut rights: u32,
        page: u64,
    ) -> Result<Translation, Fault> {
        if entry & pte::G != 0 && self.cpu.cr4 & cr4::PGE != 0 {
            rights |= right::GLOBAL;
        }
        let done = self.finish(rights, page)?;
        let dirty = if self.access.write { pte::D } else { 0 };
        self.set(at, width, entry, pte::A | dirty);
        let dirty = (entry | dirty) & pte::D != 0;
        Ok(Translation {
            rights: done.rights | if dirty { right::DIRTY } else { 0 },
            ..done
        })
    }

    /// The table entry at a guest-physical address; where no RAM is, all ones as a bus reads.
    fn load(&self, at: u64, width: u8) -> u64 {
        match self.host(at) {
            // SAFETY: `host` gives an aligned address inside a page of RAM or ROM.
            Some(p) if width == 8 => unsafe { (*p.cast::<AtomicU64>()).load(Ordering::Relaxed) },
            // SAFETY: as above.
            Some(p) => unsafe { (*p.cast::<AtomicU32>()).load(Ordering::Relaxed) as u64 },
            None if width == 8 => u64::MAX,
            None => u32::MAX as u64,
        }
    }

    /// Sets accessed and dirty bits atomically, as other processors and the guest may write too.
    fn set(&self, at: u64, width: u8, entry: u64, bits: u64) {
        if !self.marks || entry & bits == bits {
            return;
        }
        let at = self.memory.gate(at);
        let Page::Ram(page) = self.memory.page(at, |_| false) else {
            return;
        };
        // SAFETY: aligned and inside the page.
        unsafe {
            let p = page.add((at % PAGE) as usize);
            if width == 8 {
                (*p.cast::<AtomicU64>()).fetch_or(bits, Ordering::Relaxed);
            } else {
                (*p.cast::<AtomicU32>()).fetch_or(bits as u32, Ordering::Relaxed);
            }
        }
        if let Some(offset) = self
            .memory
            .ram_offset(self.memory.home(page, at & !(PAGE - 1)))
        {
            self.memory.note_dirty(offset);
        }
    }

    fn host(&self, at: u64) -> Option<*const u8> {
        let at = self.memory.gate(at);
        let page = match self.memory.page(at, |_| false) {
            Page::Ram(p) => p.cast_const(),
            Page::Rom(p) => p,
            Page::Io => return None,
        };
        // SAFETY: the offset is inside the page.
        Some(unsafe { page.add((at % PAGE) as usize) })
    }
}

/// Rights after one more level: U and W are and-ed, XD is or-ed.
fn combine(rights: u32, entry: u64) -> u32 {
    let mut rights = rights;
    if entry & pte::US == 0 {
        rights &= !right::USER;
    }
    if entry & pte::RW == 0 {
        rights &= !right::WRITE;
    }
    if entry & pte::XD != 0 {
        rights |= right::NO_EXECUTE;
    }
    rights
}
