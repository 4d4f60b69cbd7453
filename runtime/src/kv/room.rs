//! How much room the caches of a session have.

use hyc_plan::{Cache, ModelInfo};

use super::ring::Ring;
use crate::error::{Error, ErrorKind, Result};
use crate::options::SessionOptions;

/// The pages of the KV caches.
///
/// ```
/// # use hyc_handmade::Parts;
/// # use hyc_runtime::{KvRoom, SessionOptions};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().load()?;
/// let options = SessionOptions { max_tokens: Some(20), max_sequences: Some(2), ..SessionOptions::default() };
/// // Pages of 4 tokens, and one per sequence that is partly empty.
/// assert_eq!(KvRoom::of(&model.plan().model, &options)?, KvRoom::new(7, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRoom {
    /// Pages of each growing cache.
    pub pages: u64,
    /// Sequences at a time: each has a slot in every ring cache.
    pub sequences: u64,
    /// Stored prefixes at a time: each has room for the last window of every ring cache.
    pub prefixes: u64,
}

impl KvRoom {
    /// So many pages in each growing cache, and rings for so many sequences.
    pub fn new(pages: u64, sequences: u64) -> KvRoom {
        KvRoom { pages, sequences, prefixes: 0 }
    }

    /// What a session of these options gets. Errors: more sequences than the model was compiled for, or none; more
    /// pages than a page table can name.
    pub fn of(m: &ModelInfo, options: &SessionOptions) -> Result<KvRoom> {
        let sequences = options.max_sequences.unwrap_or(m.max_batch);
        if sequences == 0 || sequences > m.max_batch {
            let message = format!("{sequences} sequences: the model was compiled for 1 to {}", m.max_batch);
            return Err(
                Error::new(ErrorKind::BadInput, message).help("compile with a larger [target] max_batch")
            );
        }
        let whole = sequences.saturating_mul(m.max_context.div_ceil(m.page));
        // A page more per sequence than the tokens fill: each sequence's last page may be partly empty.
        let some = |tokens: u64| tokens.div_ceil(m.page).saturating_add(sequences).min(whole);
        let pages = options.max_tokens.map_or(whole, some);
        if pages > i32::MAX as u64 {
            let message = format!("{pages} pages are more than a page table can name");
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("allow the session fewer tokens (`SessionOptions::max_tokens`)"));
        }
        Ok(KvRoom { pages, sequences, prefixes: options.prefixes })
    }

    /// Pages in the pool of a cache of a model whose growing caches have pages of `border` tokens. A ring's are those of
    /// all slots, and behind them those of all stored windows.
    pub fn pages_of(&self, cache: &Cache, border: u64) -> u64 {
        match Ring::of(cache) {
            None => self.pages,
            Some(ring) => {
                let windows = ring.most_window_pages(border).saturating_mul(self.prefixes);
                ring.pages.saturating_mul(self.sequences).saturating_add(windows)
            }
        }
    }

    /// The page of a ring's pool where the windows of stored prefix `place` begin.
    pub(crate) fn window_page(&self, ring: Ring, border: u64, place: u64) -> u64 {
        let slots = ring.pages.saturating_mul(self.sequences);
        slots.saturating_add(ring.most_window_pages(border).saturating_mul(place))
    }
}
