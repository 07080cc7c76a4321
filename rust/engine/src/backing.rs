//! What guest RAM is made of, and how it is frozen: an immutable image of all of it in milliseconds,
//! which any number of machines, in this process and others, go on from.
//!
//! Theory.  RAM begins as one memfd, mapped shared: the *shared file*.  The first `freeze` maps that
//! privately in its own place: it changes no more, and stores from then on are copies of the host's
//! pages, made as they happen.  It costs the same however much the guest has touched.  A later `freeze`
//! writes the pages that were copied since (the host tells which: /proc/self/pagemap) to another memfd
//! and maps that over them.  So what is frozen is a list of *extents*: a range of RAM, a file, and where
//! it lies there; what none covers is zero.  Whoever maps the extents privately has the same RAM.
//! Addresses never change, so nothing that was derived from them does.
//!
//! Only that can be mapped in a second place (`crate::alias`), so `thaw` gives parts of a frozen RAM a new
//! shared file: it copies a few hundred KiB at a time, and only parts that somebody asks for, because each
//! page of those costs memory.  The next `freeze` takes them back.
//!
//! Invariants: 1. A part of RAM is the shared file, at the same offset; or it is frozen: the extents, with
//! the mapping's own pages in front of them.  Nobody writes to what an extent has of a file (our files are
//! sealed).  2. A frozen part that is not mapped as its extent says is the mapping's own, equal in content:
//! mapping is never needed to be right, so it may be left out where it would cost the host too many
//! mappings.  3. Whoever freezes, thaws or replaces RAM sees to it that nobody stores to it meanwhile.
//!
//! Offsets and sizes in bytes, whole pages.

use crate::mapping::{self, Mapping, Source};
use crate::memory::PAGE;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Holes in the first file up to this long are left in its extents: they are zero there, too.
const HOLE_BYTES: u64 = 64 << 10;
/// Unchanged pages up to this many between changed ones are written with them.
const GAP_BYTES: u64 = 2 * PAGE;
/// Files may have this much that is of no use any more, besides as much as is of use.
const SLACK_BYTES: u64 = 16 << 20;
/// How many files the extents of a machine may be in.
const FILES_MAX: usize = 64;
/// What is thawed at a time: short enough for the guest to wait for it, but RAM has no more than
/// `SLICES_MAX` such slices, each of which may take a mapping of the host's.
const SLICE_BYTES: u64 = 512 << 10;
const SLICES_MAX: u64 = 2048;
/// Extents mapped by all machines of this process.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// A file with frozen RAM.
#[derive(Debug)]
pub struct Frozen {
    file: File,
    /// Device and inode: two descriptors of one file are the same.
    id: (u64, u64),
    /// What it takes of the host's memory; 0 for a file that somebody else made.
    held_bytes: u64,
}

impl Frozen {
    fn new(file: File, ours: bool) -> Result<Frozen> {
        let found = file.metadata()?;
        let held_bytes = if ours { found.blocks() * 512 } else { 0 };
        Ok(Frozen {
            file,
            id: (found.dev(), found.ino()),
            held_bytes,
        })
    }

    /// A file of somebody else's, which nobody writes to any more.
    pub fn foreign(fd: OwnedFd) -> Result<Frozen> {
        Frozen::new(File::from(fd), false)
    }

    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// `bytes` of RAM from `start` on are in a file from `offset` on.
#[derive(Clone, Debug)]
pub struct Extent {
    pub start: u64,
    pub bytes: u64,
    pub file: Arc<Frozen>,
    pub offset: u64,
    /// Of the mapping that has it: not left out (invariant 2).
    mapped: bool,
}

impl Extent {
    pub fn new(start: u64, bytes: u64, file: Arc<Frozen>, offset: u64) -> Extent {
        Extent {
            start,
            bytes,
            file,
            offset,
            mapped: false,
        }
    }

    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    /// The part of it in a range that it has something of.
    fn part(&self, range: Range<u64>) -> Extent {
        let start = self.start.max(range.start);
        let end = self.end().min(range.end);
        Extent {
            start,
            bytes: end - start,
            offset: self.offset + (start - self.start),
            ..self.clone()
        }
    }

    /// Where in which file RAM's byte 0 would be: equal for neighbours that go on in the file.
    fn origin(&self) -> ((u64, u64), u64) {
        (self.file.id, self.offset.wrapping_sub(self.start))
    }
}

/// RAM, and what chips brought along, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub bytes: u64,
    /// In order, without overlaps; what none covers is zero.
    pub extents: Vec<Extent>,
}

impl Image {
    /// Ranges that differ from an older image, and perhaps some that don't.
    pub fn changed_since(&self, older: &Image) -> Vec<Range<u64>> {
        let mut edges: Vec<u64> = vec![0, self.bytes];
        for extent in self.extents.iter().chain(&older.extents) {
            edges.extend([extent.start, extent.end().min(self.bytes)]);
        }
        edges.sort_unstable();
        edges.dedup();
        let (mut new, mut old) = (Cursor(&self.extents), Cursor(&older.extents));
        let mut changed = Vec::new();
        for edge in edges.windows(2) {
            let at = edge[0];
            let origin = |extent: Option<&Extent>| extent.map(Extent::origin);
            if origin(new.at(at)) != origin(old.at(at)) {
                join(&mut changed, at..edge[1], 0);
            }
        }
        changed
    }

