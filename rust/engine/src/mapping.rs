//! Address ranges of the host's, by `mmap`.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// How many mappings the host lets a process have (vm.max_map_count).
pub fn max_count() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        text.trim().parse().unwrap_or(65_530)
    })
}

/// Memory that the host gave by `mmap`; unmapped when dropped.
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Mapping is an address range; accesses through it are the owner's concern.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Where the bytes of a mapping come from, and where stores to it go.
pub enum Source<'a> {
    /// Zeros; stores are the mapping's own.
    Zeros,
    /// A file from an offset on, which stores go to.
    Shared(BorrowedFd<'a>, u64),
    /// A file from an offset on; stores are the mapping's own (copy-on-write).
    Private(BorrowedFd<'a>, u64),
    /// A file from its start on, to be executed and not stored to.
    Code(BorrowedFd<'a>),
}

/// Host addresses where nothing is; 0 for `start` lets the kernel choose, any other must be the caller's.
pub fn empty(start: u64, bytes: usize) -> std::io::Result<u64> {
    let fixed = if start == 0 { 0 } else { libc::MAP_FIXED };
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    let at = start as *mut libc::c_void;
    // SAFETY: an address of the kernel's choice, or one of the caller's.
    let p = unsafe { libc::mmap(at, bytes, libc::PROT_NONE, kind, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(p as u64)
}

/// A null `at`: anywhere.
fn map(at: *mut u8, bytes: usize, source: &Source) -> std::io::Result<NonNull<u8>> {
    let (kind, fd, offset) = match source {
        Source::Zeros => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        Source::Shared(fd, offset) => (libc::MAP_SHARED, fd.as_raw_fd(), *offset),
        Source::Private(fd, offset) => (libc::MAP_PRIVATE, fd.as_raw_fd(), *offset),
        Source::Code(fd) => (libc::MAP_SHARED, fd.as_raw_fd(), 0),
    };
    let fixed = if at.is_null() { 0 } else { libc::MAP_FIXED };
    let protection = match source {
        Source::Code(_) => libc::PROT_READ | libc::PROT_EXEC,
        _ => libc::PROT_READ | libc::PROT_WRITE,
    };
    let kind = kind | fixed | libc::MAP_NORESERVE;
    // SAFETY: at an address of the kernel's choice it touches nothing of ours; a fixed one lies in a
    // mapping of ours (`Mapping::replace`, `Mapping::aligned`).
    let p = unsafe { libc::mmap(at.cast(), bytes, protection, kind, fd, offset as i64) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(std::io::Error::last_os_error)
}

impl Mapping {
    pub fn new(bytes: usize, source: &Source) -> std::io::Result<Mapping> {
        let bytes = bytes.max(1);
        let start = map(std::ptr::null_mut(), bytes, source)?;
        Ok(Mapping { start, bytes })
    }

    /// One in which the byte at `offset`, of a whole number of pages, lies at a multiple of `alignment`.
    pub fn aligned(
        bytes: usize,
        offset: usize,
        alignment: usize,
        source: &Source,
    ) -> std::io::Result<Mapping> {
        let low = empty(0, bytes + alignment)? as usize;
        let reserved = Mapping {
            start: NonNull::new(low as *mut u8).ok_or_else(std::io::Error::last_os_error)?,
            bytes: bytes + alignment,
        };
        let start = (low + offset).next_multiple_of(alignment) - offset;
        let start = map(start as *mut u8, bytes, source)?;
        // What lies around it goes; the rest is the new mapping's.
        std::mem::forget(reserved);
        let (from, to) = (start.as_ptr() as usize, start.as_ptr() as usize + bytes);
        for part in [low..from, to..low + bytes + alignment] {
            // SAFETY: of the addresses just reserved, which nobody else knows of; none may be left.
            unsafe { libc::munmap(part.start as *mut libc::c_void, part.len()) };
        }
        Ok(Mapping { start, bytes })
    }

    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Gives a part of it, of whole pages, another source.  Addresses stay, and there is no moment
    /// without memory behind them.
    pub fn replace(&self, range: std::ops::Range<u64>, source: &Source) -> std::io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.bytes());
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the mapping, as just checked.
        let at = unsafe { self.start().add(range.start as usize) };
        map(at, (range.end - range.start) as usize, source).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and bytes are those of our own mapping.
        unsafe { libc::munmap(self.start().cast(), self.bytes) };
    }
}
