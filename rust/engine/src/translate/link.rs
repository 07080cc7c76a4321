//! Finding blocks and linking them to each other.
//!
//! Blocks are known by (physical address, RIP, mode).  A direct exit first jumps to a stub that asks
//! the dispatcher; `connect` retargets it to the block.  An indirect jump goes through a table by the
//! low 16 bits of RIP, and the block it lands on checks whether it is meant.

use super::block::{Built, Entry, PageCheck};
use super::cache::CodeCache;
use super::env::Area;
use super::mode::Mode;
use crate::memory::PAGE;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub const NONE: u32 = u32::MAX;

/// Blocks and page identities at most; more means that the cache is flushed.
const MAX_BLOCKS: usize = 1 << 20;
const MAX_PAGE_IDS: usize = 1 << 20;
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
    pub guarded: u64,
    pub polled: u64,
    pub main: u64,
}

pub struct Block {
    start: u64,
    bytes: u32,
    pub entries: HostEntries,
    pub physical: u64,
    pub rip: u64,
    pub mode: u16,
    pub second: Option<PageCheck>,
    map: Box<[(u32, u16)]>,
    /// Links of other blocks that jump here.
    incoming: Vec<u32>,
    /// Physical ranges (address, bytes) that it was made from: its own, one that its flags'
    /// liveness relies on, the end of a straddling instruction.
    pub sources: [(u64, u64); 3],
    pub alive: bool,
}

impl Block {
    pub fn new(
        start: u64,
        bytes: usize,
        physical: u64,
        rip: u64,
        mode: u16,
        built: &Built,
        second: Option<PageCheck>,
    ) -> Block {
        let e = built.entries;
        Block {
            start,
            bytes: bytes as u32,
            entries: HostEntries {
                indirect: start + e.indirect as u64,
                guarded: start + e.guarded as u64,
                polled: start + e.polled as u64,
                main: start + e.main as u64,
            },
            physical,
            rip,
            mode,
            second,
            map: built.map.clone().into_boxed_slice(),
            incoming: Vec::new(),
            sources: [(0, 0); 3],
            alive: true,
        }
    }
}

/// A direct exit.
pub struct Link {
    /// Host address of the jump's rel32.
    field: u64,
    /// Host address of its stub.
    stub: u64,
    /// RIP it goes to.
    pub target: u64,
    entry: Entry,
    /// The block it jumps to, or NONE.
    to: u32,
}

/// Blocks of one page of physical memory.
#[derive(Default)]
pub struct CodePage {
    /// Which 64-byte granules hold code.
    pub granules: u64,
    pub blocks: Vec<u32>,
}

#[derive(Default)]
pub struct BlockTable {
    /// In order of their host addresses.
    pub blocks: Vec<Block>,
    pub links: Vec<Link>,
    /// Counts flushes: numbers of blocks and links are void after one.
    pub epoch: u64,
    by_key: Map<(u64, u64, u16), u32>,
    /// Keys of blocks whose stack groups straddled pages.
    ungrouped: Map<(u64, u64, u16), ()>,
    pub code_pages: Map<u64, CodePage>,
    page_ids: Map<(u64, u64), u32>,
    modes: Map<(u32, u64), u16>,
    last_mode: Option<(Mode, u16)>,
    /// Per class: the mode its jump table is for, and the slots in use.
    jump_mode: [Option<u16>; 2],
    jump_log: [Vec<u16>; 2],
}

