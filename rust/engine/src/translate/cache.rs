//! The code cache: one memfd, mapped writable at one address and executable at another.
//!
//! Code is appended; when the cache is full everything is dropped at once (`Jit::flush_cache`).

use crate::huge::{self, HUGE};
use crate::mapping::{Mapping, Source};
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Bytes of host code kept; pages that were never used cost nothing.
pub const CACHE_BYTES: usize = 64 << 20;

pub struct CodeCache {
    writable: Mapping,
    executable: Mapping,
    bytes: usize,
    used: usize,
    /// As much of it lies in huge pages.
    settled: usize,
    /// Where blocks start: thunks lie before and survive a flush.
    blocks_start: usize,
}

impl CodeCache {
    pub fn new(bytes: usize) -> std::io::Result<CodeCache> {
        // SAFETY: the name is a C string; the call has no other memory effect.
        let fd = unsafe { libc::memfd_create(c"ring3-code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor, which nobody else has; the mappings keep the memory.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(bytes as u64)?;
        let view = |source| Mapping::aligned(bytes, 0, HUGE, &source);
        Ok(CodeCache {
            writable: view(Source::Shared(file.as_fd(), 0))?,
            executable: view(Source::Code(file.as_fd()))?,
            bytes,
            used: 0,
            settled: 0,
            blocks_start: 0,
        })
    }

    /// Where the next code will execute.
    pub fn next_address(&self) -> u64 {
        self.executable.start() as u64 + self.used as u64
    }

    pub fn room(&self) -> usize {
        self.bytes - self.used
    }

    /// Appends code made for `next_address`; the next begins at a multiple of 16.
    /// The caller has checked `room`.
    pub fn append(&mut self, code: &[u8]) {
        assert!(code.len() <= self.room(), "code cache overrun");
        // SAFETY: the range was just checked to lie inside the mapping.
        unsafe {
            let to = self.writable.start().add(self.used);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
        self.used = (self.used + code.len())
            .next_multiple_of(16)
            .min(self.bytes);
    }

    /// Stores code made for `base`: the next address, or the place of code that is used no more and
    /// was no shorter.
    pub fn put(&mut self, base: u64, code: &[u8]) {
        if base == self.next_address() {
            return self.append(code);
        }
        let offset = (base - self.executable.start() as u64) as usize;
        assert!(offset + code.len() <= self.used, "code outside the cache");
        // SAFETY: the range was just checked to lie inside the mapping.
        unsafe {
            let to = self.writable.start().add(offset);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
    }

    /// Moves code to huge pages where it fills them; true if there was some to move.
    pub fn settle(&mut self) -> bool {
        let full = self.used / HUGE * HUGE;
        if full <= self.settled {
            return false;
        }
        for view in [&self.writable, &self.executable] {
            huge::collapse(view.start().wrapping_add(self.settled), full - self.settled);
        }
        self.settled = full;
        true
    }

    /// What is there now survives `reset`.
    pub fn keep(&mut self) {
        self.blocks_start = self.used;
    }

    pub fn reset(&mut self) {
        self.used = self.blocks_start;
    }

    /// Retargets the rel32 whose field executes at `field` (aligned to 4) to `target`.
    pub fn patch_rel32(&mut self, field: u64, target: u64) {
        let offset = (field - self.executable.start() as u64) as usize;
        assert!(
            offset + 4 <= self.used && offset.is_multiple_of(4),
            "patch outside the cache"
        );
        let rel = (target as i64 - (field as i64 + 4)) as i32;
        // SAFETY: inside the mapping, aligned: one store, which the executing side sees whole.
        unsafe {
            self.writable
                .start()
                .add(offset)
                .cast::<i32>()
                .write_volatile(rel);
        }
    }

    /// Changes bytes of code that isn't running, at the address it executes at.
    pub fn patch_bytes(&mut self, at: u64, bytes: &[u8]) {
        let offset = (at - self.executable.start() as u64) as usize;
        assert!(offset + bytes.len() <= self.used, "patch outside the cache");
        // SAFETY: inside the mapping, as was just checked.
        unsafe {
            let to = self.writable.start().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// The executable range (host addresses).
    pub fn range(&self) -> std::ops::Range<u64> {
        let start = self.executable.start() as u64;
        start..start + self.bytes as u64
    }
}
