//! Huge pages for memory that generated code reaches into all over: one TLB entry of the host's instead of 512.
//!
//! By MADV_COLLAPSE (Linux 6.1), which asks for no configuration of the host, for memory that is in use
//! anyway.  Where the host can't, everything stays as it is.

use std::ptr::NonNull;

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// MADV_COLLAPSE of `<asm-generic/mman-common.h>`.
const MADV_COLLAPSE: libc::c_int = 25;

/// A file (or nothing) to map, as mmap takes it.
#[derive(Clone, Copy)]
pub struct Source {
    pub protection: libc::c_int,
    pub flags: libc::c_int,
    pub fd: libc::c_int,
}

/// Maps `bytes` so that what lies `offset` bytes inside is at a multiple of `HUGE`.  The caller owns
/// the mapping, and unmaps it.
pub fn map_aligned(bytes: usize, offset: usize, source: Source) -> std::io::Result<NonNull<u8>> {
    let room = bytes + HUGE;
    let none = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
    let reserved = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, none, -1, 0) };
    if reserved == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let low = reserved as usize;
    let start = (low + offset).next_multiple_of(HUGE) - offset;
    let Source {
        protection,
        flags,
        fd,
    } = source;
    // SAFETY: all of it lies in the range just reserved, which nobody else knows of.
    let mapped = unsafe {
        let at = start as *mut libc::c_void;
        let mapped = libc::mmap(at, bytes, protection, flags | libc::MAP_FIXED, fd, 0);
        let error = std::io::Error::last_os_error();
        if mapped == libc::MAP_FAILED {
            libc::munmap(reserved, room);
            return Err(error);
        }
        let end = start + bytes;
        if start > low {
            libc::munmap(reserved, start - low);
        }
        if low + room > end {
            libc::munmap(end as *mut libc::c_void, low + room - end);
        }
        mapped
    };
    NonNull::new(mapped.cast()).ok_or_else(std::io::Error::last_os_error)
}

/// Backs `bytes` at `start`, multiples of `HUGE`, by huge pages if the host can.
pub fn collapse(start: *mut u8, bytes: usize) {
    // SAFETY: changes how memory is backed, not what it holds; a range that isn't mapped is refused.
    unsafe { libc::madvise(start.cast(), bytes, MADV_COLLAPSE) };
}
