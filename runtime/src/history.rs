//! What penalties look at: the last tokens of a sequence, counted as they come and go.

use std::collections::{BTreeMap, VecDeque};

use hyc_plan::sample::Seen;
use hyc_plan::sampling::MAX_PENALTY_WINDOW;

/// The last tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// At most [`MAX_PENALTY_WINDOW`], the newest last, and whether each was generated.
    tokens: VecDeque<(u32, bool)>,
    /// How many of them are counted; 0 where nobody looks.
    window: usize,
    /// How often each token is in the window, and how often of these it was generated.
    counts: BTreeMap<u32, [u32; 2]>,
}

impl History {
    /// Counts the last `window` tokens from now on.
    pub fn set_window(&mut self, window: u32) {
        self.window = window as usize;
        self.counts.clear();
        let from = self.tokens.len().saturating_sub(self.window);
        for index in from..self.tokens.len() {
            self.count(index);
        }
    }

    /// Knows no token any more.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.counts.clear();
    }

    /// Takes note of tokens.
    pub fn push(&mut self, tokens: &[u32], generated: bool) {
        let most = MAX_PENALTY_WINDOW as usize;
        for token in &tokens[tokens.len().saturating_sub(most)..] {
            self.tokens.push_back((*token, generated));
            let newest = self.tokens.len() - 1;
            if self.window > 0 {
                self.count(newest);
                newest.checked_sub(self.window).into_iter().for_each(|index| self.discount(index));
            }
            if self.tokens.len() > most {
                self.tokens.pop_front();
            }
        }
    }

    fn count(&mut self, index: usize) {
        let (token, generated) = self.tokens[index];
        let [all, own] = self.counts.entry(token).or_default();
        *all += 1;
        *own += u32::from(generated);
    }

    fn discount(&mut self, index: usize) {
        let (token, generated) = self.tokens[index];
        if let Some([all, own]) = self.counts.get_mut(&token) {
            *all -= 1;
            *own -= u32::from(generated);
            if *all == 0 {
                self.counts.remove(&token);
            }
        }
    }

    /// The tokens of the window, each once, by their ids.
    pub fn seen(&self) -> impl Iterator<Item = Seen> {
        self.counts.iter().map(|(id, [_, generated])| Seen { id: *id, generated: *generated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After every token the counts are those of the last tokens, counted anew.
    #[test]
    fn counts_follow_the_window() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for window in [0, 1, 7, 100, MAX_PENALTY_WINDOW] {
            let (mut history, mut all) = (History::default(), Vec::new());
            for round in 0..300 {
                let tokens: Vec<u32> = (0..next() % 40).map(|_| next() % 50).collect();
                let generated = next() % 2 == 0;
                history.push(&tokens, generated);
                all.extend(tokens.iter().map(|token| (*token, generated)));
                if round == 10 {
                    history.set_window(window);
                }
                let counted = if round < 10 { 0 } else { window as usize };
                let mut want: BTreeMap<u32, u32> = BTreeMap::new();
                for (token, generated) in &all[all.len().saturating_sub(counted)..] {
                    *want.entry(*token).or_default() += u32::from(*generated);
                }
                let found: Vec<_> = history.seen().map(|s| (s.id, s.generated)).collect();
                assert_eq!(found, want.into_iter().collect::<Vec<_>>(), "window {window}, round {round}");
                assert!(history.tokens.len() <= MAX_PENALTY_WINDOW as usize);
            }
        }
    }

    #[test]
    fn long_prompts_leave_their_end() {
        let mut history = History::default();
        history.set_window(MAX_PENALTY_WINDOW);
        history.push(&(0..3 * MAX_PENALTY_WINDOW).collect::<Vec<_>>(), false);
        let ids: Vec<u32> = history.seen().map(|seen| seen.id).collect();
        assert_eq!(ids, (2 * MAX_PENALTY_WINDOW..3 * MAX_PENALTY_WINDOW).collect::<Vec<_>>());
    }
}
