//! Dirty logs: which pages of guest memory were written to since somebody last looked.
//!
//! Theory.  Each log has a bit in every page's flag byte that says "a store here must be told".  The
//! first store to such a page finds the bit on the slow path, clears it, and writes the log's
//! eventfd if its owner sleeps; later stores to the page are as fast as ever.  Pages of the log's
//! range whose bit is clear are the dirty ones.  `collect` sets the bits again.
//!
//! Invariants: 1. a page with a log's bit has no inline write entry in any vCPU, once all of them
//! have seen the log's `generation` (`Shared::wait_for_logs`).  2. Whoever collects waits for that
//! before it reads the pages: a store through an old entry comes before, every later one is told.
//! 3. A store by others than translated code is told after it was done.
//! 4. Descriptors live as long as the memory: a store may tell while its log closes.

use crate::memory::{Memory, PAGE, page_flag};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// How many logs there may be at once.
pub const LOGS: usize = 7;

struct Eventfd(i32);

impl Eventfd {
    fn new() -> std::io::Result<Eventfd> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Eventfd(fd))
    }
}

impl Drop for Eventfd {
    fn drop(&mut self) {
        // SAFETY: our own descriptor, closed once.
        unsafe { libc::close(self.0) };
    }
}

#[derive(Default)]
struct Log {
    /// Offsets into RAM; None: the log is free.
    range: Mutex<Option<Range<u64>>>,
    eventfd: OnceLock<Eventfd>,
    /// The owner sleeps until the eventfd is readable.
    asleep: AtomicBool,
}

impl Log {
    /// Also called while vector registers are the guest's: a system call keeps them.
    fn tell(&self) {
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::AcqRel)
            && let Some(eventfd) = self.eventfd.get()
        {
            let one = 1u64;
            // SAFETY: eight bytes of our own; the descriptor lives as long as the memory.
            unsafe { libc::write(eventfd.0, (&raw const one).cast(), 8) };
        }
    }
}

#[derive(Default)]
pub struct Logs {
    logs: [Log; LOGS],
    /// Increased after pages have got bits: vCPUs then drop their write entries of such pages.
    generation: AtomicU64,
}

/// Number of a log that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogId(usize);

impl LogId {
    fn bit(self) -> u8 {
        page_flag::FIRST_LOG << self.0
    }
}

impl Logs {
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Tells the logs with these bits.
    pub fn tell(&self, flags: u8) {
        for (n, log) in self.logs.iter().enumerate() {
            if flags & LogId(n).bit() != 0 {
                log.tell();
            }
        }
    }

    fn log(&self, id: LogId) -> &Log {
        &self.logs[id.0 % LOGS]
    }

    fn range(&self, id: LogId) -> Range<u64> {
        let range = self.log(id).range.lock().unwrap_or_else(|e| e.into_inner());
        range.clone().unwrap_or(0..0)
    }
}

impl Memory {
    /// A log of the pages in a range of offsets into RAM; its first `collect` returns all of them.
    pub fn open_log(&self, range: Range<u64>) -> std::io::Result<LogId> {
        for (n, log) in self.logs().logs.iter().enumerate() {
            let mut taken = log.range.lock().unwrap_or_else(|e| e.into_inner());
            if taken.is_none() {
                if log.eventfd.get().is_none() {
                    let _ = log.eventfd.set(Eventfd::new()?);
                }
                *taken = Some(range);
                return Ok(LogId(n));
            }
        }
        Err(std::io::Error::other("all dirty logs are taken"))
    }

    /// Stores aren't told to the log any more; its first `collect` again returns all pages.
    pub fn disarm_log(&self, id: LogId) {
        self.logs().log(id).asleep.store(false, Ordering::Release);
        for offset in self.logs().range(id).step_by(PAGE as usize) {
            self.flags_at(offset).fetch_and(!id.bit(), Ordering::AcqRel);
        }
    }

    pub fn close_log(&self, id: LogId) {
        self.disarm_log(id);
        *self
            .logs()
            .log(id)
            .range
            .lock()
            .unwrap_or_else(|e| e.into_inner()) = None;
    }

    /// Readable once something was written after `collect`.
    pub fn log_fd(&self, id: LogId) -> i32 {
        self.logs().log(id).eventfd.get().map_or(-1, |e| e.0)
    }

    /// Wakes the log's owner as a store would: something else than memory changed.
    pub fn tell_log(&self, id: LogId) {
        self.logs().log(id).tell();
    }

