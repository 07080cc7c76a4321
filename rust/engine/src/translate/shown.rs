//! The pages that a space's windows show, by their linear page number and by what they show.
//!
//! Code finds its way into pages that windows let be written: whoever marks a page of RAM must find it in
//! all its places, without a look at the hundred thousand others.  The places of one page are a list.

use super::link::Map;

/// A page in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Host address of the same page in RAM's own mapping.
    pub host: u64,
    pub writable: bool,
    /// Part of a page larger than 4 KiB.
    pub large: bool,
}

const NONE: u64 = u64::MAX;

struct Node {
    page: Mapped,
    /// Neighbours in the list of those with the same host address, or NONE.
    next: u64,
    previous: u64,
}

#[derive(Default)]
pub struct Shown {
    by_vpn: Map<u64, Node>,
    /// Host address to the first of its list.
    by_host: Map<u64, u64>,
}

impl Shown {
    pub fn len(&self) -> usize {
        self.by_vpn.len()
    }

    pub fn contains(&self, vpn: u64) -> bool {
        self.by_vpn.contains_key(&vpn)
    }

    pub fn insert(&mut self, vpn: u64, page: Mapped) {
        self.remove(vpn);
        let next = self.by_host.insert(page.host, vpn).unwrap_or(NONE);
        if let Some(next) = self.by_vpn.get_mut(&next) {
            next.previous = vpn;
        }
        let previous = NONE;
        self.by_vpn.insert(
            vpn,
            Node {
                page,
                next,
                previous,
            },
        );
    }

    /// Whether there was one.  Allocates and frees nothing.
    pub fn remove(&mut self, vpn: u64) -> bool {
        let Some(gone) = self.by_vpn.remove(&vpn) else {
            return false;
        };
        if let Some(next) = self.by_vpn.get_mut(&gone.next) {
            next.previous = gone.previous;
        }
        if let Some(previous) = self.by_vpn.get_mut(&gone.previous) {
            previous.next = gone.next;
        } else if gone.next == NONE {
            self.by_host.remove(&gone.page.host);
        } else if let Some(first) = self.by_host.get_mut(&gone.page.host) {
            *first = gone.next;
        }
        true
    }

    /// Forgets those that `keep` doesn't want.
    pub fn retain(&mut self, mut keep: impl FnMut(u64, &Mapped) -> bool) {
        let unwanted = |(&vpn, node): (&u64, &Node)| (!keep(vpn, &node.page)).then_some(vpn);
        let gone: Vec<u64> = self.by_vpn.iter().filter_map(unwanted).collect();
        for vpn in gone {
            self.remove(vpn);
        }
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Mapped)> {
        let pages = self.by_vpn.iter_mut();
        pages.map(|(&vpn, node)| (vpn, &mut node.page))
    }

    /// Calls `with` for each place of the page at a host address.
    pub fn for_each_of(&mut self, host: u64, mut with: impl FnMut(u64, &mut Mapped)) {
        let mut at = self.by_host.get(&host).copied();
        while let Some(vpn) = at {
            let Some(node) = self.by_vpn.get_mut(&vpn) else {
                return;
            };
            with(vpn, &mut node.page);
            at = (node.next != NONE).then_some(node.next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(host: u64) -> Mapped {
        Mapped {
            host,
            writable: true,
            large: false,
        }
    }

    fn places(shown: &mut Shown, host: u64) -> Vec<u64> {
        let mut found = vec![];
        shown.for_each_of(host, |vpn, _| found.push(vpn));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_page_is_found_in_all_its_places() {
        let mut shown = Shown::default();
        for vpn in 1..=4 {
            shown.insert(vpn, page(0x1000));
        }
        shown.insert(9, page(0x2000));
        assert_eq!(places(&mut shown, 0x1000), [1, 2, 3, 4]);
        for (gone, left) in [
            (2, vec![1, 3, 4]),
            (4, vec![1, 3]),
            (1, vec![3]),
            (3, vec![]),
        ] {
            assert!(shown.remove(gone));
            assert_eq!(places(&mut shown, 0x1000), left);
        }
        assert_eq!(places(&mut shown, 0x2000), [9]);
        assert!(!shown.remove(1));
    }

    #[test]
    fn a_place_shows_what_was_put_there_last() {
        let mut shown = Shown::default();
        shown.insert(1, page(0x1000));
        shown.insert(1, page(0x2000));
        assert_eq!(places(&mut shown, 0x1000), []);
        assert_eq!(places(&mut shown, 0x2000), [1]);
        assert_eq!(shown.len(), 1);
    }

    #[test]
    fn what_is_not_retained_is_found_no_more() {
        let mut shown = Shown::default();
        for vpn in 0..100 {
            shown.insert(vpn, page(vpn % 3));
        }
        shown.retain(|vpn, _| vpn % 2 == 0);
        assert_eq!(shown.len(), 50);
        assert!(places(&mut shown, 1).iter().all(|vpn| vpn % 2 == 0));
    }
}
