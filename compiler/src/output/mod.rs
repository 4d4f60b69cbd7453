//! Files that hyc writes: artefacts, and whatever `-o` names. Nothing that a user owns is lost.
//!
//! What holds, whichever call fails and whenever the process ends:
//!
//! - The target is what it was before, or the new file, and whole.
//! - It is none of the files that are read, under whatever name (symbolic link, hard link, `..`), and none that this
//!   process was given open ([`Kept::of_process`]): this is asked before any work is done, and once more before the
//!   file is replaced. What names standard output (`/dev/stdout`) is standard output.
//! - A new file has the permissions that the umask leaves. A replaced one keeps its permissions, and its owner and
//!   group where this user may give files away. A file that this user may not write is not replaced.
//! - A symbolic link is followed: what it points to is replaced, the link stays. One that points to nothing is an
//!   error, as is a folder; devices and pipes are written to and never replaced.
//! - No other file is ever removed. A process that is killed leaves at most one temporary file, which the next
//!   write into that folder removes (see `temporary.rs`).
//!
//! [`Target`] is the place, looked at before the work; [`Whole`] the file that appears there; [`Folder`] several that
//! belong together.

mod calls;
#[cfg(feature = "cli")]
mod folder;
#[cfg(feature = "cli")]
mod sink;
#[cfg(feature = "cli")]
mod stream;
mod target;
mod temporary;
mod whole;

#[cfg(test)]
mod tests;

#[cfg(feature = "cli")]
pub use folder::Folder;
#[cfg(feature = "cli")]
pub use sink::Sink;
pub use target::{Kept, Target};
pub use whole::Whole;
