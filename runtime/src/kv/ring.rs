//! What a ring cache still holds of a sequence.
//!
//! A ring of `pages` pages keeps logical page `l` in its page `l % pages`: a token takes the place of the one `pages`
//! pages before it. The row at position `t` reads the window `t + 1 - window ..= t`, whose last token it writes itself. So a
//! sequence can go on from length `t` where the ring holds positions `t + 1 - window .. t`.

use hyc_plan::{Cache, CachePolicy};

/// The constants of a ring cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Tokens that a row looks back, itself included.
    pub window: u64,
    /// Pages of a sequence.
    pub pages: u64,
    /// Tokens of a page.
    pub page: u64,
}

/// What was written to a sequence's rings, tokens that were taken back included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// The end of the furthest position that was ever written.
    pub written: u64,
    /// The length of the stored prefix that the sequence began with: of it there are the last windows alone.
    pub restored: u64,
}

impl Ring {
    /// That of a cache; `None`: it grows.
    pub fn of(cache: &Cache) -> Option<Ring> {
        match cache.policy {
            CachePolicy::Ring { window, pages } => Some(Ring { window, pages, page: cache.page }),
            CachePolicy::Growing => None,
        }
    }

    /// The first position that the row at position `len` reads.
    pub fn first(&self, len: u64) -> u64 {
        (len + 1).saturating_sub(self.window)
    }

    /// The logical pages of the window before position `len`.
    pub fn window_pages(&self, len: u64) -> std::ops::Range<u64> {
        self.first(len) / self.page..len.div_ceil(self.page)
    }

    /// Most pages that [`Ring::window_pages`] gives at a multiple of `border` tokens.
    pub fn most_window_pages(&self, border: u64) -> u64 {
        self.window.saturating_sub(1).div_ceil(self.page) + u64::from(border % self.page != 0)
    }

    /// The first position that the ring holds.
    fn begin(&self, held: Held) -> u64 {
        let overwritten = held.written.saturating_sub(self.pages.saturating_mul(self.page));
        let left_out = if held.restored > 0 { self.window_pages(held.restored).start } else { 0 };
        overwritten.max(left_out * self.page)
    }

    /// The least length, beside 0, from which a sequence can go on.
    pub fn least_len(&self, held: Held) -> u64 {
        match self.begin(held) {
            // A window of one token is the row's own.
            begin if begin == 0 || self.window <= 1 => 1,
            begin => begin + self.window - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By writing every position of a ring, and looking.
    #[test]
    fn the_least_length_is_what_a_ring_shows() {
        for (window, pages, page) in [(5, 5, 4), (1, 2, 4), (4, 3, 4), (9, 3, 8), (64, 3, 64)] {
            let ring = Ring { window, pages, page };
            let mut slots = vec![None; (pages * page) as usize];
            for written in 1..=6 * pages * page {
                let position = written - 1;
                let place = (position / page % pages * page + position % page) as usize;
                slots[place] = Some(position);
                let there = |p: u64| slots[(p / page % pages * page + p % page) as usize] == Some(p);
                let goes_on = |len: u64| (ring.first(len)..len).all(there);
                let least = (1..=written).find(|len| (*len..=written).all(goes_on));
                let held = Held { written, restored: 0 };
                assert_eq!(least, Some(ring.least_len(held)), "{ring:?}, {written} written");
            }
        }
    }

    #[test]
    fn a_stored_window_holds_no_more_than_itself() {
        let ring = Ring { window: 5, pages: 5, page: 4 };
        assert_eq!(ring.window_pages(16), 3..4);
        assert_eq!(ring.most_window_pages(4), 1);
        assert_eq!(Ring { window: 6, ..ring }.window_pages(16), 2..4);
        assert_eq!(Ring { window: 6, ..ring }.most_window_pages(4), 2);
        assert_eq!(Ring { page: 8, ..ring }.window_pages(12), 1..2);
        assert_eq!(Ring { page: 8, ..ring }.most_window_pages(12), 2);
        assert_eq!(ring.least_len(Held { written: 16, restored: 16 }), 16);
        assert_eq!(ring.least_len(Held { written: 16, restored: 0 }), 1);
        assert_eq!(ring.least_len(Held { written: 60, restored: 16 }), 44);
    }
}
