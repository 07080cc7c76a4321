//! The windows that there are (`window` has the theory): their host addresses, the pages in them, and which
//! spaces have or go without them.

use super::env::{Area, KERNEL, USER};
use super::shown::{Mapped, Shown};
use crate::alias::Reservation;
use crate::mapping;
use crate::vcpu::tsc_hz;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries of `Area::chunks`: bits 47:32 of an address.
pub const CHUNKS: usize = 1 << 16;
pub const CHUNK: u64 = 1 << 32;
/// Around a window: a displacement reaches 2 GiB, the stack pointer's changes in a block 1 MiB.
pub const MARGIN: u64 = (2 << 30) + (2 << 20);
/// Spaces of a class at most, and windows in each.
pub const MAX_SPACES: usize = 8;
pub const MAX_WINDOWS: usize = 12;
/// Changes that a space may make to the host's mappings before it is dropped: each adds two at most, and
/// the host limits how many a process has.
pub const MAX_CHANGES: usize = 4096;
/// Those of all spaces of the process.
static CHANGES: AtomicUsize = AtomicUsize::new(0);
/// Pages of a space at most: all are looked at when it is used again.
pub const MAX_PAGES: usize = 1 << 17;
/// Pages that one fault maps at most; it starts with fewer and doubles while faults go on upwards.
pub const MIN_RUN: u64 = 16;
pub const MAX_RUN: u64 = 256;
/// Faults that a space may have in advance, that each sample earns it, and that it can have earned.
pub const FIRST_CREDIT: i32 = 512;
pub const SAMPLE_CREDIT: i32 = 64;
pub const MAX_CREDIT: i32 = 2048;
/// How long a space with too many faults goes without windows, in nanoseconds; doubled each time.
pub const FIRST_BAN_NS: u64 = 50_000_000;
pub const MAX_BAN_NS: u64 = 2_000_000_000;

/// For how long the load is measured before RAM is thawed for windows, in nanoseconds.
const LOAD_NS: u64 = 500_000_000;

/// Which spaces get windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Never,
    /// Those whose code keeps running.
    Busy,
    /// All: for tests.
    Always,
}

/// Host addresses of a window, with its margins.
pub const RESERVED: usize = (CHUNK + 2 * MARGIN) as usize;

/// Where the chunk's first byte is.
pub fn base(reservation: &Reservation) -> u64 {
    reservation.start() + MARGIN
}

/// The windows of one address space, or of the kernel.
pub struct Space {
    /// CR3, of user spaces.
    pub key: u64,
    /// By chunk (bits 47:32 of its addresses).
    pub windows: Vec<(u16, Reservation)>,
    pub pages: Shown,
    pub changes: usize,
    /// Faults that it may still have.
    pub credit: i32,
    /// Pages that the next fault maps, and the page behind the last ones.
    pub run: u64,
    pub next: u64,
}

impl Space {
    pub fn window(&self, chunk: u16) -> Option<u64> {
        let found = self.windows.iter().find(|w| w.0 == chunk)?;
        Some(base(&found.1))
    }

    /// Where a page is in which window.
    pub fn place(&self, vpn: u64) -> Option<(&Reservation, u64)> {
        let linear = vpn << 12;
        let (_, window) = self.windows.iter().find(|w| w.0 == chunk_of(linear))?;
        Some((window, base(window) + linear % CHUNK))
    }

    /// Changes what may be done with a page.
    pub fn protect(&mut self, vpn: u64, protection: i32) {
        self.count_change();
        if let Some((window, place)) = self.place(vpn) {
            window.protect(place, protection);
        }
    }

    pub fn count_change(&mut self) {
        self.changes += 1;
        CHANGES.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_full(&self) -> bool {
        self.changes >= MAX_CHANGES || self.pages.len() >= MAX_PAGES
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        CHANGES.fetch_sub(self.changes, Ordering::Relaxed);
    }
}

/// Whether the process has as many of the host's mappings as windows may have it take.
pub fn crowded() -> bool {
    CHANGES.load(Ordering::Relaxed) >= mapping::max_count() / 8
}

pub fn chunk_of(linear: u64) -> u16 {
    (linear >> 32) as u16
}

/// The first address of a chunk.
pub fn chunk_start(chunk: u16) -> u64 {
    (chunk as i16 as i64 as u64) << 32
}

/// The spaces of one privilege class.
#[derive(Default)]
pub struct Domain {
    /// The one used last is the last.
    pub spaces: Vec<Space>,
    /// The last space's windows are those of `Area::chunks`.
    pub active: bool,
    /// Key of the last sample, and how many samples in turn it had.
    pub candidate: (u64, u32),
    pub last_sample: u64,
    /// Spaces that go without: until when, for how long.
    pub bans: Vec<(u64, u64, u64)>,
}

impl Domain {
    pub fn banned(&self, key: u64, now: u64) -> bool {
        let mut bans = self.bans.iter();
        bans.any(|&(of, until, _)| of == key && now < until)
    }

    /// Windows don't pay for this space now.
    pub fn ban(&mut self, key: u64, now: u64) {
        let old = self.bans.iter().position(|b| b.0 == key);
        let ns = old.map_or(FIRST_BAN_NS, |at| self.bans.swap_remove(at).2 * 2);
        if self.bans.len() >= 4 * MAX_SPACES {
            self.bans.remove(0);
        }
        let ns = ns.min(MAX_BAN_NS);
        self.bans.push((key, now + ticks(ns), ns));
    }