    /// Maps it anywhere, for reading.
    pub fn map(&self) -> Result<Mapping> {
        let mapping = Mapping::new(self.bytes as usize, &Source::Zeros)?;
        show(&mapping, &mut self.extents.clone())?;
        Ok(mapping)
    }
}

/// The extent at an offset, of offsets that grow.
struct Cursor<'a>(&'a [Extent]);

impl<'a> Cursor<'a> {
    fn at(&mut self, offset: u64) -> Option<&'a Extent> {
        while let Some((first, rest)) = self.0.split_first() {
            if first.end() > offset {
                return (first.start <= offset).then_some(first);
            }
            self.0 = rest;
        }
        None
    }
}

/// Adds a range behind others, which may overlap the last; what lies between is taken in up to `gap`.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>, gap: u64) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end.saturating_add(gap) => {
            last.end = last.end.max(range.end);
        }
        _ => ranges.push(range),
    }
}

fn joined(mut ranges: Vec<Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut all = Vec::new();
    for range in ranges {
        join(&mut all, range, gap);
    }
    all
}

/// What of the extents lies outside the ranges.
fn without(extents: &[Extent], ranges: &[Range<u64>]) -> Vec<Extent> {
    let mut left = Vec::new();
    let mut at = 0;
    for extent in extents {
        while at < ranges.len() && ranges[at].end <= extent.start {
            at += 1;
        }
        let mut start = extent.start;
        for range in ranges[at..].iter().take_while(|r| r.start < extent.end()) {
            if range.start > start {
                left.push(extent.part(start..range.start));
            }
            start = range.end;
        }
        if start < extent.end() {
            left.push(extent.part(start..extent.end()));
        }
    }
    left
}

/// What of a range lies outside the parts.
fn outside(parts: &[Range<u64>], range: Range<u64>) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut start = range.start;
    for part in parts.iter().filter(|part| part.end > range.start) {
        if part.start >= range.end {
            break;
        }
        if part.start > start {
            left.push(start..part.start);
        }
        start = part.end;
    }
    if start < range.end {
        left.push(start..range.end);
    }
    left
}

// --- mapping extents ---

/// How many extents all machines of this process may map.
fn extents_max() -> usize {
    mapping::max_count() / 4
}

/// Puts the extents into a mapping that nobody uses yet; those that would be too many are copied.
fn show(mapping: &Mapping, extents: &mut [Extent]) -> Result<()> {
    for extent in extents.iter_mut() {
        extent.mapped = false;
    }
    map_largest(mapping, extents);
    for extent in extents.iter().filter(|extent| !extent.mapped) {
        let target = part_of(mapping, extent.range());
        // SAFETY: inside the mapping, and nobody else uses it (invariant 3).
        extent
            .file
            .file
            .read_exact_at(unsafe { &mut *target }, extent.offset)?;
    }
    Ok(())
}

/// Maps those of the extents that aren't; if they are too many, the largest.
fn map_largest(mapping: &Mapping, extents: &mut [Extent]) {
    let room = extents_max().saturating_sub(MAPPED.load(Ordering::Relaxed));
    let mut sizes: Vec<u64> = extents
        .iter()
        .filter(|e| !e.mapped)
        .map(|e| e.bytes)
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let too_small = sizes.get(room).copied().unwrap_or(0);
    for extent in extents
        .iter_mut()
        .filter(|e| !e.mapped && e.bytes > too_small)
    {
        let source = Source::Private(extent.file.file.as_fd(), extent.offset);
        extent.mapped = mapping.replace(extent.range(), &source).is_ok();
    }
}

fn part_of(mapping: &Mapping, range: Range<u64>) -> *mut [u8] {
    assert!(range.start <= range.end && range.end <= mapping.bytes());
    // SAFETY: inside the mapping, as just checked.
    let start = unsafe { mapping.start().add(range.start as usize) };
    std::ptr::slice_from_raw_parts_mut(start, (range.end - range.start) as usize)
}

// --- what the host knows ---

/// What it has allocated of a part of a file.
fn allocated(file: &File, part: Range<u64>, gap: u64) -> Vec<Range<u64>> {
    let seek = |from: u64, whence| {
        // SAFETY: plain system call on our own descriptor, whose position nobody uses.
        let at = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, whence) };
        u64::try_from(at).ok()
    };
    let mut ranges = Vec::new();
    let mut at = part.start;
    while let Some(start) = seek(at, libc::SEEK_DATA)
        && start < part.end
    {
        let end = seek(start, libc::SEEK_HOLE).unwrap_or(part.end);
        at = end.min(part.end);
        join(&mut ranges, start..at, gap);
    }
    ranges
}

