//! Programs that link the runtime; see `src/bin`.
