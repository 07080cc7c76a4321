//! Second places of RAM's pages in the host's address space.
//!
//! A `Reservation` keeps host addresses free of everything but such pages.  They are of RAM's shared
//! file (`crate::backing`): to be shown, a frozen part is thawed, and when RAM is frozen or replaced all of them
//! go, and an access finds nothing there.

use crate::mapping::empty;
use crate::memory::{Memory, PAGE};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The second places of one machine's RAM.
#[derive(Default)]
pub struct Aliases {
    /// Address and size of the reservations.
    reserved: Mutex<Vec<(u64, usize)>>,
    revocations: AtomicU64,
}

impl Aliases {
    fn all(&self) -> MutexGuard<'_, Vec<(u64, usize)>> {
        self.reserved.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How often all that was shown has gone.
    pub fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    /// Nothing is shown any more.
    pub fn revoke(&self) -> std::io::Result<()> {
        self.revocations.fetch_add(1, Ordering::AcqRel);
        for &(start, bytes) in self.all().iter() {
            empty(start, bytes)?;
        }
        Ok(())
    }
}

/// Host addresses kept free; given back when dropped.
pub struct Reservation {
    start: u64,
    bytes: usize,
    memory: Arc<Memory>,
}

impl Reservation {
    pub fn new(memory: &Arc<Memory>, bytes: usize) -> std::io::Result<Reservation> {
        let start = empty(0, bytes)?;
        memory.aliases().all().push((start, bytes));
        Ok(Reservation {
            start,
            bytes,
            memory: memory.clone(),
        })
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    fn holds(&self, at: u64, bytes: u64) -> bool {
        at >= self.start
            && bytes <= self.bytes as u64
            && at - self.start <= self.bytes as u64 - bytes
    }

    /// Shows pages of RAM (host address in RAM's own mapping) at an address of the reservation; `at_once`:
    /// they are in use, so their first accesses needn't fault.  False: it can't be.
    pub fn show(&self, at: u64, host: u64, bytes: u64, writable: bool, at_once: bool) -> bool {
        if !self.holds(at, bytes) {
            return false;
        }
        self.memory.with_shared_file(host, bytes, |file, offset| {
            show(at, bytes, writable, at_once, file, offset)
        })
    }

    /// Changes what may be done with a page.
    pub fn protect(&self, at: u64, protection: i32) {
        if self.holds(at, PAGE) {
            // SAFETY: a page of our own reservation.
            unsafe { libc::mprotect(at as *mut libc::c_void, PAGE as usize, protection) };
        }
    }
}

fn show(at: u64, bytes: u64, writable: bool, at_once: bool, file: BorrowedFd, offset: u64) -> bool {
    let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let now = if at_once { libc::MAP_POPULATE } else { 0 };
    let kind = libc::MAP_SHARED | libc::MAP_FIXED | now;
    let (at, offset) = (at as *mut libc::c_void, offset as libc::off_t);
    // SAFETY: inside a reservation, as the caller has checked.
    let p = unsafe {
        libc::mmap(
            at,
            bytes as usize,
            protection,
            kind,
            file.as_raw_fd(),
            offset,
        )
    };
    p != libc::MAP_FAILED
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = self.memory.aliases().all();
        all.retain(|&(start, _)| start != self.start);
        // SAFETY: our own mapping, which nobody finds any more.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(at: u64) -> u8 {
        // SAFETY: the test shows a page there.
        unsafe { (at as *const u8).read_volatile() }
    }

    #[test]
    fn a_page_is_one_in_both_places_until_ram_is_frozen() {
        let memory = Arc::new(Memory::new(1 << 20, 1 << 20).unwrap());
        memory.write(0x5000, b"R", |_| false);
        let reservation = Reservation::new(&memory, 1 << 20).unwrap();
        let (at, host) = (reservation.start() + 0x3000, memory.ram_at(0x5000) as u64);
        assert!(reservation.show(at, host, PAGE, false, false));
        assert_eq!(read(at), b'R');
        memory.write(0x5000, b"3", |_| false);
        assert_eq!(read(at), b'3');
        memory.freeze().unwrap();
        assert_eq!(memory.aliases().revocations(), 1);
    }

    #[test]
    fn a_frozen_page_is_thawed_to_be_shown() {
        let memory = Arc::new(Memory::new(1 << 20, 1 << 20).unwrap());
        memory.write(0x5000, b"R", |_| false);
        let image = memory.freeze().unwrap();
        let reservation = Reservation::new(&memory, 1 << 20).unwrap();
        let (at, host) = (reservation.start() + 0x3000, memory.ram_at(0x5000) as u64);
        assert!(reservation.show(at, host, PAGE, false, false));
        memory.write(0x5000, b"3", |_| false);
        let before = image.map().unwrap();
        // SAFETY: the mapping has as much.
        let before = unsafe { before.start().add(0x5000).read() };
        assert_eq!((read(at), before), (b'3', b'R'));
    }

    #[test]
    fn stores_of_devices_while_a_part_is_thawed_are_not_lost() {
        const BYTES: u64 = 8 << 20;
        let memory = Arc::new(Memory::new(BYTES, BYTES).unwrap());
        let reservation = Reservation::new(&memory, BYTES as usize).unwrap();
        memory.write(0, &vec![0xFF; BYTES as usize], |_| false);
        for _ in 0..8 {
            memory.freeze().unwrap();
            let thawed = AtomicU64::new(0);
            let stored = std::thread::scope(|scope| {
                let device = scope.spawn(|| {
                    let mut stored = [0u32; (BYTES / PAGE) as usize];
                    for count in 1u32.. {
                        // Where the next part is about to be thawed.
                        let at = thawed.load(Ordering::Relaxed);
                        if at == BYTES {
                            break;
                        }
                        let page = at / PAGE + (count as u64) % 256;
                        if page < BYTES / PAGE {
                            memory.write(page * PAGE, &count.to_le_bytes(), |_| false);
                            stored[page as usize] = count;
                        }
                    }
                    stored
                });
                for at in (0..BYTES).step_by(PAGE as usize * 64) {
                    let host = memory.ram_at(at) as u64;
                    assert!(reservation.show(reservation.start() + at, host, PAGE, true, false));
                    thawed.store(at + PAGE * 64, Ordering::Relaxed);
                }
                device.join().unwrap()
            });
            for (page, count) in stored.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                let mut found = [0; 4];
                memory.read(page as u64 * PAGE, &mut found, |_| false);
                assert_eq!(u32::from_le_bytes(found), count, "page {page}");
            }
        }
    }

    #[test]
    fn nothing_is_shown_outside() {
        let memory = Arc::new(Memory::new(1 << 20, 1 << 20).unwrap());
        let reservation = Reservation::new(&memory, 1 << 20).unwrap();
        let host = memory.ram_at(0) as u64;
        assert!(!reservation.show(reservation.start() + (1 << 20), host, PAGE, false, false));
        assert!(!reservation.show(reservation.start() - PAGE, host, PAGE, false, false));
        assert!(
            !reservation.show(reservation.start(), host, 2 << 20, false, false),
            "more than there is"
        );
    }
}
