//! A branch of a sparse layer's attention: what it reads, its sink and its gate (HySparse 2602.03560, sec. 3).

use hyc_plan::{AttnShape, GateMode, SelectShape};

use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::work_item::{WorkItem, group};

/// Which pages a branch reads.
#[derive(Clone, Copy)]
pub enum Source {
    /// Those that the selection names.
    Listed(SelectShape),
    /// Those of a window of this many tokens.
    Window(u64),
}

/// One softmax over one cache, gated.
#[derive(Clone, Copy)]
pub struct Branch {
    pub cache: &'static str,
    pub source: Source,
    pub sink: Option<&'static str>,
    pub gate: Option<(&'static str, GateMode)>,
}

impl Branch {
    /// The gate's column of an element: `None` without a gate.
    fn gate_place<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        (h, element): (Int<'c>, Int<'c>),
    ) -> Option<(Ptr<'c>, bool)> {
        let (name, mode) = self.gate?;
        let head = e.add(e.mul_const(item.kv_head, group(shape)), h);
        let (column, each) = match mode {
            GateMode::Head => (head, false),
            GateMode::Elementwise => (e.add(e.mul_const(head, shape.v_dim), element), true),
            GateMode::None => return None,
        };
        let at_row = e.wide(e.mul_const(item.row, e.stride(name)));
        Some((e.at(e.operand(name), e.add(at_row, e.wide(column))), each))
    }

    /// The operand of a gate for each element.
    pub fn elementwise_gate(&self) -> Option<&'static str> {
        self.gate.filter(|(_, mode)| *mode == GateMode::Elementwise).map(|(name, _)| name)
    }

    /// An element by its gate.
    pub fn gated<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        (h, element): (Int<'c>, Int<'c>),
        y: Float<'c>,
    ) -> Float<'c> {
        let Some((gate, _)) = self.gate_place(e, shape, item, (h, element)) else { return y };
        e.fmul(y, e.sigmoid(e.load(gate, e.int(0))))
    }

    /// The logits of the gates of two neighbouring elements, the first an even one.
    pub fn gate_pair<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        (h, element): (Int<'c>, Int<'c>),
    ) -> Option<[Float<'c>; 2]> {
        let (gate, each) = self.gate_place(e, shape, item, (h, element))?;
        Some(if each { e.load2(gate).map(|word| e.widen(word)) } else { [e.load(gate, e.int(0)); 2] })
    }

    /// How many tokens back a row sees, its own included.
    pub fn reach(&self) -> u64 {
        match self.source {
            Source::Listed(_) => i32::MAX as u64,
            Source::Window(width) => width.min(i32::MAX as u64),
        }
    }
}