/// Pages of a part of a mapping that are its own: neither of its files, nor untouched.
/// Documentation/admin-guide/mm/pagemap.rst of Linux has the bits.
fn own_pages(mapping: &Mapping, part: Range<u64>) -> Result<Vec<Range<u64>>> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let pagemap = File::open("/proc/self/pagemap")?;
    let most = (64 << 10).min((part.end - part.start) / PAGE * 8);
    let mut entries = vec![0; most as usize];
    let mut ranges = Vec::new();
    let mut at = part.start;
    while at < part.end {
        let count = ((part.end - at) / PAGE * 8).min(most) as usize;
        let first = (mapping.start() as u64 + at) / PAGE * 8;
        pagemap.read_exact_at(&mut entries[..count], first)?;
        for entry in entries[..count].as_chunks().0 {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0 {
                join(&mut ranges, at..at + PAGE, 0);
            }
            at += PAGE;
        }
    }
    Ok(ranges)
}

/// A part of a file has nothing any more.
fn empty(file: &File, part: Range<u64>) -> Result<()> {
    let (at, bytes) = (
        part.start as libc::off_t,
        (part.end - part.start) as libc::off_t,
    );
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain system call on our own descriptor.
    if unsafe { libc::fallocate(file.as_raw_fd(), how, at, bytes) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

/// Writes what is not zero of whole pages.
fn write_nonzero(file: &File, at: u64, content: &[u8]) -> Result<()> {
    let mut runs = Vec::new();
    for (n, page) in content.chunks(PAGE as usize).enumerate() {
        let start = n as u64 * PAGE;
        if page != [0; PAGE as usize] {
            join(&mut runs, start..start + PAGE, 0);
        }
    }
    for run in runs {
        file.write_all_at(
            &content[run.start as usize..run.end as usize],
            at + run.start,
        )?;
    }
    Ok(())
}

fn memfd() -> Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call has no other memory effect.
    let fd = unsafe { libc::memfd_create(c"ring3-ram".as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// From now on nobody can write to it; the kernel refuses if somebody has it mapped for that.
fn seal(file: &File) -> Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: plain system call on our own descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

// --- RAM ---

/// The file that RAM is where it isn't frozen.
struct Shared {
    file: File,
    /// What of RAM it is: in order, and neighbours are joined.
    parts: Vec<Range<u64>>,
}

impl Shared {
    fn new(bytes: u64, parts: Vec<Range<u64>>) -> Result<Shared> {
        let file = memfd()?;
        file.set_len(bytes)?;
        Ok(Shared { file, parts })
    }
}

/// What the RAM of a machine is made of; every call is given the mapping that it is.
pub struct Backing {
    shared: Option<Shared>,
    /// Of the frozen parts.
    extents: Vec<Extent>,
    /// Extents that it has mapped, of all `MAPPED`.
    mapped: usize,
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.set(Vec::new());
    }
}

impl Backing {
    /// RAM of so many bytes, all zero, in a mapping that has room for more.
    #[allow(clippy::single_range_in_vec_init)]
    pub fn new(bytes: u64, capacity: u64) -> Result<(Backing, Mapping)> {
        let shared = Shared::new(bytes, vec![0..bytes])?;
        let mapping = Mapping::new(capacity as usize, &Source::Zeros)?;
        mapping.replace(0..bytes, &Source::Shared(shared.file.as_fd(), 0))?;
        let backing = Backing {
            shared: Some(shared),
            extents: Vec::new(),
            mapped: 0,
        };
        Ok((backing, mapping))
    }

    fn shared_parts(&self) -> &[Range<u64>] {
        self.shared.as_ref().map_or(&[], |shared| &shared.parts)
    }

    /// Whether a part of RAM is the shared file.
    pub fn is_shared(&self, part: Range<u64>) -> bool {
        let parts = self.shared_parts();
        let next = parts.partition_point(|shared| shared.start <= part.start);
        next > 0 && part.end <= parts[next - 1].end
    }

    pub fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        self.shared.as_ref().map(|shared| shared.file.as_fd())
    }

    /// There is more of it.
    pub fn grow(&mut self, mapping: &Mapping, bytes: Range<u64>) -> Result<()> {
        let Some(shared) = &mut self.shared else {
            return mapping.replace(bytes, &Source::Zeros);
        };
        shared.file.set_len(bytes.end)?;
        let source = Source::Shared(shared.file.as_fd(), bytes.start);
        mapping.replace(bytes.clone(), &source)?;
        join(&mut shared.parts, bytes, 0);
        Ok(())
    }

    /// What may be other than zero.
    pub fn touched(&self, mapping: &Mapping, bytes: u64) -> Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        for frozen in outside(self.shared_parts(), 0..bytes) {
            ranges.extend(own_pages(mapping, frozen)?);
        }
        let inside = |range: Range<u64>| range.start..range.end.min(bytes);
        if let Some(shared) = &self.shared {
            let parts = shared.parts.iter().filter(|part| part.start < bytes);
            ranges.extend(parts.flat_map(|part| allocated(&shared.file, inside(part.clone()), 0)));
        }
        let extents = self.extents.iter().filter(|extent| extent.start < bytes);
        ranges.extend(extents.map(|extent| inside(extent.range())));
        Ok(joined(ranges, 0))
    }

    /// RAM as it is now; what is stored from now on is not seen in that.
    pub fn freeze(&mut self, mapping: &Mapping, bytes: u64) -> Result<Image> {
        if !self.is_shared(0..bytes) {
            let known = std::mem::take(&mut self.extents);
            let frozen = freeze_again(mapping, &known, bytes);
            let (extents, done) = match frozen {
                Ok(extents) => (extents, Ok(())),
                Err(error) => (known, Err(error)),
            };
            self.set(extents);
            done?;
        }
        self.freeze_shared(mapping)?;
        Ok(Image {
            bytes,
            extents: self.extents.clone(),
        })
    }

    /// The parts that are the shared file become extents of it, where it has anything.
    fn freeze_shared(&mut self, mapping: &Mapping) -> Result<()> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        let file = Arc::new(Frozen::new(shared.file.try_clone()?, true)?);
        let extent = |range: &Range<u64>| Extent {
            mapped: true,
            ..Extent::new(
                range.start,
                range.end - range.start,
                file.clone(),
                range.start,
            )
        };
        let mut extents = std::mem::take(&mut self.extents);
        let parts = std::mem::take(&mut shared.parts);
        for (n, part) in parts.iter().enumerate() {
            let source = Source::Private(file.file.as_fd(), part.start);
            if let Err(error) = mapping.replace(part.clone(), &source) {
                shared.parts = parts[n..].to_vec();
                extents.extend(parts[..n].iter().map(extent));
                self.set(extents);
                return Err(error);
            }
        }
        self.shared = None;
        for part in &parts {
            let mut hole = part.start;
            for range in allocated(&file.file, part.clone(), HOLE_BYTES) {
                // Else the first store there takes a page of the file, too.
                let _ = mapping.replace(hole..range.start, &Source::Zeros);
                hole = range.end;
                extents.push(extent(&range));
            }
            let _ = mapping.replace(hole..part.end, &Source::Zeros);
        }
        self.set(extents);
        seal(&file.file)
    }

    /// Makes a part of RAM the shared file, which has `bytes` then; its content stays.
    pub fn thaw(&mut self, mapping: &Mapping, part: Range<u64>, bytes: u64) -> Result<()> {
        let slice = (bytes / SLICES_MAX).next_power_of_two().max(SLICE_BYTES);
        let start = part.start - part.start % slice;
        let end = part.end.next_multiple_of(slice).min(bytes);
        for frozen in outside(self.shared_parts(), start..end) {
            let mut at = frozen.start;
            while at < frozen.end {
                let next = (at + 1).next_multiple_of(slice).min(frozen.end);
                self.thaw_slice(mapping, at..next, bytes)?;
                at = next;
            }
        }
        Ok(())
    }

    /// All of it is frozen.
    fn thaw_slice(&mut self, mapping: &Mapping, slice: Range<u64>, bytes: u64) -> Result<()> {
        let content = self.content(mapping, slice.clone())?;
        let shared = match &mut self.shared {
            Some(shared) => shared,
            None => self.shared.insert(Shared::new(bytes, Vec::new())?),
        };
        // One that failed may have left something.
        empty(&shared.file, slice.clone())?;
        write_nonzero(&shared.file, slice.start, &content)?;
        let source = Source::Shared(shared.file.as_fd(), slice.start);
        mapping.replace(slice.clone(), &source)?;
        shared.parts.push(slice.clone());
        shared.parts = joined(std::mem::take(&mut shared.parts), 0);
        self.cut(slice);
        Ok(())
    }

    /// What a frozen part of RAM holds.  Of files it is read, not mapped: that would fill their holes.
    fn content(&self, mapping: &Mapping, part: Range<u64>) -> Result<Vec<u8>> {
        let mut content = vec![0; (part.end - part.start) as usize];
        let place = |r: &Range<u64>| (r.start - part.start) as usize..(r.end - part.start) as usize;
        let first = self.extents.partition_point(|e| e.end() <= part.start);
        for extent in self.extents[first..]
            .iter()
            .take_while(|e| e.start < part.end)
        {
            let extent = extent.part(part.clone());
            let to = &mut content[place(&extent.range())];
            extent.file.file.read_exact_at(to, extent.offset)?;
        }
        for own in own_pages(mapping, part.clone())? {
            let from = part_of(mapping, own.clone());
            // SAFETY: inside the mapping, and nobody writes to it (invariant 3).
            content[place(&own)].copy_from_slice(unsafe { &*from });
        }
        Ok(content)
    }

    /// Extents have nothing of a part of RAM any more.
    #[allow(clippy::single_range_in_vec_init)]
    fn cut(&mut self, part: Range<u64>) {
        let first = self.extents.partition_point(|e| e.end() <= part.start);
        let end = self.extents.partition_point(|e| e.start < part.end);
        let left = without(&self.extents[first..end], &[part]);
        let count = |extents: &[Extent]| extents.iter().filter(|extent| extent.mapped).count();
        let (before, after) = (count(&self.extents[first..end]), count(&left));
        self.extents.splice(first..end, left);
        self.count(self.mapped + after - before);
    }

    /// RAM becomes what the extents say; they must be good (`check`).  After an error it is nothing.
    pub fn adopt(&mut self, mapping: &Mapping, mut extents: Vec<Extent>) -> Result<()> {
        mapping.replace(0..mapping.bytes(), &Source::Zeros)?;
        self.shared = None;
        self.set(Vec::new());
        show(mapping, &mut extents)?;
        self.set(extents);
        Ok(())
    }

    /// The extents of the frozen parts, in any order.
    fn set(&mut self, mut extents: Vec<Extent>) {
        extents.sort_unstable_by_key(|extent| extent.start);
        self.count(extents.iter().filter(|extent| extent.mapped).count());
        self.extents = extents;
    }

    fn count(&mut self, mapped: usize) {
        MAPPED.fetch_add(mapped, Ordering::Relaxed);
        MAPPED.fetch_sub(self.mapped, Ordering::Relaxed);
        self.mapped = mapped;
    }
}

