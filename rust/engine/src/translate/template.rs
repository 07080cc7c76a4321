//! Blocks that are changed again and again in their constants only: they need no new translation.
//!
//! A block that was built where it had died before remembers its source, if that is short.  When it
//! has died once more and only 32-bit immediates of its instructions are others now, these are
//! patched in its host code.  (Just-in-time compilers' stubs, and inner loops of games.)

use super::block::{Built, Insn};
use super::cache::CodeCache;
use super::link::{BlockTable, Key};

/// Bytes of source remembered, at most.
const LONGEST: usize = 16;
/// Immediates of a block that may be patched, at most.
const IMMEDIATES: usize = 2;
const IMMEDIATE_BYTES: usize = 4;

/// What a block was made from, and where its host code has the immediates.
pub struct Template {
    bytes: [u8; LONGEST],
    length: usize,
    /// Bit n: byte n belongs to an immediate.
    free: u16,
    /// (offset in the source, offset in the host code)
    immediates: [Option<(usize, u32)>; IMMEDIATES],
}

impl Template {
    /// None if the block is too long.
    pub fn new(insns: &[Insn], built: &Built) -> Option<Template> {
        let mut t = Template {
            bytes: [0; LONGEST],
            length: 0,
            free: 0,
            immediates: [None; IMMEDIATES],
        };
        for insn in insns {
            let raw = insn.raw();
            let place = t.bytes.get_mut(t.length..t.length + raw.len())?;
            place.copy_from_slice(raw);
            t.length += raw.len();
        }
        for (slot, &(source, host)) in t.immediates.iter_mut().zip(&built.immediates) {
            let source = source as usize;
            if source + IMMEDIATE_BYTES <= t.length {
                *slot = Some((source, host));
                t.free |= 0xF << source;
            }
        }
        Some(t)
    }

    fn differs_in_immediates_only(&self, bytes: &[u8]) -> bool {
        let Some(bytes) = bytes.get(..self.length) else {
            return false;
        };
        let mut pairs = self.bytes.iter().zip(bytes).enumerate();
        pairs.all(|(i, (old, new))| old == new || self.free & 1 << i != 0)
    }
}

impl BlockTable {
    /// The dead block for `key`, alive again with the immediates that the source `bytes` has now; how
    /// long its source is.  Which source it has must be noted anew.
    pub fn revive(
        &mut self,
        key: &Key,
        bytes: &[u8],
        cache: &mut CodeCache,
    ) -> Option<(u32, usize)> {
        let index = self.dead(key)?;
        let template = self.templates.get(&index)?;
        if !template.differs_in_immediates_only(bytes) {
            return None;
        }
        for &(source, host) in template.immediates.iter().flatten() {
            if let Some(value) = bytes.get(source..source + IMMEDIATE_BYTES) {
                cache.patch_bytes(self.blocks[index as usize].start() + host as u64, value);
            }
        }
        let length = template.length;
        self.reset(index, cache);
        Some((index, length))
    }
}
