//! Which of many values live at the same time as another: an index over the places of an execution order.
//!
//! Two lives meet where one begins within the other, so that two lists are enough: who begins at each place, and,
//! in a segment tree over the places, who is alive at one. A question costs the length of the life asked for,
//! the answers, and a logarithm.

/// Lives by number.
pub struct Lifetimes {
    /// Who begins at each place.
    begins: Vec<Vec<usize>>,
    /// Nodes of a segment tree of `leaves` leaves, the root at 1: who is alive at all places below a node, and
    /// not at all below its parent.
    alive: Vec<Vec<usize>>,
    leaves: usize,
}

impl Lifetimes {
    /// An empty index of lives within `places` places.
    pub fn new(places: usize) -> Lifetimes {
        let leaves = places.next_power_of_two();
        Lifetimes { begins: vec![Vec::new(); places], alive: vec![Vec::new(); 2 * leaves], leaves }
    }

    /// Adds a life from the first to the last place, both included.
    pub fn insert(&mut self, (first, last): (usize, usize), who: usize) {
        self.begins[first].push(who);
        let (mut low, mut high) = (first + self.leaves, last + 1 + self.leaves);
        while low < high {
            if low % 2 == 1 {
                self.alive[low].push(who);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.alive[high].push(who);
            }
            low /= 2;
            high /= 2;
        }
    }

    /// Calls `found` once for each life that meets this one.
    pub fn visit(&self, (first, last): (usize, usize), mut found: impl FnMut(usize)) {
        let mut node = first + self.leaves;
        while node > 0 {
            self.alive[node].iter().for_each(|who| found(*who));
            node /= 2;
        }
        self.begins[first + 1..=last].iter().flatten().for_each(|who| found(*who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_who_a_comparison_of_all_finds() {
        let mut state = 3u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for places in [1, 2, 13, 64] {
            let (mut index, mut lives) = (Lifetimes::new(places), Vec::new());
            for who in 0..200 {
                let first = next(places);
                let life = (first, first + next(places - first));
                let mut found = Vec::new();
                index.visit(life, |who| found.push(who));
                found.sort_unstable();
                let meets = |(_, other): &(usize, &(usize, usize))| other.0 <= life.1 && life.0 <= other.1;
                let all: Vec<usize> = lives.iter().enumerate().filter(meets).map(|(i, _)| i).collect();
                assert_eq!(found, all);
                index.insert(life, who);
                lives.push(life);
            }
        }
    }
}