    /// The runs of pages (offsets into RAM) written to since the last time; from now on stores are
    /// told again.  The caller has the vCPUs attend, and waits for them before reading the pages.
    pub fn collect_log(&self, id: LogId) -> Vec<Range<u64>> {
        let log = self.logs().log(id);
        log.asleep.store(true, Ordering::SeqCst);
        let mut runs: Vec<Range<u64>> = Vec::new();
        for offset in self.logs().range(id).step_by(PAGE as usize) {
            let flags = self.flags_at(offset);
            if flags.load(Ordering::Relaxed) & id.bit() != 0 {
                continue;
            }
            flags.fetch_or(id.bit(), Ordering::SeqCst);
            match runs.last_mut() {
                Some(run) if run.end == offset => run.end += PAGE,
                _ => runs.push(offset..offset + PAGE),
            }
        }
        if !runs.is_empty() {
            self.logs().generation.fetch_add(1, Ordering::SeqCst);
        }
        runs
    }

    /// A store to the page at an offset into RAM was done, or is about to be by translated code.
    #[inline]
    pub fn note_dirty(&self, offset: u64) {
        if self.flags_at(offset).load(Ordering::Relaxed) & page_flag::LOGS != 0 {
            self.tell_dirty(offset);
        }
    }

    #[cold]
    fn tell_dirty(&self, offset: u64) {
        let before = self
            .flags_at(offset)
            .fetch_and(!page_flag::LOGS, Ordering::SeqCst);
        self.logs().tell(before & page_flag::LOGS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(16 * PAGE, 16 * PAGE).unwrap()
    }

    fn nowhere(_: u64) -> bool {
        false
    }

    fn readable(m: &Memory, id: LogId) -> bool {
        let mut count = 0u64;
        // SAFETY: eight bytes of our own.
        unsafe { libc::read(m.log_fd(id), (&raw mut count).cast(), 8) == 8 }
    }

    #[test]
    fn the_first_look_finds_every_page_of_the_range() {
        let m = memory();
        let log = m.open_log(2 * PAGE..5 * PAGE).unwrap();
        assert_eq!(m.collect_log(log), vec![2 * PAGE..5 * PAGE]);
        assert_eq!(m.collect_log(log), vec![]);
    }

    #[test]
    fn stores_are_found_as_runs_of_pages() {
        let m = memory();
        let log = m.open_log(0..16 * PAGE).unwrap();
        m.collect_log(log);
        m.write(3 * PAGE - 1, b"ab", nowhere);
        m.write(7 * PAGE, b"c", nowhere);
        assert_eq!(
            m.collect_log(log),
            vec![2 * PAGE..4 * PAGE, 7 * PAGE..8 * PAGE]
        );
    }

    #[test]
    fn only_the_first_store_after_a_look_is_told() {
        let m = memory();
        let log = m.open_log(0..16 * PAGE).unwrap();
        m.collect_log(log);
        assert!(!readable(&m, log));
        m.write(0, b"a", nowhere);
        assert!(readable(&m, log));
        m.write(PAGE, b"a", nowhere);
        assert!(!readable(&m, log));
        m.collect_log(log);
        m.write(0, b"a", nowhere);
        assert!(readable(&m, log));
    }

    #[test]
    fn nothing_is_told_before_the_first_look_and_after_disarming() {
        let m = memory();
        let log = m.open_log(0..16 * PAGE).unwrap();
        m.write(0, b"a", nowhere);
        assert!(!readable(&m, log));
        m.collect_log(log);
        m.disarm_log(log);
        m.write(0, b"a", nowhere);
        assert!(!readable(&m, log));
        assert_eq!(m.collect_log(log), vec![0..16 * PAGE]);
    }

    #[test]
    fn logs_do_not_see_what_others_have_collected() {
        let m = memory();
        let (a, b) = (
            m.open_log(0..4 * PAGE).unwrap(),
            m.open_log(0..4 * PAGE).unwrap(),
        );
        m.collect_log(a);
        m.collect_log(b);
        m.write(PAGE, b"x", nowhere);
        assert_eq!(m.collect_log(a), vec![PAGE..2 * PAGE]);
        assert_eq!(m.collect_log(b), vec![PAGE..2 * PAGE]);
        assert!(readable(&m, a) && readable(&m, b));
    }

    #[test]
    fn logs_run_out_and_come_back() {
        let m = memory();
        let logs: Vec<_> = (0..LOGS).map(|_| m.open_log(0..PAGE).unwrap()).collect();
        assert!(m.open_log(0..PAGE).is_err());
        m.close_log(logs[3]);
        assert_eq!(m.open_log(0..PAGE).unwrap(), logs[3]);
    }
}
