//! Weights on the device: one allocation, filled through pinned memory by all cores.
//!
//! Every core reads a piece of the file into pinned memory, checks it there, while it is in the core's cache, and has it
//! sent: bytes come from memory once, and what was checked is what is sent. Small weights that lie together are one
//! piece.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cudarc::driver::sys;
use hyc_plan::artefact::LEAF;
use hyc_plan::{Plan, Weight, WeightId};

use super::device::{Device, DeviceBlock, Event, Pinned, check};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Machine;
use crate::model::Model;

/// Bytes that weights are copied in: large enough for the bus's full rate, few enough that every thread has two; whole
/// leaves of the digests.
const PIECE: usize = 2 * LEAF as usize;
/// Most threads, each of which pins two pieces.
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

/// What lies together on the device and is sent at once.
#[derive(Debug, Default)]
struct Piece {
    /// Its address.
    at: u64,
    /// At most [`PIECE`].
    len: usize,
    parts: Vec<Part>,
}

/// Bytes of one weight.
#[derive(Debug)]
struct Part {
    id: WeightId,
    /// Its first byte, from the weight's beginning: that of a leaf.
    from: usize,
    /// Where it lies in the piece.
    place: Range<usize>,
}

/// Cuts weights, of which each has its address and its bytes and lies behind the one before.
fn pieces(weights: impl Iterator<Item = (u64, u64)>) -> Vec<Piece> {
    let mut list: Vec<Piece> = Vec::new();
    for (id, (address, bytes)) in (0u32..).zip(weights) {
        for from in (0..bytes as usize).step_by(PIECE) {
            let (at, len) = (address + from as u64, PIECE.min(bytes as usize - from));
            let end = |piece: &Piece| (at - piece.at) as usize + len;
            if list.last().is_none_or(|piece| end(piece) > PIECE) {
                list.push(Piece { at, ..Piece::default() });
            }
            if let Some(piece) = list.last_mut() {
                piece.len = end(piece);
                piece.parts.push(Part { id: WeightId(id), from, place: piece.len - len..piece.len });
            }
        }
    }
    list
}

/// Reads a piece. Between its parts, which are aligned, it has zeros, as the device had.
fn read(model: &Model, piece: &Piece, buffer: &mut [u8]) -> Result<()> {
    let mut end = 0;
    for Part { id, from, place } in &piece.parts {
        buffer[end..place.start].fill(0);
        model.read_weight(*id, *from, &mut buffer[place.clone()])?;
        end = place.end;
    }
    Ok(())
}

/// Those of the file: every thread reads a piece into memory of its own, checks it, and has it sent.
fn copy_file(
    device: &Arc<Device>,
    model: &Model,
    addresses: &[u64],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let pieces = pieces(addresses.iter().copied().zip(model.plan().weights.iter().map(Weight::bytes)));
    let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // Sends one piece; false: there is none left.
    let step = |staging: &mut Staging<'_>| -> Result<bool> {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return Ok(false);
        };
        staging.send(piece.len, piece.at, |buffer| read(model, piece, buffer))?;
        let bytes: usize = piece.parts.iter().map(|part| part.place.len()).sum();
        done.fetch_add(bytes as u64, Ordering::Relaxed);
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
            staging.send(piece.len(), to, |buffer| {
                buffer.copy_from_slice(piece);
                Ok(())
            })?;
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

    /// Sends `len` bytes, at most [`PIECE`], to device address `to`, where the allocation has room for them; `fill` writes
    /// all of them. Errors: those of `fill`, and nothing is sent.
    fn send(&mut self, len: usize, to: u64, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let (buffer, event) = &mut self.buffers[self.turn];
        self.turn = 1 - self.turn;
        // The buffer's last copy is through.
        event.wait()?;
        fill(&mut buffer.bytes()[..len])?;
        // SAFETY: the buffer holds the bytes until the event has passed.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to, buffer.pointer(), len, self.device.stream) };
        check(result, || "copying the weights".into())?;
        event.record()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_bytes_once_and_small_weights_share_one() {
        let sizes = [3 * PIECE as u64 + 5, 100, 8192, 256, PIECE as u64, 1, PIECE as u64 - 256, 1];
        let mut end = 0x7f00_0000_0000;
        let weights = sizes.map(|bytes: u64| {
            let at = end;
            end += bytes.next_multiple_of(256);
            (at, bytes)
        });
        let pieces = pieces(weights.into_iter());
        let mut through = [0; 8];
        for piece in &pieces {
            assert!(piece.len <= PIECE && piece.parts.last().is_some_and(|part| part.place.end == piece.len));
            let mut behind = 0;
            for Part { id, from, place } in &piece.parts {
                let id = id.0 as usize;
                assert!(*from == through[id] && from % LEAF as usize == 0 && place.start >= behind);
                assert_eq!(piece.at + place.start as u64, weights[id].0 + *from as u64);
                (through[id], behind) = (from + place.len(), place.end);
            }
        }
        assert_eq!(through.map(|bytes| bytes as u64), sizes);
        let parts: Vec<usize> = pieces.iter().map(|piece| piece.parts.len()).collect();
        assert_eq!(parts, [1, 1, 1, 4, 1, 2, 1]);
    }
}
