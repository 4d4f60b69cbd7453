//! Models that are no file: bytes in memory, and what the linker put into the program.

use std::path::Path;
use std::sync::Arc;

use super::file::FileBytes;
use super::purpose::Purpose;
use super::{LoadOptions, Model, Source};
use crate::error::Result;

/// A compiled model that is a part of the program: what [`linked_model!`](crate::linked_model) makes of an object file of
/// `hyc compile --emit obj`.
#[derive(Debug, Clone, Copy)]
pub struct Linked {
    /// Its name, for errors.
    pub name: &'static str,
    /// The artefact, at a multiple of 64.
    pub artefact: &'static [u8],
    /// A processor's code, which is executed where it lies; empty for a GPU, whose code is in the artefact.
    pub code: &'static [u8],
}

impl Model {
    /// Loads an artefact from memory that lives as long as the program. Errors: those of [`Model::load`]; bytes that do
    /// not begin at a multiple of 64: nothing is copied in silence.
    ///
    /// # Safety
    /// As for [`Model::load`]: its code is run. Nobody changes the bytes.
    pub unsafe fn from_static(bytes: &'static [u8], options: &LoadOptions) -> Result<Model> {
        Model::of_memory(FileBytes::Static(bytes), options)
    }

    /// Loads an artefact from memory that `owner` keeps, which lives as long as the model: a mapping, a shared buffer.
    /// Errors: those of [`Model::from_static`].
    ///
    /// # Safety
    /// As for [`Model::load`]: its code is run. `owner` gives the same bytes each time, and nobody changes them.
    pub unsafe fn from_owner(
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        options: &LoadOptions,
    ) -> Result<Model> {
        Model::of_memory(FileBytes::Owned(owner), options)
    }

    fn of_memory(bytes: FileBytes, options: &LoadOptions) -> Result<Model> {
        let path = Path::new("the artefact in memory");
        let source = Source { file: bytes.aligned(path)?, code: None, weights: None };
        Model::open(path, source, options, &mut |_, _| true, Purpose::Run)
    }

    /// The model that is linked into the program, with its weights. Its code is never copied, and no memory is made
    /// executable. Errors: those of [`Model::load`], such as a model that was linked without weights; code of another
    /// build than the artefact.
    ///
    /// # Safety
    /// `linked` is what `hyc compile --emit obj` made of one model.
    pub unsafe fn linked(linked: Linked, options: &LoadOptions) -> Result<Model> {
        Model::open_linked(linked, None, options)
    }

    /// The same with weights from a file: the artefact that was compiled together with the linked model, of which the
    /// weights alone are read. Errors: also a file of another model or another build, and one without weights.
    ///
    /// # Safety
    /// As for [`Model::linked`]; and nobody writes to the file or shortens it while the model lives, unless it is copied
    /// ([`Storage::Copied`](crate::Storage::Copied)).
    pub unsafe fn linked_with_weights(
        linked: Linked,
        weights: impl AsRef<Path>,
        options: &LoadOptions,
    ) -> Result<Model> {
        let path = weights.as_ref();
        // SAFETY: the caller's second promise.
        let file = unsafe { FileBytes::open(path, options.storage) }?;
        Model::open_linked(linked, Some((path, file)), options)
    }

    fn open_linked(
        linked: Linked,
        weights: Option<(&Path, FileBytes)>,
        options: &LoadOptions,
    ) -> Result<Model> {
        let path = Path::new(linked.name);
        let file = FileBytes::Static(linked.artefact).aligned(path)?;
        let code = Some(linked.code).filter(|code| !code.is_empty());
        Model::open(path, Source { file, code, weights }, options, &mut |_, _| true, Purpose::Run)
    }
}

/// Declares the module of a model that the build script compiled ([`hyc_build`](../hyc_build/index.html)): its functions
/// `load` and `load_with_weights`, and what is known of it before.
///
/// ```ignore
/// hyc_runtime::linked_model!(pub mod tiny);
///
/// fn main() -> hyc_runtime::Result<()> {
///     let model = tiny::load(&Default::default())?;
///     assert_eq!(model.plan().model.vocab, tiny::VOCAB);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! linked_model {
    ($(#[$attribute:meta])* $visibility:vis mod $name:ident) => {
        #[allow(dead_code, reason = "a program takes of it what it needs")]
        $(#[$attribute])*
        $visibility mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}