/// Whether extents are whole pages in order within `bytes` of RAM and within their files.
pub fn check(extents: &[Extent], bytes: u64) -> Result<()> {
    let mut end = 0;
    for extent in extents {
        let whole = [extent.start, extent.bytes, extent.offset].map(|n| n.is_multiple_of(PAGE));
        let length = extent.file.file.metadata()?.len();
        let inside = |from: u64, all: u64| from <= all && extent.bytes <= all - from;
        let fits = inside(extent.start, bytes) && inside(extent.offset, length);
        if whole != [true; 3] || !fits || extent.start < end {
            return Err(Error::from(ErrorKind::InvalidInput));
        }
        end = extent.end();
    }
    Ok(())
}

/// The extents of what is frozen, in any order, after the mapping's own pages have gone to a file.
fn freeze_again(mapping: &Mapping, known: &[Extent], bytes: u64) -> Result<Vec<Extent>> {
    let (zero, mut data) = sorted_out(mapping, own_pages(mapping, 0..bytes)?);
    data.extend(in_wasteful_files(known));
    let data = joined(data, GAP_BYTES);
    let mut extents = without(&without(known, &zero), &data);
    extents.extend(written(mapping, &data)?);
    for range in zero {
        // Where it fails, the zeros stay the mapping's own.
        let _ = mapping.replace(range, &Source::Zeros);
    }
    map_largest(mapping, &mut extents);
    Ok(extents)
}