    /// Makes the space with this key the last one.
    pub fn choose(&mut self, key: u64) {
        let space = match self.spaces.iter().position(|s| s.key == key) {
            Some(at) => self.spaces.remove(at),
            None => Space {
                key,
                windows: Vec::new(),
                pages: Shown::default(),
                changes: 0,
                credit: FIRST_CREDIT,
                run: MIN_RUN,
                next: 0,
            },
        };
        if self.spaces.len() >= MAX_SPACES {
            self.spaces.remove(0);
        }
        self.spaces.push(space);
    }
}

/// Whether the guest keeps the CPU busy: then windows are worth it that pages of RAM are thawed for them.
#[derive(Default)]
pub struct Load {
    /// It halted for less than half of the last time that it was measured.
    pub high: bool,
    /// When measuring began: the guest's TSC, which stands while the machine is paused, and for how long it
    /// had halted by then.
    since: u64,
    halted_ns: u64,
}

impl Load {
    pub fn start(&mut self, tsc: u64, halted_ns: u64) {
        *self = Load {
            high: false,
            since: tsc,
            halted_ns,
        };
    }

    pub fn measure(&mut self, tsc: u64, halted_ns: u64) {
        let elapsed = tsc.wrapping_sub(self.since);
        if elapsed >= ticks(LOAD_NS) {
            let halted = ticks(halted_ns - self.halted_ns);
            self.start(tsc, halted_ns);
            self.high = halted < elapsed / 2;
        }
    }
}

pub struct Windows {
    pub policy: Policy,
    pub load: Load,
    pub void: Option<Reservation>,
    pub domains: [Domain; 2],
    /// `Memory::generation` that the pages are of, and `Aliases::revocations`.
    pub generation: u64,
    pub revocations: u64,
}

impl Windows {
    pub fn new(bmi2: bool) -> Windows {
        Windows {
            policy: if bmi2 { Policy::Busy } else { Policy::Never },
            load: Load::default(),
            void: None,
            domains: Default::default(),
            generation: 0,
            revocations: 0,
        }
    }

    pub fn active(&self, class: usize) -> bool {
        self.domains[class].active
    }

    pub fn space(&mut self, class: usize) -> Option<&mut Space> {
        let domain = &mut self.domains[class];
        domain.active.then(|| domain.spaces.last_mut()).flatten()
    }

    /// The addend of a chunk without a window.
    pub fn absent(&self, chunk: u16) -> u64 {
        let void = self.void.as_ref().map_or(0, base);
        void.wrapping_sub(chunk_start(chunk))
    }

    /// Puts the windows of a class aside.  Allocates and frees nothing: vector registers may be the
    /// guest's.
    pub fn deactivate(&mut self, class: usize, area: &mut Area) {
        if !std::mem::take(&mut self.domains[class].active) {
            return;
        }
        if let Some(space) = self.domains[class].spaces.last() {
            for &(chunk, _) in &space.windows {
                area.chunks[class][chunk as usize] = self.absent(chunk);
            }
        }
    }

    /// The same of both classes.
    pub fn deactivate_all(&mut self, area: &mut Area) {
        self.deactivate(KERNEL, area);
        self.deactivate(USER, area);
    }

    /// Takes a page away, as INVLPG does.  Allocates and frees nothing.
    pub fn invalidate(&mut self, linear: u64) {
        for class in [KERNEL, USER] {
            if let Some(space) = self.space(class)
                && space.pages.remove(linear >> 12)
            {
                space.protect(linear >> 12, libc::PROT_NONE);
            }
        }
    }

    /// Lets nobody write any more to pages whose host address `which` tells.
    pub fn forbid_writes(&mut self, which: impl Fn(u64) -> bool) {
        self.forbid_in(|pages, forbid| {
            for (vpn, page) in pages.iter_mut().filter(|(_, p)| which(p.host)) {
                forbid(vpn, page);
            }
        });
    }

    /// The same of the page with host address `host`.
    pub fn forbid_writes_to(&mut self, host: u64) {
        self.forbid_in(|pages, forbid| pages.for_each_of(host, forbid));
    }

    /// Has `find` name those of each active space's pages that nobody may write any more.
    fn forbid_in(&mut self, find: impl Fn(&mut Shown, &mut dyn FnMut(u64, &mut Mapped))) {
        for class in [KERNEL, USER] {
            let Some(space) = self.space(class) else {
                continue;
            };
            let mut pages = std::mem::take(&mut space.pages);
            find(&mut pages, &mut |vpn, page| {
                if std::mem::take(&mut page.writable) {
                    space.protect(vpn, libc::PROT_READ);
                }
            });
            space.pages = pages;
        }
    }

    /// Forgets spaces that aren't in use.
    pub fn drop_idle(&mut self) {
        for domain in &mut self.domains {
            let used = usize::from(domain.active);
            domain.spaces.drain(..domain.spaces.len() - used);
        }
    }

    /// Forgets all that was mapped.
    pub fn clear(&mut self, area: &mut Area) {
        self.deactivate_all(area);
        self.drop_idle();
    }
}

/// Nanoseconds in ticks of the host's TSC.
pub fn ticks(ns: u64) -> u64 {
    (ns as u128 * tsc_hz() as u128 / 1_000_000_000) as u64
}
