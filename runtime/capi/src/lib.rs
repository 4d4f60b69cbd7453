//! The runtime for C: `hyc.h`, which a test makes of these files, says what each call does.
//!
//! Handles are numbers of a table ([`table`]), so that one that was freed is an error. Every call answers a status and,
//! where the caller wants one, an error that the caller frees; a panic is a status, too ([`error::answer`]). Texts come in
//! as pointer and length, and go out borrowed, as long as each call says.

#![allow(
    clippy::missing_safety_doc,
    reason = "hyc.h has the contract of all calls at its head: pointers are NULL or valid"
)]

mod arguments;
mod batch;
mod error;
mod event;
mod failure;
mod generation;
mod model;
mod options;
mod session;
mod table;
mod version;

pub use batch::*;
pub use error::{hyc_error, hyc_error_free, hyc_error_help, hyc_error_kind, hyc_error_message, hyc_status};
pub use event::{hyc_event, hyc_event_kind, hyc_finish};
pub use generation::*;
pub use model::*;
pub use options::*;
pub use session::*;
pub use version::*;
