//! What all kernels ask of their spec.

use std::mem::offset_of;

use cranelift_codegen::ir::Value;
use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Rows};

use super::emit::Emit;

/// Fields of the step's context.
impl Emit<'_> {
    /// Rows of this step.
    pub fn rows(&mut self, spec: &KernelSpec) -> Value {
        match spec.rows {
            Rows::Tokens => self.field(offset_of!(StepContext, tokens)),
            Rows::Outputs => self.field(offset_of!(StepContext, outputs)),
        }
    }

    /// `token_ids[row]`.
    pub fn token_id(&mut self, row: Value) -> Value {
        let table = self.field(offset_of!(StepContext, token_ids));
        self.load_index(table, row)
    }

    /// `positions[row]`.
    pub fn position(&mut self, row: Value) -> Value {
        let table = self.field(offset_of!(StepContext, positions));
        self.load_index(table, row)
    }

    /// `sequence[row]`.
    pub fn sequence(&mut self, row: Value) -> Value {
        let table = self.field(offset_of!(StepContext, sequence));
        self.load_index(table, row)
    }

    /// `out_rows[output]`.
    pub fn out_row(&mut self, output: Value) -> Value {
        let table = self.field(offset_of!(StepContext, out_rows));
        self.load_index(table, output)
    }

    /// Runs `four` for each whole vector of a row of `width` elements, `one` for each element left.
    pub fn row_loop(
        &mut self,
        width: u64,
        four: impl FnOnce(&mut Self, Value),
        one: impl FnOnce(&mut Self, Value),
    ) {
        let (zero, end) = (self.int(0), self.int(width as i64));
        let rest = self.each(zero, end, 4, four);
        if width % 4 != 0 {
            self.each(rest, end, 1, one);
        }
    }

    /// 1 / sqrt(mean(x^2) + eps) of `width` floats.
    pub fn inverse_rms(&mut self, x: Value, width: u64, eps: f64) -> Value {
        let (zero4, zero) = (self.zero4_var(), self.float(0.0));
        let tail = self.var(cranelift_codegen::ir::types::F32, zero);
        self.row_loop(
            width,
            |e, i| {
                let at = e.at(x, i, 4);
                let v = e.load4(at, 0);
                e.accumulate(zero4, v, v);
            },
            |e, i| {
                let at = e.at(x, i, 4);
                let v = e.load(at, 0);
                let product = e.fmul(v, v);
                let sum = e.get(tail);
                let sum = e.fadd(sum, product);
                e.set(tail, sum);
            },
        );
        let (sum, tail) = (self.get(zero4), self.get(tail));
        let sum = self.sum_lanes(sum);
        let sum = self.fadd(sum, tail);
        let (count, eps, one) = (self.float(width as f32), self.float(eps as f32), self.float(1.0));
        let mean = self.fdiv(sum, count);
        let mean = self.fadd(mean, eps);
        let root = self.sqrt(mean);
        self.fdiv(one, root)
    }

    /// to = x * inverse_rms(x) * weight, `width` floats.
    pub fn normalise(&mut self, x: Value, weight: Value, to: Value, width: u64, eps: f64) {
        let scale = self.inverse_rms(x, width, eps);
        let scale4 = self.splat(scale);
        self.row_loop(
            width,
            |e, i| {
                let (x, w, to) = (e.at(x, i, 4), e.at(weight, i, 4), e.at(to, i, 4));
                let (x, w) = (e.load4(x, 0), e.load4(w, 0));
                let y = e.fmul(x, scale4);
                let y = e.fmul(y, w);
                e.store(y, to, 0);
            },
            |e, i| {
                let (x, w, to) = (e.at(x, i, 4), e.at(weight, i, 4), e.at(to, i, 4));
                let (x, w) = (e.load(x, 0), e.load(w, 0));
                let y = e.fmul(x, scale);
                let y = e.fmul(y, w);
                e.store(y, to, 0);
            },
        );
    }
}
