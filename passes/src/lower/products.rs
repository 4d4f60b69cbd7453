//! Products: embedding, linears, projections and experts, with the layouts of their weights.

use hyc_ir::Op;
use hyc_ir::plan::{AttnShape, Epilogue, Layout, RopeSpec, StepOp};

use super::{Ctx, Lowered};
use crate::error::PassError;

/// The attributes of a `qkv_append`.
pub struct Projections {
    /// Query heads.
    pub heads: u64,
    /// KV heads.
    pub kv_heads: u64,
    /// eps of the fused RMSNorm.
    pub norm: Option<f64>,
    /// eps of QK-norm.
    pub qk_norm: Option<f64>,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Whether k and v are projected and appended.
    pub own_kv: bool,
}

impl Ctx<'_> {
    /// The table keeps its rows, but where a product reads it as well: then it is read from its panels.
    pub fn embed(&self) -> Result<Lowered, PassError> {
        let [vocab, hidden] = *self.weight_dims(0)? else {
            return Err(self.refuse("a table that is no matrix"));
        };
        let mut layouts = Vec::new();
        let mut users = self.graph.users(self.operand(0));
        if users.all(|(user, _)| self.graph.op(user).op == (Op::Embed {})) {
            layouts.push((self.operand(0), Layout::Rows { rows: vocab, cols: hidden }));
        }
        self.step(StepOp::Embed { vocab, hidden }, &[0], layouts)
    }

    /// A product with what is fused around it; the panels of its weights hold all output features in order.
    pub fn linear(&self, norm: Option<f64>, epilogue: Epilogue) -> Result<Lowered, PassError> {
        let (inn, out) = (self.width(self.operand(0))?, self.width(self.result(0))?);
        let first = 1 + usize::from(norm.is_some());
        let mut layouts = vec![self.panels(first, None)?];
        if norm.is_some() {
            layouts.push(self.vector(1)?);
        }
        if epilogue == Epilogue::SwiGlu {
            layouts.push(self.panels(first + 1, None)?);
        }
        let reads: Vec<usize> = (0..self.data.operands.len()).collect();
        self.step(StepOp::Linear { inn, out, norm, epilogue }, &reads, layouts)
    }

    /// Panels of wq, wk and wv must not cross heads: an item of the step is one head.
    pub fn qkv(&self, p: &Projections) -> Result<Lowered, PassError> {
        let Projections { heads, kv_heads, norm, qk_norm, rope, own_kv } = *p;
        let inn = self.width(self.operand(0))?;
        let qk_dim = self.width(self.result(0))? / heads.max(1);
        let wq = 1 + usize::from(norm.is_some());
        let mut layouts = vec![self.panels(wq, Some(qk_dim))?];
        let mut v_dim = qk_dim;
        if norm.is_some() {
            layouts.push(self.vector(1)?);
        }
        let mut next = wq + 1;
        if own_kv {
            v_dim = self.weight_dims(wq + 2)?[0] / kv_heads.max(1);
            layouts.push(self.panels(wq + 1, Some(qk_dim))?);
            layouts.push(self.panels(wq + 2, Some(v_dim))?);
            next = wq + 3;
        }
        if qk_norm.is_some() {
            for i in next..next + 1 + usize::from(own_kv) {
                layouts.push(self.vector(i)?);
            }
            next += 1 + usize::from(own_kv);
        }
        let shape = AttnShape { heads, kv_heads, qk_dim, v_dim };
        let reads: Vec<usize> = (0..next).collect();
        self.step(StepOp::QkvAppend { inn, shape, norm, qk_norm, rope, own_kv }, &reads, layouts)
    }

    /// The gates and ups of the experts that each token chose.
    pub fn experts_up(&self) -> Result<Lowered, PassError> {
        let [experts, ffn, inn] = *self.weight_dims(2)? else {
            return Err(self.refuse("experts that are no matrices"));
        };
        let active = self.width(self.operand(1))?;
        let layouts = vec![self.panels(2, None)?, self.panels(3, None)?];
        self.step(StepOp::ExpertsUp { experts, active, inn, ffn }, &[0, 1, 2, 3], layouts)
    }

    /// The weighted sum of the experts' downs, added to the residual.
    pub fn experts_down(&self) -> Result<Lowered, PassError> {
        let [experts, out, ffn] = *self.weight_dims(3)? else {
            return Err(self.refuse("experts that are no matrices"));
        };
        let active = self.width(self.operand(1))?;
        let layouts = vec![self.panels(3, None)?];
        self.step(StepOp::ExpertsDown { experts, active, out, ffn }, &[0, 1, 2, 3, 4], layouts)
    }
}
