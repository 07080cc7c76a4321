//! Finding blocks and linking them to each other.
//!
//! Blocks are known by (physical address, RIP, mode).  A direct exit first jumps to a stub that asks
//! the dispatcher; `connect` retargets it to the block.  An indirect jump goes through a table by the
//! low 16 bits of RIP, and the block it lands on checks whether it is meant.

use super::block::{Built, Entry, PageCheck, Recovery};
use super::cache::CodeCache;
use super::device::Sites;
use super::env::{Area, JUMP_ENTRIES};
use super::mode::Mode;
use super::runtime::Thunks;
use super::template::Template;
use crate::memory::PAGE;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub const NONE: u32 = u32::MAX;

/// What the tables hold at most; more means that the cache is flushed.  Together they bound the
/// memory that translation takes besides the cache itself to some 90 MiB.
const MAX_BLOCKS: usize = 1 << 18;
const MAX_LINKS: usize = 1 << 19;
const MAX_MAP: usize = 1 << 22;
const MAX_PAGE_IDS: usize = 1 << 17;
const MAX_CODE_PAGES: usize = 1 << 14;
const MAX_MODES: usize = 1 << 12;

/// A multiplicative hash: keys are addresses and small numbers.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte as u64);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value as u64);
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value as u64);
    }
}

pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// Host addresses of a block's entries.
#[derive(Clone, Copy, Debug)]
pub struct HostEntries {
    pub indirect: u64,
    pub lost: u64,
    pub guarded: u64,
    pub polled: u64,
    pub main: u64,
}

pub struct Block {
    start: u64,
    bytes: u32,
    /// Room for host code, links and map entries: those of the largest block made in this place.
    capacity: u32,
    links: Slots,
    map: Slots,
    pub entries: HostEntries,
    key: Key,
    pub second: Option<PageCheck>,
    /// The first of the links that jump here, or NONE.
    incoming: u32,
    /// Physical ranges (address, bytes) that it was made from: its own, one that its flags'
    /// liveness relies on, the end of a straddling instruction.
    pub sources: [(u64, u64); 3],
    pub alive: bool,
    /// It doesn't need the flags of its predecessor.
    pub carefree: bool,
    pub recovery: Option<Recovery>,
}

/// A range of a table that belongs to one block.
#[derive(Clone, Copy, Default)]
struct Slots {
    first: u32,
    used: u32,
    capacity: u32,
}

impl Slots {
    fn range(&self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.used) as usize
    }

    /// Room for `used` entries at the end of a table of `length`.
    fn at_end(length: usize, used: usize) -> Slots {
        Slots {
            first: length as u32,
            used: used as u32,
            capacity: used as u32,
        }
    }
}

/// What tells blocks apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Physical address of the first instruction.
    pub physical: u64,
    pub rip: u64,
    pub mode: u16,
}

/// Where a block's host code goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The dead block it replaces, whose place it takes.
    reused: Option<u32>,
    pub base: u64,
    pub first_link: u32,
}

impl Place {
    pub fn is_reused(&self) -> bool {
        self.reused.is_some()
    }
}

impl Block {
    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    pub fn rip(&self) -> u64 {
        self.key.rip
    }

    pub fn physical(&self) -> u64 {
        self.key.physical
    }

    pub fn holds(&self, host: u64) -> bool {
        (self.start..=self.start + self.bytes as u64).contains(&host)
    }

    pub fn made_from(&self, address: u64, length: u64) -> bool {
        self.sources
            .iter()
            .any(|&(start, bytes)| start < address + length && address < start + bytes)
    }
}

/// A direct exit.
#[derive(Clone, Copy)]
pub struct Link {
    /// Host address of the jump's rel32.
    field: u64,
    /// Host address of its stub.
    stub: u64,
    /// Host address of the rel32 of the stub's jump that is taken once the flags are recovered, or 0.
    recovering: u64,
    /// RIP it goes to.
    pub target: u64,
    entry: Entry,
    /// The block it jumps to, or NONE.
    to: u32,
    /// Its neighbours among the links to the same block, or NONE.
    next: u32,
    previous: u32,
}

