//! Guest-physical memory: RAM in one memfd, ROM, and what each page of RAM holds.
//!
//! RAM lies at 0 up to the PCI hole and from 4 GiB up.  The host pages are demand allocated.
//! Every page of RAM has a byte of `page_flag`s, which the store paths consult.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

pub const PAGE: u64 = 4096;
pub const FOUR_GIB: u64 = 1 << 32;

/// What a page of RAM holds, besides data.
pub mod page_flag {
    /// Some block was translated from it: stores must go through `Memory::note_store`.
    pub const HAS_CODE: u8 = 1 << 0;
}

/// Memory that the host gave by `mmap`; unmapped when dropped.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Mapping is an address range; accesses through it are the owner's concern.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize, fd: i32) -> std::io::Result<Mapping> {
        let kind = if fd < 0 {
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
        } else {
            libc::MAP_SHARED
        };
        let (protection, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            kind | libc::MAP_NORESERVE,
        );
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), protection, kind, fd, 0) };
        if p == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let start = NonNull::new(p.cast()).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Mapping {
            start,
            bytes: bytes.max(1),
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and bytes are those of our own mapping.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
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
}

/// Bytes written by the host side (DMA) over translated code; the vCPU drops those blocks.
pub type StoreNote = (u64, u64);

pub struct Memory {
    ram: Mapping,
    fd: i32,
    ram_bytes: u64,
    low_bytes: u64,
    flags: Mapping,
    roms: RwLock<Vec<Rom>>,
    /// Address bits that reach the bus: bit 20 is masked while A20 is off.
    address_mask: AtomicU64,
    notes: Mutex<Vec<StoreNote>>,
    /// Increased whenever the map changes; cached translations are then void.
    generation: AtomicU64,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own descriptor, closed once.
        unsafe { libc::close(self.fd) };
    }
}

impl Memory {
    /// RAM of `ram_bytes`: `low_bytes` at 0, the rest from 4 GiB up (bytes, whole pages).
    pub fn new(ram_bytes: u64, low_bytes: u64) -> std::io::Result<Memory> {
        let whole = |n: u64| n.is_multiple_of(PAGE);
        if !whole(ram_bytes) || !whole(low_bytes) || low_bytes > ram_bytes || low_bytes > FOUR_GIB {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        }
        // SAFETY: the name is a C string; the call has no other memory effect.
        let fd = unsafe { libc::memfd_create(c"ring3-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: plain system call on our own descriptor.
        let sized = unsafe { libc::ftruncate(fd, ram_bytes as libc::off_t) };
        let made = (|| {
            if sized != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let ram = Mapping::new(ram_bytes as usize, fd)?;
            let flags = Mapping::new((ram_bytes / PAGE) as usize, -1)?;
            Ok((ram, flags))
        })();
        let (ram, flags) = made.inspect_err(|_| {
            // SAFETY: our own descriptor, closed once: no Memory is made.
            unsafe { libc::close(fd) };
        })?;
        Ok(Memory {
            ram,
            fd,
            ram_bytes,
            low_bytes,
            flags,
            roms: RwLock::default(),
            address_mask: AtomicU64::new(u64::MAX),
            notes: Mutex::default(),
            generation: AtomicU64::new(1),
        })
    }

    pub fn fd(&self) -> i32 {
        self.fd
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
        let copy = Mapping::new(bytes as usize, -1)?;
        // SAFETY: the fresh mapping is at least data.len() long and not shared yet.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), copy.start.as_ptr(), data.len()) };
        let mut roms = self.roms.write().unwrap_or_else(|e| e.into_inner());
        roms.push(Rom { base, data: copy });
        drop(roms);
        self.map_changed();
        Ok(())
    }

    /// Offset into RAM of a guest-physical address, if RAM lies there (ROM and MMIO not considered).
    pub fn ram_offset(&self, address: u64) -> Option<u64> {
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
        debug_assert!(offset < self.ram_bytes);
        // SAFETY: callers pass an offset from `ram_offset`, which is inside the mapping.
        unsafe { self.ram.start.as_ptr().add(offset as usize) }
    }

    /// What answers at the page of `address` (already gated); `io_here` tells of MMIO windows.
    pub fn page(&self, address: u64, io_here: impl Fn(u64) -> bool) -> Page {
        let page = address & !(PAGE - 1);
        // Windows over RAM exist only below 1 MiB (video, option ROMs, BIOS); elsewhere RAM wins.
        if page >= 0x10_0000
            && let Some(offset) = self.ram_offset(page)
        {
            return Page::Ram(self.ram_at(offset));
        }
        if io_here(page) {
            return Page::Io;
        }
        let roms = self.roms.read().unwrap_or_else(|e| e.into_inner());
        for rom in roms.iter() {
            if let Some(offset) = page.checked_sub(rom.base)
                && offset < rom.data.bytes as u64
            {
                // SAFETY: offset is inside the ROM's mapping, which lives as long as Memory.
                return Page::Rom(unsafe { rom.data.start.as_ptr().add(offset as usize) });
            }
        }
        match self.ram_offset(page) {
            Some(offset) => Page::Ram(self.ram_at(offset)),
            None => Page::Io,
        }
    }

    /// The flag byte of the page of RAM at `offset`.
    pub fn flags_at(&self, offset: u64) -> &AtomicU8 {
        debug_assert!(offset < self.ram_bytes);
        // SAFETY: one byte for each page of RAM; AtomicU8 has the layout of u8.
        unsafe {
            &*self
                .flags
                .start
                .as_ptr()
                .add((offset / PAGE) as usize)
                .cast::<AtomicU8>()
        }
    }

    /// Address of the flag byte of page 0, for generated code.
    pub fn flags_base(&self) -> *mut u8 {
        self.flags.start.as_ptr()
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
            if let Page::Ram(p) = self.page(at, &io_here) {
                // SAFETY: the chunk stays inside the page.
                unsafe { copy(source.as_ptr(), p.add((at % PAGE) as usize), source.len()) };
                // A vCPU flags the page, then reads its code: one of the two sees the other's work.
                std::sync::atomic::fence(Ordering::SeqCst);
                if let Some(offset) = self.ram_offset(at)
                    && self.flags_at(offset).load(Ordering::Acquire) & page_flag::HAS_CODE != 0
                {
                    let mut notes = self.notes.lock().unwrap_or_else(|e| e.into_inner());
                    notes.push((at, source.len() as u64));
                    noted = true;
                }
            }
        }
        noted
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
    fn stores_over_code_are_noted() {
        let m = Memory::new(2 * PAGE, 2 * PAGE).unwrap();
        m.flags_at(PAGE)
            .store(page_flag::HAS_CODE, Ordering::Release);
        m.write(PAGE - 1, b"ab", nowhere);
        assert_eq!(m.take_notes(), vec![(PAGE, 1)]);
        assert!(m.take_notes().is_empty());
    }
}
