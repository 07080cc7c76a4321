//! Code that has run little is interpreted: most of what a guest comes to runs once or twice.
//!
//! For a machine that was just copied or restored: it has no translated code, and is to answer at once.
//! What has run for long is translated anyway, so nothing is gained later, and nothing lost.

use super::link::Key;
use std::hash::{Hash, Hasher};

/// How often code is come to before it is translated.
const PATIENCE: u8 = 2;

const SLOTS: usize = 1 << 16;

/// How often code was come to, by a hash of where it is: what shares a slot is translated earlier.
#[derive(Default)]
pub struct Newcomers {
    visits: Option<Box<[u8; SLOTS]>>,
    /// The code at RIP has just been found new.
    pub found: bool,
}

impl Newcomers {
    /// From now on code is interpreted at first; all of it is new.
    pub fn welcome(&mut self) {
        self.visits = vec![0; SLOTS].into_boxed_slice().try_into().ok();
    }

    /// The guest has come to code that isn't translated: whether that should be interpreted.
    pub fn is_new(&mut self, key: &Key) -> bool {
        let Some(visits) = &mut self.visits else {
            return false;
        };
        let mut hasher = super::link::AddressHasher::default();
        key.hash(&mut hasher);
        let visits = &mut visits[(hasher.finish() >> 32) as usize % SLOTS];
        self.found = *visits < PATIENCE;
        *visits += self.found as u8;
        self.found
    }
}