/// Pages that are zero, and the others.
fn sorted_out(mapping: &Mapping, own: Vec<Range<u64>>) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let (mut zero, mut data) = (Vec::new(), Vec::new());
    for start in own
        .into_iter()
        .flat_map(|range| range.step_by(PAGE as usize))
    {
        let page = start..start + PAGE;
        let words =
            part_of(mapping, page.clone()) as *const [u8] as *const [u64; PAGE as usize / 8];
        // SAFETY: a whole page of the mapping, and nobody writes to it (invariant 3).
        let is_zero = unsafe { &*words }.iter().all(|word| *word == 0);
        join(if is_zero { &mut zero } else { &mut data }, page, 0);
    }
    (zero, data)
}

/// What is of use in files of ours that are mostly of no use any more, or where there are too many
/// files, in those with the least.
fn in_wasteful_files(extents: &[Extent]) -> Vec<Range<u64>> {
    let mut files: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
    for extent in extents {
        let (held, used) = files.entry(extent.file.id).or_default();
        *held = extent.file.held_bytes;
        *used += extent.bytes;
    }
    let sum = |all: (u64, u64), file: &(u64, u64)| (all.0 + file.0, all.1 + file.1.min(file.0));
    let (held, used) = files.values().fold((0, 0), sum);
    let too_much = held > 2 * used + SLACK_BYTES;
    let mut sizes: Vec<u64> = files.values().map(|(_, used)| *used).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let too_small = if sizes.len() > FILES_MAX {
        sizes[FILES_MAX / 2]
    } else {
        0
    };
    let wasteful = |extent: &&Extent| {
        let (held, used) = files[&extent.file.id];
        (too_much && held > 2 * used) || used <= too_small
    };
    extents.iter().filter(wasteful).map(Extent::range).collect()
}