impl Link {
    /// Has it go to its stub, which asks for the target.
    fn unlink(&self, cache: &mut CodeCache) {
        cache.patch_rel32(self.field, self.stub);
        if self.recovering != 0 {
            cache.patch_rel32(self.recovering, self.recovering + 4);
        }
    }
}

/// Blocks of one page of physical memory.
pub struct CodePage {
    /// A bit for each byte: set wherever a block was made from it, and perhaps elsewhere.
    code: [u64; 64],
    /// Living blocks.
    pub blocks: Vec<u32>,
    /// Stores since the last block died.
    pub stores_without_blocks: u32,
}

impl CodePage {
    fn new() -> CodePage {
        CodePage {
            code: [0; 64],
            blocks: Vec::new(),
            stores_without_blocks: 0,
        }
    }

    fn mark(&mut self, offset: usize, bytes: usize) {
        for (word, mask) in byte_masks(offset, bytes) {
            self.code[word] |= mask;
        }
    }

    pub fn unmark(&mut self, offset: usize, bytes: usize) {
        for (word, mask) in byte_masks(offset, bytes) {
            self.code[word] &= !mask;
        }
    }

    pub fn may_hold_code(&self, offset: usize, bytes: usize) -> bool {
        byte_masks(offset, bytes).any(|(word, mask)| self.code[word] & mask != 0)
    }
}

