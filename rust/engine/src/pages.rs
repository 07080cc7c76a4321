//! Which pages of an image of RAM a checkpoint stores: none that is zero or as in the one before, and of
//! runs of equal ones the first.
//!
//! Theory.  Each extent is a mapping of the host's when the checkpoint is restored, so equal pages are worth
//! another one only if they are many.  Pages are told apart by a hash, and those with equal hashes by their
//! bytes, so the hash need not be strong; of pages that have it by chance only the first is found again.
//!
//! Offsets and sizes in bytes, whole pages.

use crate::memory::PAGE;
use std::collections::HashMap;
use std::ops::Range;

const WORDS: usize = PAGE as usize / 8;
const LANES: usize = 8;
/// Odd, and its bits are mixed: the golden ratio's.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// So many pages that are stored already are worth extents of their own.
const RUN_PAGES: u64 = 16;
/// One piece is not longer.
const PIECE_BYTES: u64 = 4 << 20;

type Page = [u64; WORDS];

/// What is stored of RAM.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// First page, pages, first stored page: in order, and what none covers is zero.
    pub extents: Vec<(u64, u64, u64)>,
    /// Where the stored pages are, one after the other.
    pub pieces: Vec<Range<u64>>,
}

/// Of the ranges of `memory`, which are in order and don't overlap.
pub fn pack(memory: &[u8], ranges: &[Range<u64>]) -> Packed {
    let mut packer = Packer {
        memory,
        stored: Vec::new(),
        known: HashMap::new(),
        packed: Packed::default(),
    };
    for range in ranges {
        packer.add(range.clone());
    }
    packer.packed
}

struct Packer<'a> {
    memory: &'a [u8],
    /// Where in memory the stored pages are.
    stored: Vec<u64>,
    /// By hash: which stored page.
    known: HashMap<u64, u64>,
    packed: Packed,
}

impl Packer<'_> {
    fn add(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end
            && let Some(page) = page(self.memory, at)
        {
            let next = self.stored.len() as u64;
            let mut count = 1;
            if !is_zero(page) {
                let first = *self.known.entry(hash(page)).or_insert(next);
                let run = self.run(at..range.end, first);
                if run >= RUN_PAGES || run > 0 && self.is_alone(at, at + run * PAGE, range.end) {
                    self.extend(at, run, first);
                    count = run;
                } else {
                    self.extend(at, 1, next);
                    self.store(at);
                }
            }
            at += count * PAGE;
        }
    }

    /// How many pages of a range are as the stored ones from `first` on.
    fn run(&self, range: Range<u64>, first: u64) -> u64 {
        let stored = self.stored.get(first as usize..).unwrap_or_default();
        let pairs = range.step_by(PAGE as usize).zip(stored);
        let same = |&(at, &known): &(u64, &u64)| page(self.memory, at) == page(self.memory, known);
        pairs.take_while(same).count() as u64
    }

    /// What lies there is an extent of its own anyhow: there is nothing before and behind it.
    fn is_alone(&self, start: u64, end: u64, range_end: u64) -> bool {
        let last = self.packed.extents.last();
        let after = page(self.memory, end).filter(|_| end < range_end);
        last.is_none_or(|(first, count, _)| (first + count) * PAGE < start)
            && after.is_none_or(is_zero)
    }

    fn extend(&mut self, at: u64, pages: u64, place: u64) {
        match self.packed.extents.last_mut() {
            Some((first, count, from))
                if *first + *count == at / PAGE && *from + *count == place =>
            {
                *count += pages;
            }
            _ => self.packed.extents.push((at / PAGE, pages, place)),
        }
    }

    fn store(&mut self, at: u64) {
        self.stored.push(at);
        match self.packed.pieces.last_mut() {
            Some(piece) if piece.end == at && at - piece.start < PIECE_BYTES => {
                piece.end += PAGE;
            }
            _ => self.packed.pieces.push(at..at + PAGE),
        }
    }
}

/// What of the ranges isn't the same in both memories.
pub fn differing(new: &[u8], old: &[u8], ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let pages = |range: &Range<u64>| range.clone().step_by(PAGE as usize);
    for at in ranges.iter().flat_map(pages) {
        if page(new, at) == page(old, at) {
            continue;
        }
        match found.last_mut() {
            Some(range) if range.end == at => range.end += PAGE,
            _ => found.push(at..at + PAGE),
        }
    }
    found
}

fn page(memory: &[u8], at: u64) -> Option<&Page> {
    let bytes = memory.get(at as usize..)?.get(..PAGE as usize)?;
    // SAFETY: any bytes are good words; what is not aligned to them gives a head, and then None.
    let (head, words, _) = unsafe { bytes.align_to::<u64>() };
    if head.is_empty() {
        words.try_into().ok()
    } else {
        None
    }
}

fn is_zero(page: &Page) -> bool {
    page.iter().all(|word| *word == 0)
}

fn hash(page: &Page) -> u64 {
    let mut lanes = [FACTOR; LANES];
    for words in page.as_chunks::<LANES>().0 {
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = (*lane ^ word).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    lanes.iter().fold(0, |all, lane| {
        (all ^ lane).wrapping_mul(FACTOR).rotate_left(31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that are full of these words.
    fn memory(words: &[u64]) -> Vec<u64> {
        words.iter().flat_map(|word| [*word; WORDS]).collect()
    }

    fn bytes(memory: &[u64]) -> &[u8] {
        // SAFETY: words are bytes.
        unsafe { memory.align_to::<u8>() }.1
    }

    fn packed(words: &[u64], ranges: &[Range<u64>]) -> Packed {
        pack(bytes(&memory(words)), &pieces(ranges))
    }

    fn pieces(pieces: &[Range<u64>]) -> Vec<Range<u64>> {
        pieces
            .iter()
            .map(|r| r.start * PAGE..r.end * PAGE)
            .collect()
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn zero_pages_are_left_out_and_equal_ones_between_them_stored_once() {
        let found = packed(&[0, 7, 8, 0, 7, 8, 0, 7, 8, 9], &[0..10]);
        assert_eq!(found.extents, [(1, 2, 0), (4, 2, 0), (7, 3, 2)]);
        assert_eq!(found.pieces, pieces(&[1..3, 7..10]));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn few_equal_pages_in_a_row_of_others_are_no_extents() {
        assert_eq!(packed(&[1, 2, 1, 3, 2, 2], &[0..6]).extents, [(0, 6, 0)]);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn many_equal_pages_are_stored_a_few_times() {
        let found = packed(&[5; 10 * RUN_PAGES as usize], &[0..10 * RUN_PAGES]);
        assert_eq!(found.pieces, pieces(&[0..RUN_PAGES]));
        assert_eq!(found.extents.len(), 10);
        assert!(found.extents.iter().all(|extent| extent.1 == RUN_PAGES));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn only_the_ranges_are_looked_at() {
        let found = packed(&[1, 2, 3, 4], &[1..2, 3..4]);
        assert_eq!(found.extents, [(1, 1, 0), (3, 1, 1)]);
        assert_eq!(found.pieces, pieces(&[1..2, 3..4]));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn pages_that_differ_are_found_in_the_ranges() {
        let (new, old) = (memory(&[1, 2, 3, 4, 5, 6]), memory(&[1, 0, 0, 4, 0, 0]));
        let found = differing(bytes(&new), bytes(&old), &pieces(&[0..5]));
        assert_eq!(found, pieces(&[1..3, 4..5]));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn what_is_past_the_end_is_not_there() {
        assert_eq!(packed(&[1], &[0..3]).extents, [(0, 1, 0)]);
    }
}