/// Writes ranges of RAM one after the other to a new file.
fn written(mapping: &Mapping, ranges: &[Range<u64>]) -> Result<Vec<Extent>> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let file = memfd()?;
    let mut offset = 0;
    let mut places = Vec::new();
    for range in ranges {
        let part = part_of(mapping, range.clone());
        // SAFETY: inside the mapping, and nobody writes to it (invariant 3).
        file.write_all_at(unsafe { &*part }, offset)?;
        places.push(offset);
        offset += range.end - range.start;
    }
    seal(&file)?;
    let file = Arc::new(Frozen::new(file, true)?);
    let extent = |(range, offset): (&Range<u64>, u64)| {
        Extent::new(range.start, range.end - range.start, file.clone(), offset)
    };
    Ok(ranges.iter().zip(places).map(extent).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 64;
    const BYTES: u64 = PAGES * PAGE;

    struct Ram {
        backing: Backing,
        mapping: Mapping,
    }

    impl Ram {
        fn new() -> Ram {
            let (backing, mapping) = Backing::new(BYTES, BYTES + 8 * PAGE).unwrap();
            Ram { backing, mapping }
        }

        fn of(image: &Image) -> Ram {
            let mut ram = Ram::new();
            ram.backing
                .adopt(&ram.mapping, image.extents.clone())
                .unwrap();
            ram
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: the mapping is the tests' own.
            unsafe { &*part_of(&self.mapping, 0..BYTES) }
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above.
            unsafe { &mut *part_of(&self.mapping, 0..BYTES) }
        }

        fn fill(&mut self, page: u64, with: u8) {
            self.bytes_mut()[(page * PAGE) as usize..][..PAGE as usize].fill(with);
        }

        fn first_bytes(&self) -> Vec<u8> {
            self.bytes()
                .iter()
                .step_by(PAGE as usize)
                .copied()
                .collect()
        }

        fn freeze(&mut self) -> Image {
            self.backing.freeze(&self.mapping, BYTES).unwrap()
        }
    }

    fn content(image: &Image) -> Vec<u8> {
        let mapping = image.map().unwrap();
        // SAFETY: nobody writes to the fresh mapping.
        unsafe { &*part_of(&mapping, 0..image.bytes) }.to_vec()
    }

    #[test]
    fn an_image_keeps_what_ram_was_at_each_freeze() {
        let mut ram = Ram::new();
        let mut images = Vec::new();
        for round in 1..6u8 {
            for page in (round as u64..PAGES).step_by(round as usize * 7) {
                ram.fill(page, round);
            }
            let image = ram.freeze();
            images.push((ram.bytes().to_vec(), image));
        }
        ram.bytes_mut().fill(0xFF);
        for (bytes, image) in images {
            assert!(content(&image) == bytes);
        }
    }

    #[test]
    fn machines_that_go_on_from_an_image_do_not_see_each_other() {
        let mut parent = Ram::new();
        parent.fill(3, 1);
        let image = parent.freeze();
        let (mut one, two) = (Ram::of(&image), Ram::of(&image));
        parent.fill(3, 2);
        one.fill(3, 3);
        one.fill(40, 3);
        assert_eq!((parent.first_bytes()[3], two.first_bytes()[3]), (2, 1));
        assert_eq!((parent.first_bytes()[40], two.first_bytes()[40]), (0, 0));
    }

    #[test]
    fn a_copy_can_be_frozen_and_copied_again() {
        let mut parent = Ram::new();
        parent.fill(1, 1);
        let mut child = Ram::of(&parent.freeze());
        child.fill(2, 2);
        let grandchild = Ram::of(&child.freeze());
        child.fill(1, 9);
        assert_eq!(grandchild.first_bytes()[..4], [0, 1, 2, 0]);
    }

    #[test]
    fn addresses_and_contents_stay_when_ram_is_frozen() {
        let mut ram = Ram::new();
        ram.fill(5, 5);
        let before = ram.mapping.start();
        ram.freeze();
        ram.fill(6, 6);
        ram.freeze();
        assert_eq!(ram.mapping.start(), before);
        assert_eq!(ram.first_bytes()[4..8], [0, 5, 6, 0]);
    }

    #[test]
    fn files_of_an_image_cannot_be_written() {
        let mut ram = Ram::new();
        ram.fill(0, 1);
        let image = ram.freeze();
        assert!(image.extents[0].file.file.write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn an_unchanged_ram_is_frozen_without_another_file() {
        let mut ram = Ram::new();
        ram.fill(9, 1);
        let first = ram.freeze();
        let second = ram.freeze();
        assert!(second.changed_since(&first).is_empty());
        assert_eq!(first.extents.len(), second.extents.len());
    }

    #[test]
    fn changes_between_images_are_found() {
        let mut ram = Ram::new();
        ram.fill(9, 1);
        ram.fill(30, 1);
        let first = ram.freeze();
        ram.fill(10, 2);
        ram.fill(30, 0);
        ram.fill(50, 0);
        let second = ram.freeze();
        let changed = [10 * PAGE..11 * PAGE, 30 * PAGE..31 * PAGE];
        assert_eq!(second.changed_since(&first), changed);
        assert_eq!(first.changed_since(&second), changed);
    }

    #[test]
    fn pages_that_became_zero_take_nothing() {
        let mut ram = Ram::new();
        ram.bytes_mut().fill(7);
        ram.freeze();
        ram.bytes_mut().fill(0);
        let image = ram.freeze();
        assert!(image.extents.is_empty());
        assert!(ram.bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn memory_that_is_added_after_a_freeze_is_zero_and_frozen_next_time() {
        let mut ram = Ram::new();
        ram.freeze();
        let more = BYTES..BYTES + 4 * PAGE;
        ram.backing.grow(&ram.mapping, more.clone()).unwrap();
        // SAFETY: inside the mapping.
        let part = unsafe { &mut *part_of(&ram.mapping, more.clone()) };
        assert!(part.iter().all(|byte| *byte == 0));
        part.fill(4);
        let image = ram.backing.freeze(&ram.mapping, more.end).unwrap();
        assert_eq!(content(&image)[BYTES as usize..], [4; 4 * PAGE as usize]);
    }

    #[test]
    fn extents_that_are_not_mapped_are_copied() {
        let mut ram = Ram::new();
        for page in (0..PAGES).step_by(4) {
            ram.fill(page, page as u8 + 1);
        }
        ram.freeze();
        for page in (2..PAGES).step_by(8) {
            ram.fill(page, 0x80);
        }
        let expected = ram.bytes().to_vec();
        let image = ram.freeze();
        MAPPED.fetch_add(extents_max(), Ordering::Relaxed);
        let mut copy = Ram::of(&image);
        let again = copy.freeze();
        MAPPED.fetch_sub(extents_max(), Ordering::Relaxed);
        assert!(copy.bytes() == expected && content(&again) == expected);
    }

    fn files(image: &Image) -> usize {
        let ids = image.extents.iter().map(|extent| extent.file.id);
        ids.collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn files_that_are_mostly_of_no_use_are_let_go() {
        let mut ram = Ram::new();
        ram.bytes_mut().fill(1);
        let image = ram.freeze();
        // As if the file were larger than what may be wasted.
        let mut file = Frozen::new(image.extents[0].file.file.try_clone().unwrap(), true).unwrap();
        file.held_bytes = 2 * SLACK_BYTES;
        let extent = Extent::new(0, BYTES, Arc::new(file), 0);
        ram.backing.adopt(&ram.mapping, vec![extent]).unwrap();
        ram.fill(0, 2);
        let image = ram.freeze();
        assert_eq!(files(&image), 1);
        assert!(image.extents[0].file.held_bytes < SLACK_BYTES);
        assert!(content(&image) == ram.bytes());
    }

    #[test]
    fn there_are_never_many_files() {
        let pages = 4 * FILES_MAX as u64;
        let (mut backing, mapping) = Backing::new(pages * PAGE, pages * PAGE).unwrap();
        for page in 0..pages {
            // SAFETY: inside the mapping.
            unsafe { &mut *part_of(&mapping, page * PAGE..(page + 1) * PAGE) }.fill(page as u8 | 1);
            let image = backing.freeze(&mapping, pages * PAGE).unwrap();
            assert!(files(&image) <= FILES_MAX + 1);
        }
        let image = backing.freeze(&mapping, pages * PAGE).unwrap();
        // SAFETY: inside the mapping.
        assert!(content(&image) == unsafe { &*part_of(&mapping, 0..pages * PAGE) });
    }

    /// RAM of many slices, with the number of each in it.
    fn of_slices(count: u64) -> (Backing, Mapping, u64) {
        let bytes = count * SLICE_BYTES;
        let (backing, mapping) = Backing::new(bytes, bytes).unwrap();
        for slice in 0..count {
            store(&mapping, slice * SLICE_BYTES, slice as u8 + 1);
        }
        (backing, mapping, bytes)
    }

    fn store(mapping: &Mapping, at: u64, value: u8) {
        // SAFETY: inside the mapping, which is the test's own.
        unsafe { (*part_of(mapping, at..at + 1))[0] = value };
    }

    /// The first byte of each slice.
    fn slices(mapping: &Mapping, bytes: u64) -> Vec<u8> {
        // SAFETY: as above.
        let all = unsafe { &*part_of(mapping, 0..bytes) };
        all.iter().step_by(SLICE_BYTES as usize).copied().collect()
    }

    #[test]
    fn a_thawed_part_is_the_shared_file_with_the_same_content_and_the_rest_stays_frozen() {
        let (mut backing, mapping, bytes) = of_slices(4);
        backing.freeze(&mapping, bytes).unwrap();
        store(&mapping, SLICE_BYTES + PAGE, 0x55);
        let page = SLICE_BYTES + PAGE..SLICE_BYTES + 2 * PAGE;
        backing.thaw(&mapping, page, bytes).unwrap();
        assert_eq!(slices(&mapping, bytes), [1, 2, 3, 4]);
        let shared =
            [0, 1, 2, 3].map(|n| backing.is_shared(n * SLICE_BYTES..(n + 1) * SLICE_BYTES));
        assert_eq!(shared, [false, true, false, false]);
        let mut found = [0];
        let file = &backing.shared.as_ref().unwrap().file;
        file.read_exact_at(&mut found, SLICE_BYTES + PAGE).unwrap();
        assert_eq!(found, [0x55]);
    }

    #[test]
    fn thawing_takes_memory_for_pages_that_are_not_zero_only() {
        let (mut backing, mapping, bytes) = of_slices(4);
        backing.freeze(&mapping, bytes).unwrap();
        backing.thaw(&mapping, 0..bytes, bytes).unwrap();
        let file = &backing.shared.as_ref().unwrap().file;
        assert_eq!(file.metadata().unwrap().blocks() * 512, 4 * PAGE);
        assert!(backing.extents.is_empty() && backing.mapped == 0);
    }

    #[test]
    fn machines_do_not_see_what_another_stores_to_a_thawed_part() {
        let (mut parent, mapping, bytes) = of_slices(3);
        let image = parent.freeze(&mapping, bytes).unwrap();
        let (mut child, child_mapping) = Backing::new(bytes, bytes).unwrap();
        child.adopt(&child_mapping, image.extents.clone()).unwrap();
        parent.thaw(&mapping, 0..PAGE, bytes).unwrap();
        child.thaw(&child_mapping, 0..PAGE, bytes).unwrap();
        store(&mapping, 0, 0x10);
        store(&child_mapping, 0, 0x20);
        assert_eq!(slices(&mapping, bytes)[0], 0x10);
        assert_eq!(slices(&child_mapping, bytes)[0], 0x20);
        assert_eq!(content(&image)[0], 1);
    }

    #[test]
    fn a_freeze_of_a_ram_that_is_thawed_in_part_has_all_of_it() {
        let (mut backing, mapping, bytes) = of_slices(5);
        backing.freeze(&mapping, bytes).unwrap();
        for slice in [1, 3] {
            let at = slice * SLICE_BYTES;
            backing.thaw(&mapping, at..at + PAGE, bytes).unwrap();
            store(&mapping, at + PAGE, 0x77);
        }
        store(&mapping, 2 * SLICE_BYTES + PAGE, 0x66);
        let image = backing.freeze(&mapping, bytes).unwrap();
        // SAFETY: inside the mapping, which is the test's own.
        let expected = unsafe { &*part_of(&mapping, 0..bytes) }.to_vec();
        assert!(content(&image) == expected);
        store(&mapping, SLICE_BYTES, 9);
        assert!(content(&image) == expected);
        assert_eq!(slices(&mapping, bytes), [1, 9, 3, 4, 5]);
        assert!(!backing.is_shared(SLICE_BYTES..SLICE_BYTES + PAGE));
    }

    #[test]
    fn what_was_not_mapped_of_a_frozen_ram_is_thawed_too() {
        let (mut parent, mapping, bytes) = of_slices(3);
        let image = parent.freeze(&mapping, bytes).unwrap();
        let (mut copy, copied) = Backing::new(bytes, bytes).unwrap();
        MAPPED.fetch_add(extents_max(), Ordering::Relaxed);
        let adopted = copy.adopt(&copied, image.extents.clone());
        MAPPED.fetch_sub(extents_max(), Ordering::Relaxed);
        adopted.unwrap();
        store(&copied, PAGE, 0x44);
        copy.thaw(&copied, 0..bytes, bytes).unwrap();
        // SAFETY: inside the mapping, which is the test's own.
        assert_eq!(
            unsafe { (*part_of(&copied, 0..bytes))[PAGE as usize] },
            0x44
        );
        assert_eq!(slices(&copied, bytes), [1, 2, 3]);
    }

    #[test]
    fn memory_that_is_added_to_a_ram_thawed_in_part_is_zero_and_frozen_next_time() {
        let bytes = 2 * SLICE_BYTES;
        let more = bytes..bytes + PAGE;
        let (mut backing, mapping) = Backing::new(bytes, more.end).unwrap();
        backing.freeze(&mapping, bytes).unwrap();
        backing.thaw(&mapping, 0..PAGE, bytes).unwrap();
        backing.grow(&mapping, more.clone()).unwrap();
        store(&mapping, bytes, 3);
        let image = backing.freeze(&mapping, more.end).unwrap();
        assert_eq!(content(&image)[bytes as usize], 3);
    }

    #[test]
    fn extents_beyond_ram_or_file_or_out_of_order_are_refused() {
        let mut ram = Ram::new();
        ram.fill(0, 1);
        let file = ram.freeze().extents[0].file.clone();
        let extent = |start, pages, offset| {
            Extent::new(start * PAGE, pages * PAGE, file.clone(), offset * PAGE)
        };
        let bad = |extents: &[Extent]| check(extents, BYTES).is_err();
        assert!(!bad(&[extent(0, 2, 8), extent(2, PAGES - 2, 0)]));
        assert!(bad(&[extent(1, PAGES, 0)]));
        assert!(bad(&[extent(0, 2, PAGES - 1)]));
        assert!(bad(&[extent(0, 2, 0), extent(1, 1, 0)]));
        assert!(bad(&[Extent::new(0, PAGE, file.clone(), 1)]));
        assert!(bad(&[extent(u64::MAX / PAGE, 2, 0)]));
    }
}
