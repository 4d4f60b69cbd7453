//! Weights on the device: one allocation, filled through pinned memory.

use std::sync::Arc;

use cudarc::driver::sys;
use hyc_plan::{Plan, WeightId};

use super::device::{Device, DeviceBlock, Event, Pinned, check};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// Bytes that weights are copied in: large enough for the bus's full rate.
const PIECE: usize = 32 << 20;

/// Bytes of the allocation, and each weight's offset in it.
fn places(plan: &Plan) -> (u64, Vec<u64>) {
    let mut end = 0;
    let list = plan.weights.iter().map(|weight| {
        let at = end;
        end += weight.bytes().next_multiple_of(256);
        at
    });
    let list = list.collect();
    (end, list)
}

/// Copies all weights; returns their memory and their addresses. `progress` gets the bytes copied and all
/// bytes, and ends it with [`ErrorKind::Cancelled`] where it returns false.
pub fn copy(
    device: &Arc<Device>,
    model: &Model,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(DeviceBlock, Vec<u64>)> {
    let (bytes, places) = places(model.plan());
    let all = device.zeroed(bytes)?;
    let addresses: Vec<u64> = places.iter().map(|at| all.address + at).collect();
    let mut staging = Staging::new(device)?;
    let total: u64 = model.plan().weights.iter().map(hyc_plan::Weight::bytes).sum();
    let mut done = 0;
    for (i, address) in addresses.iter().enumerate() {
        let mut to = *address;
        model.weight_pieces(WeightId(i as u32), PIECE, &mut |piece| {
            staging.copy(piece, to)?;
            to += piece.len() as u64;
            done += piece.len() as u64;
            if progress(done, total) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Cancelled, "cancelled while copying the weights to the GPU"))
        })?;
    }
    device.synchronise()?;
    Ok((all, addresses))
}

/// Two pinned buffers that take turns.
struct Staging<'d> {
    device: &'d Arc<Device>,
    buffers: [(Pinned, Event); 2],
    turn: usize,
}

impl<'d> Staging<'d> {
    fn new(device: &'d Arc<Device>) -> Result<Staging<'d>> {
        let buffer = || Ok((Pinned::zeroed(device, PIECE)?, Event::new(device, false)?));
        Ok(Staging { device, buffers: [buffer()?, buffer()?], turn: 0 })
    }

    /// Copies at most [`PIECE`] bytes to device address `to`, where the allocation has room for them.
    fn copy(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        let (buffer, event) = &mut self.buffers[self.turn];
        self.turn = 1 - self.turn;
        // The buffer's last copy is through.
        event.wait()?;
        buffer.bytes()[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the buffer holds the bytes until the event has passed.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(to, buffer.pointer(), bytes.len(), self.device.stream) };
        check(result, || "copying the weights".into())?;
        event.record()
    }
}
