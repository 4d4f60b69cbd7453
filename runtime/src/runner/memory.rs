//! The memory of a runner: arena, caches, and where each operand of each step lies in them.

use std::sync::Arc;

use hyc_plan::{CacheId, Operand, WeightId};

use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvRoom;
use crate::memory::Block;
use crate::model::Model;

/// Where a device's blocks and weights come from.
///
/// # Safety
/// A block of [`DeviceMemory::zeroed`] keeps what [`Block`] promises for the bytes asked for; [`DeviceMemory::weight`] is
/// the address of all bytes of that weight, which nobody writes, valid while this and the model live.
pub unsafe trait DeviceMemory: Send {
    /// Zeroed memory that kernels can address. Errors: no room.
    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>>;

    /// A weight's address for kernels. Errors: no such weight; a damaged one; no memory for what is made up.
    fn weight(&self, model: &Model, id: WeightId) -> Result<*mut u8>;
}

/// Addresses of each step's operands, in the order of their roles.
pub type Operands = Vec<Vec<*mut u8>>;

/// Operands that go to other threads.
pub struct Addresses(Operands);

impl std::ops::Deref for Addresses {
    type Target = Operands;

    fn deref(&self) -> &Operands {
        &self.0
    }
}

// SAFETY: they point into memory that the same `Memory` owns, or into weights that nobody writes.
unsafe impl Send for Addresses {}
// SAFETY: as above; who writes what they point to is decided by the runner.
unsafe impl Sync for Addresses {}

/// Arena and caches of a model on a device. No call writes outside them, whatever it is given.
pub struct Memory {
    room: KvRoom,
    operands: Arc<Addresses>,
    arena: Box<dyn Block>,
    caches: Vec<Box<dyn Block>>,
    /// What the weights' addresses point into, where they are copies.
    _device: Box<dyn DeviceMemory>,
    /// What they point into where they are not.
    _model: Arc<Model>,
}

impl Memory {
    /// Allocates all of it. Errors: no room; a weight that is damaged.
    pub fn place(model: &Arc<Model>, room: KvRoom, device: Box<dyn DeviceMemory>) -> Result<Memory> {
        let plan = model.plan();
        let caches = plan.caches.iter().map(|cache| {
            let bytes = room.pages_of(cache, plan.model.page).checked_mul(cache.page_bytes());
            device.zeroed(bytes.ok_or_else(|| Error::new(ErrorKind::Resource, "the caches are too large"))?)
        });
        let caches: Vec<Box<dyn Block>> = caches.collect::<Result<_>>()?;
        let arena = device.zeroed(plan.arena_bytes)?;
        let address = |operand: &Operand| match *operand {
            Operand::Buffer(id) => Ok(arena.address().wrapping_add(plan.buffers[id.index()].offset as usize)),
            Operand::Weight(id) => device.weight(model, id),
            Operand::Cache(id) => Ok(caches[id.index()].address()),
        };
        let operands = plan.steps.iter().map(|step| step.operands.iter().map(address).collect());
        let operands = Arc::new(Addresses(operands.collect::<Result<_>>()?));
        Ok(Memory { room, operands, arena, caches, _device: device, _model: Arc::clone(model) })
    }

    /// Pages of the caches.
    pub fn room(&self) -> KvRoom {
        self.room
    }

    /// Addresses of each step's operands.
    pub(crate) fn operands(&self) -> &Arc<Addresses> {
        &self.operands
    }

    /// Copies bytes of the arena from offset `at`. Errors: they are not inside; a kernel before it has failed.
    pub fn read_arena(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.arena.read(at, out)
    }

    /// Copies bytes to the arena. Errors: they do not fit.
    pub fn write_arena(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.arena.write(at, bytes)
    }

    /// The bytes of a cache. Errors: no such cache.
    pub fn cache(&self, id: CacheId) -> Result<&dyn Block> {
        let block = self.caches.get(id.index()).map(AsRef::as_ref);
        block.ok_or_else(|| Error::new(ErrorKind::BadInput, format!("there is no cache {id}")))
    }

    /// The caches, in the plan's order.
    pub(crate) fn caches_mut(&mut self) -> impl Iterator<Item = &mut dyn Block> {
        self.caches.iter_mut().map(|block| block.as_mut() as &mut dyn Block)
    }
}
