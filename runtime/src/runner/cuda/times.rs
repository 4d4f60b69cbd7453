//! The times that blocks of clocked code write down.

use std::sync::Arc;

use hyc_plan::{BlockTimes, Plan};

use super::device::{Device, DeviceBlock};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Block;
use crate::runner::contract::LaunchTimes;

/// Bytes for the times of a pass's blocks; a pass that has more begins anew at the first.
const ROOM: u64 = 64 << 20;
const SIZE: u64 = size_of::<BlockTimes>() as u64;

/// Where the launches of the pass that was put on the stream last write them.
pub(super) struct Times {
    block: DeviceBlock,
    next: u64,
    launches: Vec<Launched>,
}

struct Launched {
    step: usize,
    function: String,
    at: u64,
    blocks: u64,
}

impl Times {
    /// Room for a plan's, where its code is clocked.
    pub fn new(device: &Arc<Device>, plan: &Plan) -> Result<Option<Times>> {
        let times = || Ok(Times { block: device.zeroed(ROOM)?, next: 0, launches: Vec::new() });
        plan.is_clocked().then(times).transpose()
    }

    /// The device address for the blocks of a launch of step `step`, of a new pass where the last launch was of a later one. Errors:
    /// so many blocks.
    pub fn reserve(&mut self, step: usize, function: &str, blocks: u64) -> Result<u64> {
        let bytes = blocks.checked_mul(SIZE).filter(|bytes| *bytes <= ROOM).ok_or_else(|| {
            let message = format!("{function}: there is no room for the times of {blocks} blocks");
            Error::new(ErrorKind::Resource, message).help("compile without --clocks")
        })?;
        let anew = self.launches.last().is_some_and(|last| last.step > step);
        if anew || self.next + bytes > ROOM {
            (self.next, self.launches) = (0, Vec::new());
        }
        let at = self.next;
        self.next += bytes;
        self.launches.push(Launched { step, function: function.to_string(), at, blocks });
        Ok(self.block.address + at)
    }

    /// What they have written. Errors: a device's.
    pub fn read(&self) -> Result<Vec<LaunchTimes>> {
        let mut bytes = vec![0; self.next as usize];
        self.block.read(0, &mut bytes)?;
        let word = |at: u64| {
            let at = at as usize;
            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
        };
        let block = |at: u64| BlockTimes {
            begin: word(at),
            inputs: word(at + 8),
            end: word(at + 16),
            multiprocessor: word(at + 24),
        };
        let launch = |launched: &Launched| LaunchTimes {
            step: launched.step,
            function: launched.function.clone(),
            blocks: (0..launched.blocks).map(|i| block(launched.at + i * SIZE)).collect(),
        };
        Ok(self.launches.iter().map(launch).collect())
    }
}
