//! Memory that kernels work on.

use memmap2::MmapMut;

use crate::error::{Error, ErrorKind, Result};

/// Memory that a runner's kernels work on: the host's, or a device's.
///
/// # Safety
/// From [`Block::address`] on, as many bytes as the block was asked for are the block's own until it is dropped, at an
/// address that is a multiple of 64 and never changes.
///
/// ```compile_fail,E0200
/// struct Tiny(Vec<u64>);
/// impl hyc_runtime::Block for Tiny {
///     fn address(&self) -> *mut u8 { self.0.as_ptr().cast::<u8>().cast_mut() }
///     fn read(&self, _: u64, _: &mut [u8]) -> hyc_runtime::Result<()> { Ok(()) }
///     fn write(&mut self, _: u64, _: &[u8]) -> hyc_runtime::Result<()> { Ok(()) }
///     fn copy(&mut self, _: u64, _: u64, _: u64) -> hyc_runtime::Result<()> { Ok(()) }
///     fn fill(&mut self, _: &[u8]) -> hyc_runtime::Result<()> { Ok(()) }
/// }
/// ```
pub unsafe trait Block: Send {
    /// The first byte, as kernels address it; on a device not for the host to follow.
    fn address(&self) -> *mut u8;

    /// Copies `out.len()` bytes from `at`. Errors: they are not inside; a kernel before it has failed.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()>;

    /// Copies `bytes` to `at`. Errors: they do not fit.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;

    /// Copies `len` bytes from `from` to `to`, which do not overlap. Errors: they are not inside.
    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<()>;

    /// Writes `pattern` over and over, to the end.
    fn fill(&mut self, pattern: &[u8]) -> Result<()>;
}

/// The range of `len` bytes from `at` in a block of `all`.
pub(crate) fn inside(at: u64, len: usize, all: u64) -> Result<std::ops::Range<usize>> {
    match at.checked_add(len as u64).filter(|end| *end <= all) {
        Some(end) => Ok(at as usize..end as usize),
        None => {
            Err(Error::new(ErrorKind::BadInput, format!("{len} bytes at {at} are outside a block of {all}")))
        }
    }
}

// SAFETY: a mapping of at least `len` bytes that begins a page, kept until this is dropped.
unsafe impl Block for Aligned {
    fn address(&self) -> *mut u8 {
        self.pointer
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let range = inside(at, out.len(), self.len)?;
        out.copy_from_slice(&self.bytes()[range]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let range = inside(at, bytes.len(), self.len)?;
        self.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<()> {
        let (from, to) = (inside(from, len as usize, self.len)?, inside(to, len as usize, self.len)?);
        self.bytes_mut().copy_within(from, to.start);
        Ok(())
    }

    fn fill(&mut self, pattern: &[u8]) -> Result<()> {
        for piece in self.bytes_mut().chunks_mut(pattern.len().max(1)) {
            piece.copy_from_slice(&pattern[..piece.len()]);
        }
        Ok(())
    }
}

/// Zeroed bytes that begin a page of memory. The system commits pages as they are touched.
pub struct Aligned {
    memory: MmapMut,
    pointer: *mut u8,
    len: u64,
}

// SAFETY: the memory is owned; who writes it when is decided by the engine.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// Allocates; an error where the system has no room.
    pub fn zeroed(len: u64) -> Result<Aligned> {
        let fail = || Error::new(ErrorKind::Resource, format!("cannot allocate {len} bytes"));
        let bytes = usize::try_from(len.max(1)).map_err(|_| fail())?;
        // An allocator would write zeros where an alignment is asked for, and so commit all of it.
        let mut memory = MmapMut::map_anon(bytes).map_err(|_| fail())?;
        Ok(Aligned { pointer: memory.as_mut_ptr(), memory, len })
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // No kernel runs while the engine is read.
        &self.memory[..self.len as usize]
    }

    /// All bytes, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len as usize]
    }
}
