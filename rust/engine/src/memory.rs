//! Guest-physical memory: RAM, ROM, and what each page of RAM holds.
//!
//! RAM lies at 0 up to the PCI hole and from 4 GiB up.  The host pages are demand allocated; where
//! they come from, and how RAM is frozen for checkpoints and forks, is `crate::backing`'s.
//! Every page of RAM has a byte of `page_flag`s, which the store paths consult.
//!
//! From C0000h to FFFFFh RAM lies behind ROM, and the host bridge decides for each page whether
//! reads and writes reach the one or the other (`set_shadow`; the 440FX's PAM registers).  A ROM may
//! be a flash chip: it is read like memory while it is in array mode (`show_rom`), and an MMIO
//! window at the same place takes stores, and reads in its other modes.
//!
//! Behind RAM's own bytes is what chips bring along: video memory (`add_extra`).  The
//! guest sees it through views (`map_view`), which a chip moves as its registers say, perhaps
//! several of the same bytes.  Such a page's *home* is its one name for translated code and dirty
//! logs, an address that no guest can form; RAM's home is its guest-physical address.

use crate::alias::Aliases;
use crate::backing::{self, Backing, Extent, Image};
use crate::dirty::Logs;
use crate::mapping::{Mapping, Source};
use std::ops::Range;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

pub const PAGE: u64 = 4096;
pub const FOUR_GIB: u64 = 1 << 32;
/// How much memory chips may bring along.
const EXTRA_BYTES: u64 = 256 << 20;
/// Home of the first byte of it.
const EXTRA_HOME: u64 = 1 << 52;

/// What a page of RAM holds, besides data.
pub mod page_flag {
    /// Some block was translated from it: stores must go through `Memory::note_store`.
    pub const HAS_CODE: u8 = 1 << 0;
    /// A store must be told to the dirty logs whose bits are set (`crate::dirty`).
    pub const LOGS: u8 = !HAS_CODE;
    pub const FIRST_LOG: u8 = 1 << 1;
}

/// Where ROM may hide RAM.
const SHADOW_FIRST: u64 = 0xC_0000;
const SHADOW_PAGES: usize = 64;

/// Which accesses to a page of that area reach what is in front of RAM.
mod hidden {
    pub const READS: u8 = 1;
    pub const WRITES: u8 = 2;
}

/// What answers at a guest-physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Host address of the page's first byte.
    Ram(*mut u8),
    Rom(*const u8),
    /// Device registers or nothing: goes to `IoMap`.
    Io,
}

struct Rom {
    base: u64,
    data: Mapping,
    /// Reads see it; off for a flash chip that answers with something else than its array.
    shown: AtomicBool,
}

impl Rom {
    /// Host address of a guest-physical page, if it is one of this ROM's.
    fn page(&self, page: u64) -> Option<*mut u8> {
        let offset = page.checked_sub(self.base)?;
        // SAFETY: inside the ROM's mapping, which lives as long as Memory.
        (offset < self.data.bytes()).then(|| unsafe { self.data.start().add(offset as usize) })
    }
}

/// Memory of a chip at a place in guest-physical memory.
#[derive(Clone, Debug)]
struct View {
    base: u64,
    bytes: u64,
    /// Behind the first byte of RAM.
    offset: u64,
}

/// Bytes written by the host side (DMA) over translated code; the vCPU drops those blocks.
pub type StoreNote = (u64, u64);

/// What came of `Memory::fill`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// All was read; else nothing may be relied on: a region was not RAM, or the file's bytes not at hand.
    pub whole: bool,
    /// There was translated code, for the vCPUs to drop.
    pub noted: bool,
}

pub struct Memory {
    ram: Mapping,
    backing: Mutex<Backing>,
    /// Held by the host's side to store to RAM, and alone to thaw a part of it.
    stores: RwLock<()>,
    aliases: Aliases,
    ram_bytes: u64,
    low_bytes: u64,
    /// End of RAM and of what chips brought along, as offset from the first byte of RAM.
    end: AtomicU64,
    flags: Mapping,
    views: RwLock<Vec<View>>,
    logs: Logs,
    roms: RwLock<Vec<Rom>>,
    /// `hidden` bits of each page from `SHADOW_FIRST` on.
    shadow: [AtomicU8; SHADOW_PAGES],
    /// Address bits that reach the bus: bit 20 is masked while A20 is off.
    address_mask: AtomicU64,
    notes: Mutex<Vec<StoreNote>>,
    /// Increased whenever the map changes; cached translations are then void.
    generation: AtomicU64,
}

