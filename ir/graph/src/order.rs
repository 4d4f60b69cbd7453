//! The order in which ops run: a linked list whose members carry ascending labels.
//!
//! Inserting, removing and comparing two members take constant time, however long the list is. A label lies
//! between its neighbours'; where two neighbours leave no room, all labels are spread out anew.

/// Where a member stands: of two members the one that runs earlier has the smaller place. Places change when
/// the list does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

/// Between the labels of members that were appended one after the other.
const GAP: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    label: u64,
    before: Option<u32>,
    after: Option<u32>,
}

/// An order of small numbers, each at most once.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// By number; those of numbers that are not in the list mean nothing.
    links: Vec<Link>,
    first: Option<u32>,
    last: Option<u32>,
    len: usize,
}

impl Order {
    /// Members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The place of a member.
    pub fn place(&self, id: u32) -> Place {
        Place(self.links[id as usize].label)
    }

    /// The member behind `id`.
    pub fn after(&self, id: u32) -> Option<u32> {
        self.links[id as usize].after
    }

    /// Inserts `id`, which is no member, before the member `anchor`, or at the end.
    pub fn insert(&mut self, anchor: Option<u32>, id: u32) {
        if self.links.len() <= id as usize {
            self.links.resize(id as usize + 1, Link::default());
        }
        let before = match anchor {
            Some(anchor) => self.links[anchor as usize].before,
            None => self.last,
        };
        let label = self.label_between(before, anchor).unwrap_or_else(|| {
            self.spread();
            // After `spread` there is room everywhere.
            self.label_between(before, anchor).unwrap_or(u64::MAX)
        });
        self.links[id as usize] = Link { label, before, after: anchor };
        match before {
            Some(before) => self.links[before as usize].after = Some(id),
            None => self.first = Some(id),
        }
        match anchor {
            Some(anchor) => self.links[anchor as usize].before = Some(id),
            None => self.last = Some(id),
        }
        self.len += 1;
    }

    fn label_between(&self, before: Option<u32>, after: Option<u32>) -> Option<u64> {
        let low = before.map_or(0, |id| self.links[id as usize].label);
        match after {
            None => low.checked_add(GAP),
            Some(id) => {
                let high = self.links[id as usize].label;
                (high - low >= 2).then(|| low + (high - low) / 2)
            }
        }
    }

    fn spread(&mut self) {
        let members: Vec<u32> = self.iter().collect();
        for (id, n) in members.into_iter().zip(1..) {
            self.links[id as usize].label = n * GAP;
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, id: u32) {
        let Link { before, after, .. } = self.links[id as usize];
        match before {
            Some(before) => self.links[before as usize].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.links[after as usize].before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    /// All members, the first one first.
    pub fn iter(&self) -> Members<'_> {
        Members { order: self, front: self.first, back: self.last, left: self.len }
    }
}

/// The members of an order.
pub struct Members<'o> {
    order: &'o Order,
    front: Option<u32>,
    back: Option<u32>,
    left: usize,
}

impl Iterator for Members<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let id = self.front.filter(|_| self.left > 0)?;
        self.left -= 1;
        self.front = self.order.links[id as usize].after;
        Some(id)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Members<'_> {
    fn next_back(&mut self) -> Option<u32> {
        let id = self.back.filter(|_| self.left > 0)?;
        self.left -= 1;
        self.back = self.order.links[id as usize].before;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain list beside it, through insertions that use up the room between two labels, and removals.
    #[test]
    fn it_is_a_list() {
        let (mut order, mut list) = (Order::default(), Vec::new());
        let mut state = 7u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n.max(1)
        };
        for id in 0..2000u32 {
            // Always before the same member, at random, and at the end.
            let place = match id % 3 {
                0 => list.len().min(1),
                1 => next(list.len() + 1),
                _ => list.len(),
            };
            order.insert(list.get(place).copied(), id);
            list.insert(place, id);
            if id % 5 == 4 {
                let gone = list.remove(next(list.len()));
                order.remove(gone);
            }
        }
        assert_eq!(order.iter().collect::<Vec<_>>(), list);
        assert_eq!(order.iter().rev().collect::<Vec<_>>(), list.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(order.len(), list.len());
        assert!(list.windows(2).all(|pair| order.place(pair[0]) < order.place(pair[1])));
        assert!(list.windows(2).all(|pair| order.after(pair[0]) == Some(pair[1])));
    }
}