/// The words of a page's bitmap that a range of bytes falls into, with the bits in each.
fn byte_masks(offset: usize, bytes: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = (offset + bytes.max(1)).min(PAGE as usize);
    (offset / 64..end.div_ceil(64)).map(move |word| {
        let low = offset.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[derive(Default)]
pub struct BlockTable {
    /// In order of their host addresses.
    pub blocks: Vec<Block>,
    pub links: Vec<Link>,
    /// Blocks' maps: (host offset, guest offset from the block's RIP), ascending in each.
    map: Vec<(u16, u16)>,
    /// Counts flushes: numbers of blocks and links are void after one.
    pub epoch: u64,
    by_key: Map<Key, u32>,
    /// Of blocks that died before.
    pub templates: Map<u32, Template>,
    /// Keys of blocks whose stack groups straddled pages.
    ungrouped: Map<Key, ()>,
    /// Keys of blocks that access what windows can't have.
    soft: Map<Key, ()>,
    /// Instructions whose memory is a device's.
    pub device_sites: Sites,
    pub code_pages: Map<u64, CodePage>,
    page_ids: Map<(u64, u64), u32>,
    modes: Map<(u32, u64), u16>,
    last_mode: Option<(Mode, u16)>,
    /// Per class: the mode its jump table is for, and the slots in use.
    jump_mode: [Option<Mode>; 2],
    jump_log: [Vec<u16>; 2],
}

impl BlockTable {
    pub fn is_full(&self) -> bool {
        self.blocks.len() >= MAX_BLOCKS
            || self.links.len() >= MAX_LINKS
            || self.map.len() >= MAX_MAP
            || self.page_ids.len() >= MAX_PAGE_IDS
            || self.code_pages.len() >= MAX_CODE_PAGES
            || self.ungrouped.len() >= MAX_BLOCKS
            || self.soft.len() >= MAX_BLOCKS
            || self.modes.len() >= MAX_MODES
    }

    /// A small number for a mode.
    pub fn mode_number(&mut self, mode: &Mode) -> u16 {
        if let Some((last, number)) = &self.last_mode
            && last == mode
        {
            return *number;
        }
        let next = self.modes.len() as u16;
        let segment = (mode.cs_base as u64) << 32 | mode.cs_limit as u64;
        let number = *self.modes.entry((mode.bits, segment)).or_insert(next);
        self.last_mode = Some((*mode, number));
        number
    }

    /// The identity of physical page `ppn` seen at virtual page `vpn`; never 0.
    pub fn page_id(&mut self, vpn: u64, ppn: u64) -> u32 {
        let next = self.page_ids.len() as u32 + 1;
        *self.page_ids.entry((vpn, ppn)).or_insert(next)
    }

    pub fn find(&self, key: &Key) -> Option<u32> {
        let index = *self.by_key.get(key)?;
        self.blocks[index as usize].alive.then_some(index)
    }

    /// The dead block with this key.
    pub fn dead(&self, key: &Key) -> Option<u32> {
        let index = *self.by_key.get(key)?;
        (!self.blocks[index as usize].alive).then_some(index)
    }

    /// Brings a dead block to the state that it was built in, but for its source.
    pub fn reset(&mut self, index: u32, cache: &mut CodeCache) {
        for link in self.blocks[index as usize].links.range() {
            self.disconnect(link as u32);
            self.links[link].unlink(cache);
        }
        let block = &mut self.blocks[index as usize];
        block.sources = [(0, 0); 3];
        block.alive = true;
    }

    /// Where to build a new block: where one with the same key died, or at the cache's end.
    pub fn place(&self, key: &Key, cache: &CodeCache) -> Place {
        match self.dead(key) {
            Some(index) => {
                let dead = &self.blocks[index as usize];
                Place {
                    reused: Some(index),
                    base: dead.start,
                    first_link: dead.links.first,
                }
            }
            _ => self.new_place(cache),
        }
    }

    pub fn new_place(&self, cache: &CodeCache) -> Place {
        Place {
            reused: None,
            base: cache.next_address(),
            first_link: self.links.len() as u32,
        }
    }

    /// Whether what was built for `place` fits there.
    pub fn fits(&self, place: &Place, bytes: usize, built: &Built) -> bool {
        place.reused.is_none_or(|index| {
            let dead = &self.blocks[index as usize];
            bytes <= dead.capacity as usize
                && built.exits.len() <= dead.links.capacity as usize
                && built.map.len() <= dead.map.capacity as usize
        })
    }

    /// Enters a block that was built for `place`; its exits go to their stubs.
    pub fn add(
        &mut self,
        key: Key,
        place: &Place,
        bytes: usize,
        built: &Built,
        second: Option<PageCheck>,
    ) -> u32 {
        let (base, e) = (place.base, &built.entries);
        let mut block = Block {
            start: base,
            bytes: bytes as u32,
            capacity: (bytes as u32).next_multiple_of(16),
            links: Slots::at_end(self.links.len(), built.exits.len()),
            map: Slots::at_end(self.map.len(), built.map.len()),
            entries: HostEntries {
                indirect: base + e.indirect as u64,
                lost: base + e.lost as u64,
                guarded: base + e.guarded as u64,
                polled: base + e.polled as u64,
                main: base + e.main as u64,
            },
            key,
            second,
            incoming: NONE,
            sources: [(0, 0); 3],
            alive: true,
            carefree: built.carefree,
            recovery: built.recovery,
        };
        let links = built.exits.iter().map(|e| Link {
            field: base + e.field as u64,
            stub: base + e.stub as u64,
            recovering: e.recovering.map_or(0, |at| base + at as u64),
            target: e.target,
            entry: e.entry,
            to: NONE,
            next: NONE,
            previous: NONE,
        });
        let map = built.map.iter().map(|&(at, delta)| (at as u16, delta));
        let Some(index) = place.reused else {
            self.links.extend(links);
            self.map.extend(map);
            let index = self.blocks.len() as u32;
            self.by_key.insert(key, index);
            self.blocks.push(block);
            return index;
        };
        self.templates.remove(&index);
        let dead = &self.blocks[index as usize];
        block.capacity = dead.capacity;
        block.links = Slots {
            used: block.links.used,
            ..dead.links
        };
        block.map = Slots {
            used: block.map.used,
            ..dead.map
        };
        for (slot, link) in self.links[block.links.range()].iter_mut().zip(links) {
            *slot = link;
        }
        for (slot, entry) in self.map[block.map.range()].iter_mut().zip(map) {
            *slot = entry;
        }
        self.blocks[index as usize] = block;
        index
    }

    /// Makes `link` jump to `block`, unless it has been connected already.
    pub fn connect(&mut self, link: u32, block: u32, cache: &mut CodeCache) {
        let b = &mut self.blocks[block as usize];
        let first = b.incoming;
        let l = &mut self.links[link as usize];
        if l.to != NONE {
            return;
        }
        let target = match l.entry {
            Entry::Main => b.entries.main,
            Entry::Polled => b.entries.polled,
            Entry::Guarded if l.recovering != 0 && b.carefree => b.entries.lost,
            Entry::Guarded => b.entries.guarded,
        };
        (l.to, l.next, l.previous) = (block, first, NONE);
        b.incoming = link;
        let field = match l.recovering {
            0 => l.field,
            _ if b.carefree => l.field,
            recovering => recovering,
        };
        cache.patch_rel32(field, target);
        if first != NONE {
            self.links[first as usize].previous = link;
        }
    }

    /// Takes a link out of the list of those that jump where it does.
    fn disconnect(&mut self, link: u32) {
        let Link {
            to, next, previous, ..
        } = self.links[link as usize];
        if to == NONE {
            return;
        }
        self.links[link as usize].to = NONE;
        match previous {
            NONE => self.blocks[to as usize].incoming = next,
            _ => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
    }

    /// Takes a block out of everything that could lead to it.  Allocates and frees nothing: the
    /// guest's vector registers may be live.
    pub fn remove(&mut self, index: u32, cache: &mut CodeCache, area: &mut Area, thunks: &Thunks) {
        let block = &mut self.blocks[index as usize];
        if !std::mem::replace(&mut block.alive, false) {
            return;
        }
        let slot = block.key.rip as usize % JUMP_ENTRIES;
        let unknown = [
            (&mut area.jump, thunks.recover),
            (&mut area.jump_live, thunks.lookup),
        ];
        for (table, unknown) in unknown {
            for class in table {
                if class[slot] == block.entries.indirect {
                    class[slot] = unknown;
                }
            }
        }
        let (own, sources) = (block.links.range(), block.sources);
        loop {
            let link = self.blocks[index as usize].incoming;
            if link == NONE {
                break;
            }
            let l = &self.links[link as usize];
            l.unlink(cache);
            self.disconnect(link);
        }
        for link in own {
            self.disconnect(link as u32);
        }
        for (start, _) in sources.into_iter().filter(|s| s.1 != 0) {
            if let Some(page) = self.code_pages.get_mut(&(start / PAGE))
                && let Some(at) = page.blocks.iter().position(|&b| b == index)
            {
                page.blocks.swap_remove(at);
            }
        }
    }

    /// The block whose host code `host` lies in (or just behind).
    pub fn block_at(&self, host: u64) -> Option<u32> {
        let index = self
            .blocks
            .partition_point(|b| b.start <= host)
            .checked_sub(1)?;
        let block = &self.blocks[index];
        block.holds(host).then_some(index as u32)
    }

    /// Whether a block with this key must not share probes of the stack.
    pub fn is_ungrouped(&self, key: &Key) -> bool {
        !self.ungrouped.is_empty() && self.ungrouped.contains_key(key)
    }

    pub fn set_ungrouped(&mut self, index: u32) {
        self.templates.remove(&index);
        self.ungrouped.insert(self.blocks[index as usize].key, ());
    }

    /// Whether a block with this key must do without windows.
    pub fn is_soft(&self, key: &Key) -> bool {
        !self.soft.is_empty() && self.soft.contains_key(key)
    }

    pub fn set_soft(&mut self, index: u32) {
        self.templates.remove(&index);
        self.soft.insert(self.blocks[index as usize].key, ());
    }

    /// The host address where the guest instruction begins that `host` belongs to.
    pub fn instruction_start(&self, host: u64) -> Option<u64> {
        let block = &self.blocks[self.block_at(host)? as usize];
        let map = &self.map[block.map.range()];
        let i = map.partition_point(|&(at, _)| at as u64 <= host - block.start);
        let (at, _) = map[i.checked_sub(1)?];
        Some(block.start + at as u64)
    }

    /// The block that a host address lies in, and the guest instruction that it belongs to: how far that
    /// is behind the block's RIP.
    pub fn instruction_at(&self, host: u64) -> Option<(u32, u64)> {
        let index = self.block_at(host)?;
        let block = &self.blocks[index as usize];
        let offset = host - block.start;
        let map = &self.map[block.map.range()];
        let i = map.partition_point(|&(at, _)| at as u64 <= offset);
        let (_, delta) = map[i.checked_sub(1)?];
        Some((index, delta as u64))
    }

    /// Whether jump table `class` is for `mode`.
    pub fn serves(&self, class: usize, mode: &Mode) -> bool {
        self.jump_mode[class].as_ref() == Some(mode)
    }

    /// Says which mode jump table `class` is about to serve; entries of another one are dropped.
    pub fn set_jump_mode(&mut self, class: usize, mode: &Mode, area: &mut Area, thunks: &Thunks) {
        if self.serves(class, mode) {
            return;
        }
        self.jump_mode[class] = Some(*mode);
        self.clear_jumps(class, area, thunks);
    }

    fn clear_jumps(&mut self, class: usize, area: &mut Area, thunks: &Thunks) {
        for slot in self.jump_log[class].drain(..) {
            area.jump[class][slot as usize] = thunks.recover;
            area.jump_live[class][slot as usize] = thunks.lookup;
        }
    }

    /// Has indirect jumps to `rip` find a block.
    pub fn set_jump(
        &mut self,
        class: usize,
        rip: u64,
        block: u32,
        area: &mut Area,
        thunks: &Thunks,
    ) {
        let Block {
            entries, carefree, ..
        } = self.blocks[block as usize];
        let slot = rip as usize % JUMP_ENTRIES;
        let table = if carefree {
            &mut area.jump
        } else {
            &mut area.jump_live
        };
        if table[class][slot] == entries.indirect {
            return;
        }
        table[class][slot] = entries.indirect;
        if self.jump_log[class].len() >= JUMP_ENTRIES {
            self.clear_jumps(class, area, thunks);
            return;
        }
        self.jump_log[class].push(slot as u16);
    }

    /// Page numbers of all pages with code, which are then forgotten.
    pub fn take_code_pages(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.code_pages).into_keys().collect()
    }

    pub fn clear(&mut self) {
        let epoch = self.epoch + 1;
        *self = BlockTable {
            epoch,
            ..BlockTable::default()
        };
    }

    /// Registers the source range of a block inside one page.
    pub fn note_source(&mut self, index: u32, physical: u64, bytes: u64) {
        let block = &mut self.blocks[index as usize];
        if let Some(free) = block.sources.iter_mut().find(|s| s.1 == 0) {
            *free = (physical, bytes);
        }
        let page = self
            .code_pages
            .entry(physical / PAGE)
            .or_insert_with(CodePage::new);
        page.mark((physical % PAGE) as usize, bytes as usize);
        page.stores_without_blocks = 0;
        if page.blocks.last() != Some(&index) {
            page.blocks.push(index);
        }
    }

    /// A block of page `page` that was made from the range (physical address, bytes).
    pub fn made_from(&self, page: u64, address: u64, length: u64) -> Option<u32> {
        let blocks = &self.code_pages.get(&page)?.blocks;
        blocks
            .iter()
            .copied()
            .find(|&b| self.blocks[b as usize].made_from(address, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_page_knows_its_bytes() {
        let mut page = CodePage::new();
        page.mark(60, 8);
        assert!(!page.may_hold_code(56, 4));
        assert!(page.may_hold_code(59, 2));
        assert!(page.may_hold_code(67, 1));
        assert!(!page.may_hold_code(68, 8));
        page.unmark(0, 4096);
        assert!(!page.may_hold_code(0, 4096));
    }

    #[test]
    fn marks_end_with_the_page() {
        let mut page = CodePage::new();
        page.mark(4090, 100);
        assert!(page.may_hold_code(4095, 1));
    }
}