impl Memory {
    /// RAM of `ram_bytes`: `low_bytes` at 0, the rest from 4 GiB up (bytes, whole pages).
    pub fn new(ram_bytes: u64, low_bytes: u64) -> std::io::Result<Memory> {
        let whole = |n: u64| n.is_multiple_of(PAGE);
        if !whole(ram_bytes) || !whole(low_bytes) || low_bytes > ram_bytes || low_bytes > FOUR_GIB {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        }
        let (backing, ram) = Backing::new(ram_bytes, ram_bytes + EXTRA_BYTES)?;
        let flags = Mapping::new(((ram_bytes + EXTRA_BYTES) / PAGE) as usize, &Source::Zeros)?;
        Ok(Memory {
            ram,
            backing: Mutex::new(backing),
            stores: RwLock::default(),
            aliases: Aliases::default(),
            ram_bytes,
            low_bytes,
            end: AtomicU64::new(ram_bytes),
            flags,
            views: RwLock::default(),
            logs: Logs::default(),
            roms: RwLock::default(),
            shadow: [const { AtomicU8::new(0) }; SHADOW_PAGES],
            address_mask: AtomicU64::new(u64::MAX),
            notes: Mutex::default(),
            generation: AtomicU64::new(1),
        })
    }

    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    pub fn low_bytes(&self) -> u64 {
        self.low_bytes
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells the vCPUs that the map changed: they drop what they cached of it.
    pub fn map_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub fn set_a20(&self, enabled: bool) {
        let mask = if enabled { u64::MAX } else { !(1 << 20) };
        if self.address_mask.swap(mask, Ordering::AcqRel) != mask {
            self.map_changed();
        }
    }

    /// The address that the bus sees (A20 gate).
    pub fn gate(&self, address: u64) -> u64 {
        address & self.address_mask.load(Ordering::Relaxed)
    }

    pub fn map_rom(&self, base: u64, data: &[u8]) -> std::io::Result<()> {
        let bytes = (data.len() as u64).next_multiple_of(PAGE);
        let copy = Mapping::new(bytes as usize, &Source::Zeros)?;
        // SAFETY: the fresh mapping is at least data.len() long and not shared yet.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), copy.start(), data.len()) };
        let shown = AtomicBool::new(true);
        let mut roms = self.roms.write().unwrap_or_else(|e| e.into_inner());
        roms.push(Rom {
            base,
            data: copy,
            shown,
        });
        drop(roms);
        self.set_shadow(base, bytes, false, false);
        self.map_changed();
        Ok(())
    }

    fn with_roms<T>(&self, look: impl FnOnce(&[Rom]) -> T) -> T {
        look(&self.roms.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Lets reads see the array of the ROM at `base`, or the MMIO window at the same place.
    pub fn show_rom(&self, base: u64, shown: bool) {
        self.with_roms(|roms| {
            for rom in roms.iter().filter(|rom| rom.base == base) {
                rom.shown.store(shown, Ordering::Release);
            }
        });
        self.map_changed();
    }

    /// Programs a ROM: `data` at guest-physical `address`.  Translated code there is noted.
    pub fn program_rom(&self, address: u64, data: &[u8]) {
        for (at, chunk) in page_chunks(address, data.len()) {
            let source = &data[chunk];
            let page =
                self.with_roms(|roms| roms.iter().find_map(|rom| rom.page(at & !(PAGE - 1))));
            if let Some(page) = page {
                // SAFETY: the chunk stays inside the page.
                unsafe {
                    copy(
                        source.as_ptr(),
                        page.add((at % PAGE) as usize),
                        source.len(),
                    )
                };
                self.note(at, source.len() as u64);
            }
        }
    }

    /// Whether reads and writes of whole pages between C0000h and FFFFFh reach RAM.
    pub fn set_shadow(&self, base: u64, bytes: u64, read: bool, write: bool) {
        let bits = if read { 0 } else { hidden::READS } | if write { 0 } else { hidden::WRITES };
        let mut changed = false;
        for (n, page) in self.shadow.iter().enumerate() {
            let at = SHADOW_FIRST + n as u64 * PAGE;
            if at >= base && at - base < bytes {
                changed |= page.swap(bits, Ordering::AcqRel) != bits;
            }
        }
        if changed {
            self.note(base, bytes);
            self.map_changed();
        }
    }

    fn hidden(&self, page: u64) -> u8 {
        let index = page.wrapping_sub(SHADOW_FIRST) / PAGE;
        self.shadow
            .get(index as usize)
            .map_or(0, |bits| bits.load(Ordering::Acquire))
    }

    /// Host address of the RAM that stores to the page of `address` reach though reads don't.
    fn beneath(&self, address: u64) -> Option<*mut u8> {
        let page = address & !(PAGE - 1);
        let offset = self.bus_offset(page)?;
        (self.hidden(page) == hidden::READS).then(|| self.ram_at(offset))
    }

    /// A store to a page that reads as ROM, inside the page: true if it reached RAM behind it.
    pub fn write_beneath(&self, address: u64, data: &[u8]) -> bool {
        let Some(page) = self.beneath(address) else {
            return false;
        };
        let within = (address % PAGE) as usize;
        let length = data.len().min(PAGE as usize - within);
        // SAFETY: within + length stays inside the page.
        unsafe { copy(data.as_ptr(), page.add(within), length) };
        if let Some(offset) = self.bus_offset(address) {
            self.note_dirty(offset);
        }
        true
    }

    fn backing(&self) -> MutexGuard<'_, Backing> {
        self.backing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// RAM and what chips brought along, as it is now and will be in the image, whatever is stored
    /// later (`crate::backing`).  Nobody may store to it meanwhile: the vCPUs stand.
    pub fn freeze(&self) -> std::io::Result<Image> {
        let bytes = self.end.load(Ordering::Acquire);
        let mut backing = self.backing();
        self.aliases.revoke()?;
        backing.freeze(&self.ram, bytes)
    }

    /// Makes RAM and what chips brought along what the extents say, and zero where there are none.
    /// As for `freeze`; what was derived from RAM is the caller's to drop.
    pub fn adopt(&self, extents: Vec<Extent>) -> std::io::Result<()> {
        backing::check(&extents, self.end.load(Ordering::Acquire))?;
        let mut backing = self.backing();
        self.aliases.revoke()?;
        backing.adopt(&self.ram, extents)
    }

    pub(crate) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Whether a part of RAM, from host address `host` on, can be shown in a second place (`crate::alias`)
    /// without being thawed.
    pub fn is_shared(&self, host: u64, bytes: u64) -> bool {
        self.ram_part(host, bytes)
            .is_some_and(|part| self.backing().is_shared(part))
    }

    /// The same of all RAM: it was never frozen.
    pub fn is_all_shared(&self) -> bool {
        self.backing().is_shared(0..self.ram_bytes)
    }

    /// Offsets of a part of RAM, of a host address in RAM's mapping.
    fn ram_part(&self, host: u64, bytes: u64) -> Option<Range<u64>> {
        let offset = host.wrapping_sub(self.ram.start() as u64);
        let inside = bytes <= self.ram_bytes && offset <= self.ram_bytes - bytes;
        inside.then(|| offset..offset + bytes)
    }

    /// Calls `with` the file that a part of RAM is, after it was thawed, and where in it that lies.  For the
    /// vCPU's own thread: the guest stands meanwhile.
    pub(crate) fn with_shared_file(
        &self,
        host: u64,
        bytes: u64,
        with: impl FnOnce(BorrowedFd, u64) -> bool,
    ) -> bool {
        let Some(part) = self.ram_part(host, bytes) else {
            return false;
        };
        let mut backing = self.backing();
        if !backing.is_shared(part.clone()) {
            let _alone = self.stores.write().unwrap_or_else(|e| e.into_inner());
            let end = self.end.load(Ordering::Acquire);
            if backing.thaw(&self.ram, part.clone(), end).is_err() {
                return false;
            }
        }
        let file = backing.shared_file();
        file.is_some_and(|file| with(file, part.start))
    }

    /// Of RAM and what chips brought along.
    pub fn total_bytes(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Memory for a chip, zeroed: its offset from the first byte of RAM (bytes, whole pages).
    pub fn add_extra(&self, bytes: u64) -> std::io::Result<u64> {
        let _one_at_a_time = self.views.write().unwrap_or_else(|e| e.into_inner());
        let offset = self.end.load(Ordering::Acquire);
        let end = offset.saturating_add(bytes);
        if !bytes.is_multiple_of(PAGE) || end > self.ram_bytes + EXTRA_BYTES {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        }
        self.backing().grow(&self.ram, offset..end)?;
        self.end.store(end, Ordering::Release);
        Ok(offset)
    }

    /// Shows the guest a chip's memory at `base`: RAM above 1 MiB, devices and ROMs there go before.
    /// Whole pages; `offset` as from `add_extra`.
    pub fn map_view(&self, base: u64, bytes: u64, offset: u64) {
        let mut views = self.views.write().unwrap_or_else(|e| e.into_inner());
        let end = self.end.load(Ordering::Acquire);
        if offset < self.ram_bytes || bytes > end || offset > end - bytes {
            return;
        }
        views.retain(|view| view.base != base);
        views.push(View {
            base,
            bytes,
            offset,
        });
        drop(views);
        self.map_changed();
    }

    pub fn unmap_view(&self, base: u64) {
        let mut views = self.views.write().unwrap_or_else(|e| e.into_inner());
        let before = views.len();
        views.retain(|view| view.base != base);
        let changed = views.len() != before;
        drop(views);
        if changed {
            self.map_changed();
        }
    }

    fn viewed(&self, page: u64) -> Option<*mut u8> {
        let views = self.views.read().unwrap_or_else(|e| e.into_inner());
        let inside = |view: &&View| page >= view.base && page - view.base < view.bytes;
        let view = views.iter().find(inside)?;
        Some(self.ram_at(view.offset + (page - view.base)))
    }

    /// The home of the page that `Page::Ram` gave, or `page` for what isn't RAM.
    pub fn home(&self, host: *const u8, page: u64) -> u64 {
        let offset = (host as u64).wrapping_sub(self.ram.start() as u64);
        if offset < self.ram_bytes || offset >= self.ram.bytes() {
            page
        } else {
            EXTRA_HOME + (offset - self.ram_bytes)
        }
    }

    /// Offset into RAM (or what is behind it) of a home address, if RAM lies there (ROM and MMIO not
    /// considered).
    pub fn ram_offset(&self, home: u64) -> Option<u64> {
        if home >= EXTRA_HOME {
            let offset = home - EXTRA_HOME + self.ram_bytes;
            return (offset < self.end.load(Ordering::Relaxed)).then_some(offset);
        }
        self.bus_offset(home)
    }

    /// The same of a guest-physical address: RAM only.
    fn bus_offset(&self, address: u64) -> Option<u64> {
        if address < self.low_bytes {
            Some(address)
        } else if address >= FOUR_GIB {
            let offset = address - FOUR_GIB + self.low_bytes;
            (offset < self.ram_bytes).then_some(offset)
        } else {
            None
        }
    }

    /// Host address of an offset into RAM.
    pub fn ram_at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.ram.bytes());
        // SAFETY: callers pass an offset from `ram_offset`, which is inside the mapping.
        unsafe { self.ram.start().add(offset as usize) }
    }

    /// What answers at the page of `address` (already gated); `io_here` tells of MMIO windows.
    pub fn page(&self, address: u64, io_here: impl Fn(u64) -> bool) -> Page {
        let page = address & !(PAGE - 1);
        let hidden = self.hidden(page);
        // Windows over RAM exist only below 1 MiB (video, option ROMs, BIOS); elsewhere RAM wins.
        if page >= 0x10_0000
            && let Some(offset) = self.bus_offset(page)
        {
            return Page::Ram(self.ram_at(offset));
        }
        let viewed = self.viewed(page);
        if page < 0x10_0000
            && let Some(host) = viewed
        {
            return Page::Ram(host);
        }
        let ram = self.bus_offset(page).map(|offset| self.ram_at(offset));
        if hidden & hidden::READS == 0
            && let Some(ram) = ram
        {
            return match hidden {
                _ if io_here(page) => Page::Io,
                0 => Page::Ram(ram),
                _ => Page::Rom(ram),
            };
        }
        let shown = |rom: &Rom| rom.page(page).filter(|_| rom.shown.load(Ordering::Acquire));
        match self.with_roms(|roms| roms.iter().find_map(shown)) {
            Some(rom) => Page::Rom(rom),
            None if io_here(page) => Page::Io,
            None => viewed.map_or(Page::Io, Page::Ram),
        }
    }

    /// The flag byte of the page of RAM at `offset`.
    pub fn flags_at(&self, offset: u64) -> &AtomicU8 {
        debug_assert!(offset < self.ram.bytes());
        // SAFETY: one byte for each page of RAM; AtomicU8 has the layout of u8.
        unsafe {
            &*self
                .flags
                .start()
                .add((offset / PAGE) as usize)
                .cast::<AtomicU8>()
        }
    }

    /// Guest-physical addresses of RAM with these bytes, the first `most`; what the host hasn't
    /// allocated (it reads as zero) is not looked at.
    pub fn search(&self, needle: &[u8], most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        let touched = self.backing().touched(&self.ram, self.ram_bytes);
        for extent in touched.unwrap_or_default() {
            let mut at = extent.start;
            while found.len() < most {
                // SAFETY: the extent lies inside the mapping.
                let hit = unsafe {
                    libc::memmem(
                        self.ram_at(at).cast(),
                        (extent.end - at) as usize,
                        needle.as_ptr().cast(),
                        needle.len(),
                    )
                };
                if hit.is_null() {
                    break;
                }
                let offset = hit as u64 - self.ram.start() as u64;
                found.push(if offset < self.low_bytes {
                    offset
                } else {
                    FOUR_GIB + (offset - self.low_bytes)
                });
                at = offset + 1;
            }
        }
        found
    }

    /// Whether a dirty log waits for a store to the page at a host address; false for what isn't RAM.
    pub fn logged(&self, host: u64) -> bool {
        let offset = host.wrapping_sub(self.ram.start() as u64);
        offset < self.ram.bytes()
            && self.flags_at(offset).load(Ordering::Relaxed) & page_flag::LOGS != 0
    }

    /// Address of the flag byte of page 0, for generated code.
    pub fn flags_base(&self) -> *mut u8 {
        self.flags.start()
    }

    /// Reads as DMA does: RAM and ROM, FFh where nothing is.
    pub fn read(&self, address: u64, out: &mut [u8], io_here: impl Fn(u64) -> bool) {
        for (at, chunk) in page_chunks(address, out.len()) {
            let target = &mut out[chunk];
            let within = (at % PAGE) as usize;
            match self.page(at, &io_here) {
                // SAFETY: the chunk stays inside the page.
                Page::Ram(p) => unsafe { copy(p.add(within), target.as_mut_ptr(), target.len()) },
                // SAFETY: the chunk stays inside the page.
                Page::Rom(p) => unsafe { copy(p.add(within), target.as_mut_ptr(), target.len()) },
                Page::Io => target.fill(0xFF),
            }
        }
    }

    /// Writes as DMA does: RAM only.  Translated code there is noted for the vCPUs; true if there
    /// was any.
    pub fn write(&self, address: u64, data: &[u8], io_here: impl Fn(u64) -> bool) -> bool {
        let mut noted = false;
        for (at, chunk) in page_chunks(address, data.len()) {
            let source = &data[chunk];
            let target = match self.page(at, &io_here) {
                Page::Ram(p) => Some(p),
                Page::Rom(_) | Page::Io => self.beneath(at),
            };
            if let Some(p) = target {
                let _not_thawed = self.stores.read().unwrap_or_else(|e| e.into_inner());
                // SAFETY: the chunk stays inside the page.
                unsafe { copy(source.as_ptr(), p.add((at % PAGE) as usize), source.len()) };
                let home = self.home(p, at & !(PAGE - 1)) + at % PAGE;
                noted |= self.note_write(home, source.len() as u64);
            }
        }
        noted
    }

    /// Reads a file of the host into the regions (address, bytes) as DMA does, without a copy in between
    /// and without waiting for the host's disk.
    pub fn fill(
        &self,
        regions: impl Iterator<Item = (u64, usize)>,
        fd: RawFd,
        offset: u64,
        io_here: impl Fn(u64) -> bool,
    ) -> Filled {
        let mut pieces: Vec<libc::iovec> = Vec::new();
        let mut homes = Vec::new();
        for (at, chunk) in regions.flat_map(|(address, bytes)| page_chunks(address, bytes)) {
            let Page::Ram(page) = self.page(at, &io_here) else {
                return Filled::default();
            };
            // SAFETY: the chunk stays inside the page.
            let start = unsafe { page.add((at % PAGE) as usize) };
            homes.push((
                self.home(page, at & !(PAGE - 1)) + at % PAGE,
                chunk.len() as u64,
            ));
            match pieces.last_mut() {
                Some(last) if last.iov_base as usize + last.iov_len == start as usize => {
                    last.iov_len += chunk.len();
                }
                _ => pieces.push(libc::iovec {
                    iov_base: start.cast(),
                    iov_len: chunk.len(),
                }),
            }
        }
        let not_thawed = self.stores.read().unwrap_or_else(|e| e.into_inner());
        let whole = read_at_hand(fd, offset, &pieces);
        drop(not_thawed);
        let mut noted = false;
        for (home, bytes) in homes {
            noted |= self.note_write(home, bytes);
        }
        Filled { whole, noted }
    }

    /// A store by the host, inside one page: dirty logs hear of it; true if there was translated code.
    fn note_write(&self, home: u64, length: u64) -> bool {
        // A vCPU flags the page, then reads its code: one of the two sees the other's work.
        std::sync::atomic::fence(Ordering::SeqCst);
        let Some(offset) = self.ram_offset(home) else {
            return false;
        };
        self.note_dirty(offset);
        let code = self.flags_at(offset).load(Ordering::Acquire) & page_flag::HAS_CODE != 0;
        if code {
            self.note(home, length);
        }
        code
    }

    /// Writes to a chip's memory, at an offset as from `add_extra`; true if there was translated code.
    pub fn write_extra(&self, offset: u64, data: &[u8]) -> bool {
        let mut noted = false;
        for (at, chunk) in page_chunks(offset, data.len()) {
            let source = &data[chunk];
            if at < self.ram_bytes || at >= self.end.load(Ordering::Acquire) {
                continue;
            }
            // SAFETY: the chunk stays inside a page of the mapping.
            unsafe { copy(source.as_ptr(), self.ram_at(at), source.len()) };
            noted |= self.note_write(EXTRA_HOME + (at - self.ram_bytes), source.len() as u64);
        }
        noted
    }

    fn note(&self, address: u64, length: u64) {
        let mut notes = self.notes.lock().unwrap_or_else(|e| e.into_inner());
        notes.push((address, length));
    }

    /// Takes the notes of host-side stores over translated code.
    pub fn take_notes(&self) -> Vec<StoreNote> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// # Safety
/// Both ranges are valid for `bytes`.
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; guest RAM may be written concurrently by the guest, as on hardware.
    unsafe { std::ptr::copy(from, to, bytes) };
}

/// Reads into the pieces what the host has of a file without waiting; false: not all of it.
fn read_at_hand(fd: RawFd, mut offset: u64, pieces: &[libc::iovec]) -> bool {
    for some in pieces.chunks(libc::UIO_MAXIOV as usize) {
        let wanted: usize = some.iter().map(|piece| piece.iov_len).sum();
        let Ok(at) = libc::off_t::try_from(offset) else {
            return false;
        };
        let count = some.len() as libc::c_int;
        // SAFETY: the pieces lie in RAM's mapping (`Memory::fill`), which the guest may write, too.
        let read = unsafe { libc::preadv2(fd, some.as_ptr(), count, at, libc::RWF_NOWAIT) };
        if usize::try_from(read) != Ok(wanted) {
            return false;
        }
        offset = offset.saturating_add(wanted as u64);
    }
    true
}

/// Splits `length` bytes from `address` at page borders: (address, range of the buffer).
fn page_chunks(address: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let at = address.wrapping_add(done as u64);
        let n = ((PAGE - at % PAGE) as usize).min(length - done);
        done += n;
        Some((at, done - n..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn nowhere(_: u64) -> bool {
        false
    }

    #[test]
    fn high_ram_starts_at_four_gib() {
        let m = Memory::new(3 * PAGE, PAGE).unwrap();
        m.write(FOUR_GIB, b"high", nowhere);
        let mut out = [0; 4];
        m.read(FOUR_GIB, &mut out, nowhere);
        assert_eq!(&out, b"high");
        assert_eq!(m.ram_offset(FOUR_GIB), Some(PAGE));
        assert_eq!(m.ram_offset(PAGE), None);
        assert_eq!(m.ram_offset(FOUR_GIB + 2 * PAGE), None);
    }

    #[test]
    fn holes_read_as_ones_and_ignore_writes() {
        let m = Memory::new(PAGE, PAGE).unwrap();
        m.write(2 * PAGE - 2, b"abcd", nowhere);
        let mut out = [0; 4];
        m.read(2 * PAGE - 2, &mut out, nowhere);
        assert_eq!(out, [0xFF; 4]);
    }

    #[test]
    fn rom_hides_ram_below_one_mib_and_ignores_writes() {
        let m = Memory::new(1 << 20, 1 << 20).unwrap();
        m.map_rom(0xF_0000, b"BIOS").unwrap();
        m.write(0xF_0000, b"xxxx", nowhere);
        let mut out = [0; 4];
        m.read(0xF_0000, &mut out, nowhere);
        assert_eq!(&out, b"BIOS");
    }

    #[test]
    fn shadowing_lets_reads_and_writes_through_on_their_own() {
        let m = Memory::new(1 << 20, 1 << 20).unwrap();
        m.map_rom(0xE_0000, &[0x11; 0x2000]).unwrap();
        let read = || {
            let mut out = [0; 1];
            m.read(0xE_0000, &mut out, nowhere);
            out[0]
        };
        m.set_shadow(0xE_0000, PAGE, false, true);
        m.write(0xE_0000, &[0x22], nowhere);
        assert_eq!(read(), 0x11);
        m.set_shadow(0xE_0000, PAGE, true, false);
        m.write(0xE_0000, &[0x33], nowhere);
        assert_eq!(read(), 0x22);
        m.set_shadow(0xE_0000, PAGE, true, true);
        m.write(0xE_0000, &[0x44], nowhere);
        assert_eq!(read(), 0x44);
        m.set_shadow(0xE_0000, PAGE, false, false);
        m.write(0xE_0000, &[0x55], nowhere);
        assert_eq!(read(), 0x11);
    }

    #[test]
    fn shadowing_is_noted_for_translated_code() {
        let m = Memory::new(1 << 20, 1 << 20).unwrap();
        let before = m.generation();
        m.set_shadow(0xC_0000, 0x4000, true, false);
        assert_eq!(m.take_notes(), vec![(0xC_0000, 0x4000)]);
        assert_ne!(m.generation(), before);
        m.set_shadow(0xC_0000, 0x4000, true, false);
        assert!(m.take_notes().is_empty());
    }

    #[test]
    fn a_hidden_rom_leaves_its_place_to_registers() {
        let m = Memory::new(PAGE, PAGE).unwrap();
        let base = FOUR_GIB - PAGE;
        m.map_rom(base, &[0x11; 4]).unwrap();
        m.show_rom(base, false);
        assert_eq!(m.page(base, |_| true), Page::Io);
        m.show_rom(base, true);
        assert!(matches!(m.page(base, |_| true), Page::Rom(_)));
    }

    #[test]
    fn programming_changes_a_rom_and_is_noted() {
        let m = Memory::new(PAGE, PAGE).unwrap();
        let base = FOUR_GIB - 2 * PAGE;
        m.map_rom(base, &[0xFF; 2 * PAGE as usize]).unwrap();
        m.program_rom(base + PAGE - 1, &[1, 2]);
        let mut out = [0; 4];
        m.read(base + PAGE - 2, &mut out, nowhere);
        assert_eq!(out, [0xFF, 1, 2, 0xFF]);
        assert_eq!(m.take_notes(), vec![(base + PAGE - 1, 1), (base + PAGE, 1)]);
    }

    #[test]
    fn a_view_shows_memory_of_a_chip_and_moves() {
        let m = Memory::new(PAGE, PAGE).unwrap();
        let offset = m.add_extra(2 * PAGE).unwrap();
        m.map_view(0xE000_0000, 2 * PAGE, offset);
        m.write(0xE000_0FFF, b"ab", nowhere);
        m.unmap_view(0xE000_0000);
        let read = |address| {
            let mut out = [0; 2];
            m.read(address, &mut out, nowhere);
            out
        };
        assert_eq!(read(0xE000_0FFF), [0xFF; 2]);
        m.map_view(0xF000_0000, 2 * PAGE, offset);
        assert_eq!(&read(0xF000_0FFF), b"ab");
    }

    #[test]
    fn below_one_mib_a_view_hides_windows_and_above_they_hide_it() {
        let m = Memory::new(1 << 20, 1 << 20).unwrap();
        let offset = m.add_extra(PAGE).unwrap();
        m.map_view(0xA_0000, PAGE, offset);
        m.map_view(0xFEC0_0000, PAGE, offset);
        assert!(matches!(m.page(0xA_0000, |_| true), Page::Ram(_)));
        assert_eq!(m.page(0xFEC0_0000, |_| true), Page::Io);
    }

    #[test]
    fn all_views_of_a_page_have_one_home() {
        let m = Memory::new(1 << 20, 1 << 20).unwrap();
        let offset = m.add_extra(2 * PAGE).unwrap();
        m.map_view(0xA_0000, PAGE, offset + PAGE);
        m.map_view(0xE000_0000, 2 * PAGE, offset);
        let home = |page| match m.page(page, nowhere) {
            Page::Ram(host) => m.home(host, page),
            other => panic!("{other:?}"),
        };
        assert_eq!(home(0xA_0000), home(0xE000_1000));
        assert_eq!(m.ram_offset(home(0xA_0000)), Some(offset + PAGE));
        assert_eq!(home(0x1000), 0x1000);
    }

    /// A file of 3 pages of 1, 2 and 3, if its file system can tell what is at hand (tmpfs may not).
    fn file() -> Option<std::fs::File> {
        use std::io::Write;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("ring3-fill-{}-{}", name.0, name.1));
        let mut options = std::fs::File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        for n in 1..4 {
            file.write_all(&[n; PAGE as usize]).unwrap();
        }
        let mut out = [0u8; 1];
        let piece = libc::iovec {
            iov_base: out.as_mut_ptr().cast(),
            iov_len: 1,
        };
        read_at_hand(file.as_raw_fd(), 0, &[piece]).then_some(file)
    }

    fn fill(m: &Memory, regions: &[(u64, usize)], file: &std::fs::File, offset: u64) -> Filled {
        m.fill(regions.iter().copied(), file.as_raw_fd(), offset, |page| {
            page == 0
        })
    }

    const WHOLE: Filled = Filled {
        whole: true,
        noted: false,
    };

    #[test]
    fn a_file_fills_regions_of_any_size() {
        let (m, Some(file)) = (Memory::new(8 * PAGE, 8 * PAGE).unwrap(), file()) else {
            return;
        };
        let regions = [(0x4FFF, 2), (0x2000, PAGE as usize), (0x3000, 1)];
        assert_eq!(fill(&m, &regions, &file, PAGE - 1), WHOLE);
        let mut out = [0; 3];
        m.read(0x4FFE, &mut out, nowhere);
        assert_eq!(out, [0, 1, 2]);
        m.read(0x2FFE, &mut out, nowhere);
        assert_eq!(out, [2, 3, 3]);
    }

    #[test]
    fn a_file_fills_more_regions_than_one_system_call_takes() {
        let (m, Some(file)) = (Memory::new(4 << 20, 4 << 20).unwrap(), file()) else {
            return;
        };
        let regions: Vec<_> = (0..3000).map(|n| (0x10_0000 + 16 * n, 4)).collect();
        assert_eq!(fill(&m, &regions, &file, 0), WHOLE);
        let mut out = [0; 4];
        m.read(0x10_0000 + 16 * 2999, &mut out, nowhere);
        assert_eq!(out, [3; 4]);
    }

    #[test]
    fn what_is_not_ram_is_not_filled_nor_is_what_comes_before_it() {
        let (m, Some(file)) = (Memory::new(2 << 20, 2 << 20).unwrap(), file()) else {
            return;
        };
        m.map_rom(0xF_0000, &[9; 4]).unwrap();
        for place in [0, 0xF_0000, (2 << 20) - 2, FOUR_GIB] {
            let got = fill(&m, &[(0x1000, 4), (place, 4)], &file, 0);
            assert_eq!(got, Filled::default());
        }
        let mut out = [0; 4];
        m.read(0x1000, &mut out, nowhere);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn a_file_that_ends_before_does_not_fill() {
        let (m, Some(file)) = (Memory::new(8 * PAGE, 8 * PAGE).unwrap(), file()) else {
            return;
        };
        assert!(!fill(&m, &[(0x1000, 2)], &file, 3 * PAGE - 1).whole);
        assert!(!fill(&m, &[(0x1000, 2)], &file, u64::MAX).whole);
    }

    #[test]
    fn filling_is_noted_for_translated_code_and_told_to_dirty_logs() {
        let (m, Some(file)) = (Memory::new(8 * PAGE, 8 * PAGE).unwrap(), file()) else {
            return;
        };
        let log = m.open_log(0..8 * PAGE).unwrap();
        m.collect_log(log);
        m.flags_at(0x3000)
            .fetch_or(page_flag::HAS_CODE, Ordering::SeqCst);
        let filled = fill(&m, &[(0x2FFE, 4)], &file, 0);
        assert!(filled.whole && filled.noted);
        assert_eq!(m.take_notes(), vec![(0x3000, 2)]);
        assert_eq!(m.collect_log(log), vec![0x2000..0x4000]);
    }

    #[test]
    fn a_search_finds_bytes_in_low_and_high_ram_and_allocates_nothing() {
        let m = Memory::new(1 << 30, 1 << 29).unwrap();
        m.write(0x1234, b"needle", nowhere);
        m.write(FOUR_GIB + 0x5FFD, b"needle", nowhere);
        assert_eq!(m.search(b"needle", 9), [0x1234, FOUR_GIB + 0x5FFD]);
        assert_eq!(m.search(b"needle", 1), [0x1234]);
        assert!(m.search(b"haystack", 9).is_empty());
        let touched = m.backing().touched(&m.ram, 1 << 30).unwrap();
        assert!(touched.iter().map(|e| e.end - e.start).sum::<u64>() < 1 << 20);
    }

    #[test]
    fn a_view_of_other_memory_is_refused() {
        let m = Memory::new(2 * PAGE, 2 * PAGE).unwrap();
        let offset = m.add_extra(PAGE).unwrap();
        m.map_view(0xE000_0000, PAGE, 0);
        m.map_view(0xE000_0000, 2 * PAGE, offset);
        assert_eq!(m.page(0xE000_0000, nowhere), Page::Io);
        assert!(m.add_extra(1 << 40).is_err());
    }

    #[test]
    fn stores_over_code_are_noted() {
        let m = Memory::new(2 * PAGE, 2 * PAGE).unwrap();
        m.flags_at(PAGE)
            .store(page_flag::HAS_CODE, Ordering::Release);
        m.write(PAGE - 1, b"ab", nowhere);
        assert_eq!(m.take_notes(), vec![(PAGE, 1)]);
        assert!(m.take_notes().is_empty());
    }
}
