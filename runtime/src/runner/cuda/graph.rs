//! Captured passes.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUstreamCaptureMode};

use super::device::{Device, check};
use crate::error::Result;

/// What a captured pass depends on; all else is data on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PassKey {
    /// Rows.
    pub tokens: u64,
    /// Rows of logits.
    pub outputs: u64,
    /// Bytes of context and lists that the pass copies first.
    pub copied: u64,
    /// Whether tokens are sampled.
    pub samples: bool,
}

/// Graphs kept at a time: all batch sizes of a server, in the few lengths of their page tables.
const MOST: usize = 256;

/// The captured passes of a runner.
#[derive(Default)]
pub struct Graphs(HashMap<PassKey, Graph>);

impl Graphs {
    /// The graph of `key`.
    pub fn get(&self, key: &PassKey) -> Option<&Graph> {
        self.0.get(key)
    }

    /// Keeps a graph; where there are too many, the others go.
    pub fn insert(&mut self, key: PassKey, graph: Graph) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key, graph);
    }
}

/// An executable graph.
pub struct Graph {
    device: Arc<Device>,
    handle: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Graph {}

/// A graph before it is made executable.
struct Template(sys::CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the capture, destroyed once.
            unsafe {
                let _ = sys::cuGraphDestroy(self.0);
            }
        }
    }
}

impl Graph {
    /// Captures what `record` puts on the device's stream; nothing of it runs. Errors: those of `record`;
    /// something on the stream that cannot be captured.
    pub fn capture(device: &Arc<Device>, record: impl FnOnce() -> Result<()>) -> Result<Graph> {
        device.enter()?;
        // Thread-local: other threads may go on to allocate and copy.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this device's and nothing captures it yet.
        check(unsafe { sys::cuStreamBeginCapture_v2(device.stream, mode) }, || "capturing a pass".into())?;
        let recorded = record();
        let mut template = Template(std::ptr::null_mut());
        // SAFETY: the capture was begun above; a place for the result. It ends whatever was recorded.
        let ended = unsafe { sys::cuStreamEndCapture(device.stream, &mut template.0) };
        recorded?;
        check(ended, || "capturing a pass".into())?;
        let mut graph = Graph { device: device.clone(), handle: std::ptr::null_mut() };
        // SAFETY: the template is whole; a place for the result.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut graph.handle, template.0, 0) };
        check(made, || "preparing a captured pass".into())?;
        Ok(graph)
    }

    /// Puts it on the stream.
    pub fn launch(&self) -> Result<()> {
        // SAFETY: the graph is whole; what its kernels address lives as long as the runner.
        check(unsafe { sys::cuGraphLaunch(self.handle, self.device.stream) }, || {
            "launching a captured pass".into()
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.handle.is_null() && self.device.enter().is_ok() {
            // SAFETY: made by `capture`, destroyed once; the driver keeps it while it runs.
            unsafe {
                let _ = sys::cuGraphExecDestroy(self.handle);
            }
        }
    }
}
