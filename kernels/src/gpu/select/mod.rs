//! The selection: scores of blocks, and the k best of them.

mod argmax;
mod scores;
mod top_k;

pub use argmax::{Scores, THREADS, WARPS};
pub use scores::{Group, Heads};
pub use top_k::{CHUNK, Candidates, TopK, best_of_warp};