impl BlockTable {
    pub fn is_full(&self) -> bool {
        self.blocks.len() >= MAX_BLOCKS
            || self.page_ids.len() >= MAX_PAGE_IDS
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

    pub fn find(&self, physical: u64, rip: u64, mode: u16) -> Option<u32> {
        self.by_key.get(&(physical, rip, mode)).copied()
    }

    pub fn add(&mut self, block: Block, built: &Built, base: u64) -> u32 {
        let index = self.blocks.len() as u32;
        self.by_key
            .insert((block.physical, block.rip, block.mode), index);
        self.blocks.push(block);
        for e in &built.exits {
            self.links.push(Link {
                field: base + e.field as u64,
                stub: base + e.stub as u64,
                target: e.target,
                entry: e.entry,
                to: NONE,
            });
        }
        index
    }

    /// Makes `link` jump to `block`.
    pub fn connect(&mut self, link: u32, block: u32, cache: &mut CodeCache) {
        let l = &mut self.links[link as usize];
        let b = &mut self.blocks[block as usize];
        let source_alive = l.to == NONE;
        if !source_alive {
            return;
        }
        let target = match l.entry {
            Entry::Main => b.entries.main,
            Entry::Polled => b.entries.polled,
            Entry::Guarded => b.entries.guarded,
        };
        l.to = block;
        b.incoming.push(link);
        cache.patch_rel32(l.field, target);
    }

    /// Takes a block out of everything that could lead to it.
    pub fn remove(&mut self, index: u32, cache: &mut CodeCache, area: &mut Area, lookup: u64) {
        let block = &mut self.blocks[index as usize];
        if !std::mem::replace(&mut block.alive, false) {
            return;
        }
        for link in std::mem::take(&mut block.incoming) {
            let l = &mut self.links[link as usize];
            if l.to == index {
                l.to = NONE;
                cache.patch_rel32(l.field, l.stub);
            }
        }
        let key = (block.physical, block.rip, block.mode);
        if self.by_key.get(&key) == Some(&index) {
            self.by_key.remove(&key);
        }
        let slot = block.rip as usize & 0xFFFF;
        for class in &mut area.jump {
            if class[slot] == block.entries.indirect {
                class[slot] = lookup;
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
        (host - block.start <= block.bytes as u64).then_some(index as u32)
    }

    /// Whether a block with this key must not share probes of the stack.
    pub fn is_ungrouped(&self, physical: u64, rip: u64, mode: u16) -> bool {
        !self.ungrouped.is_empty() && self.ungrouped.contains_key(&(physical, rip, mode))
    }

    pub fn set_ungrouped(&mut self, index: u32) {
        let b = &self.blocks[index as usize];
        self.ungrouped.insert((b.physical, b.rip, b.mode), ());
    }

    /// The guest RIP that a host address inside a block belongs to.
    pub fn guest_rip(&self, host: u64) -> Option<u64> {
        let block = &self.blocks[self.block_at(host)? as usize];
        let offset = host - block.start;
        let i = block.map.partition_point(|&(at, _)| at as u64 <= offset);
        let (_, delta) = block.map[i.checked_sub(1)?];
        Some(block.rip.wrapping_add(delta as u64))
    }

    /// Says which mode jump table `class` is about to serve; entries of another one are dropped.
    pub fn set_jump_mode(&mut self, class: usize, mode: u16, area: &mut Area, lookup: u64) {
        if self.jump_mode[class] == Some(mode) {
            return;
        }
        self.jump_mode[class] = Some(mode);
        for slot in self.jump_log[class].drain(..) {
            area.jump[class][slot as usize] = lookup;
        }
    }

    pub fn set_jump(&mut self, class: usize, rip: u64, indirect: u64, area: &mut Area) {
        let slot = &mut area.jump[class][rip as usize & 0xFFFF];
        if *slot != indirect {
            *slot = indirect;
            self.jump_log[class].push(rip as u16);
        }
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
        let page = self.code_pages.entry(physical / PAGE).or_default();
        page.granules |= granules(physical, bytes);
        if page.blocks.last() != Some(&index) {
            page.blocks.push(index);
        }
    }
}

/// The 64-byte granules of its page that a range covers.
pub fn granules(physical: u64, bytes: u64) -> u64 {
    let first = physical % PAGE / 64;
    let last = ((physical % PAGE) + bytes.max(1) - 1).min(PAGE - 1) / 64;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_cover_the_range() {
        assert_eq!(granules(0x1000, 1), 1);
        assert_eq!(granules(0x103F, 2), 3);
        assert_eq!(granules(0x1FFF, 1), 1 << 63);
        assert_eq!(granules(0x1000, 4096), u64::MAX);
    }
}
