//! Weights on the device: one allocation, filled through pinned memory by all cores.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cudarc::driver::sys;
use hyc_plan::{Plan, WeightId};

use super::device::{Device, DeviceBlock, Event, Pinned, check};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Machine;
use crate::model::Model;

/// Bytes that weights are copied in: large enough for the bus's full rate, few enough that every thread has two.
const PIECE: usize = 2 << 20;
/// Most threads: a dozen check digests as fast as the bus takes bytes.
const MOST_THREADS: usize = 16;

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
    if model.has_weights() {
        copy_file(device, model, &addresses, progress)?;
    } else {
        copy_made_up(device, model, &addresses, progress)?;
    }
    device.synchronise()?;
    Ok((all, addresses))
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled while copying the weights to the GPU")
}

fn total(model: &Model) -> u64 {
    model.plan().weight_bytes()
}

/// Those of the file: every thread checks a piece, copies it to memory of its own, and has it sent.
fn copy_file(
    device: &Arc<Device>,
    model: &Model,
    addresses: &[u64],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let pieces: Vec<(WeightId, Range<usize>, u64)> = (0u32..)
        .zip(&model.plan().weights)
        .zip(addresses)
        .flat_map(|((id, weight), address)| {
            let len = weight.bytes() as usize;
            (0..len)
                .step_by(PIECE)
                .map(move |at| (WeightId(id), at..len.min(at + PIECE), address + at as u64))
        })
        .collect();
    let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // Sends one piece; false: there is none left.
    let step = |staging: &mut Staging<'_>| -> Result<bool> {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some((id, bytes, to)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return Ok(false);
        };
        staging.copy(model.weight_piece(*id, bytes.clone())?, *to)?;
        done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(true)
    };
    let work = |goes_on: &mut dyn FnMut() -> bool| -> Result<()> {
        let last = Last(&stop);
        let mut staging = Staging::new(device)?;
        while step(&mut staging)? {
            if !goes_on() {
                return Err(cancelled());
            }
        }
        last.ended_well();
        Ok(())
    };
    let threads = Machine::here().cores().min(MOST_THREADS).min(pieces.len());
    let total = total(model);
    std::thread::scope(|scope| {
        // Where the system refuses a thread, those that are there do its work.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, || work(&mut || true)).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut result = work(&mut || progress(done.load(Ordering::Relaxed), total));
        for other in others {
            let of_other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(of_other);
        }
        result
    })?;
    if progress(total, total) { Ok(()) } else { Err(cancelled()) }
}

/// An error or a panic of one thread ends them all.
struct Last<'a>(&'a AtomicBool);

impl Last<'_> {
    /// Leaves the others to their work.
    fn ended_well(self) {
        std::mem::forget(self);
    }
}

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Those that are made up, one behind the other.
fn copy_made_up(
    device: &Arc<Device>,
    model: &Model,
    addresses: &[u64],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let mut staging = Staging::new(device)?;
    let (total, mut done) = (total(model), 0);
    for (id, address) in (0u32..).zip(addresses) {
        let mut to = *address;
        model.weight_pieces(WeightId(id), PIECE, &mut |piece| {
            staging.copy(piece, to)?;
            to += piece.len() as u64;
            done += piece.len() as u64;
            if progress(done, total) { Ok(()) } else { Err(cancelled()) }
        })?;
    }
    Ok(())
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
