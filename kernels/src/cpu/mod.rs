//! CPU kernels through Cranelift: shapes constant, f32x4 vectors, FMA where the target level has it.
//!
//! A kernel is one position-independent function of [`hyc_plan::abi::KernelFn`]'s type that calls nothing and
//! refers to nothing: its constants lie in its own code. So an artefact's code is kernels one after the
//! other, and loading it is a copy.

mod attention;
mod codes;
mod emit;
mod kernel;
mod kv_codes;
mod linear;
mod math;
mod moe;
mod paged;
mod pointwise;
mod product;
mod qkv;
mod router;
mod softmax;
mod support;
mod topk;

use std::fmt;

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AbiParam, Function, Signature, UserFuncName};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use hyc_plan::ops::{ExpertsUp, QkvAppend};
use hyc_plan::{
    Backend, CacheSpec, Codec, Format, KernelSpec, Kind, KvOrder, Layout, ListShape, Slicer, StepOp, Target,
    Variant, ops,
};

use crate::panels::panels;

pub use support::supports;

use emit::Emit;

/// Instructions that the code may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// SSE4.1: every x86-64 since 2008.
    Baseline,
    /// AVX2 and FMA (x86-64-v3).
    V3,
}

/// A host to generate code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTarget {
    /// Instructions that it has.
    pub level: Level,
}

/// Why no code came out; each is a bug of this back end, since `supports` was asked first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodegenError(String);

impl fmt::Display for CodegenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code generation failed: {}", self.0)
    }
}

impl std::error::Error for CodegenError {}

impl Backend for CpuTarget {
    fn target(&self) -> Target {
        Target::Host { arch: "x86_64".to_string(), features: self.features() }
    }

    fn layout(&self, kind: &Kind, _: Codec) -> Option<Layout> {
        panels(kind)
    }

    fn kv_order(&self, _: &CacheSpec) -> KvOrder {
        KvOrder::Columns
    }

    fn tiles_rows(&self, _: &StepOp, _: &[Layout]) -> bool {
        false
    }

    fn fp8_rows(&self, _: &StepOp, _: &[Format]) -> Option<u64> {
        None
    }

    fn projects_gates(&self, _: &QkvAppend, _: &[Layout]) -> bool {
        false
    }

    fn shares_experts(&self, _: &ExpertsUp, _: &[Layout]) -> bool {
        false
    }

    fn page_lists(&self, _: &StepOp, _: &[CacheSpec]) -> Option<ListShape> {
        None
    }

    fn slicer(&self) -> Option<Slicer> {
        None
    }

    fn samples(&self) -> bool {
        false
    }

    /// One: Cranelift's code, for all rows of a step at once.
    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String> {
        supports(spec)?;
        Ok(vec![Variant::only("cranelift", spec, spec.max_rows)])
    }
}

impl CpuTarget {
    /// The machine that this runs on.
    pub fn host() -> CpuTarget {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return CpuTarget { level: Level::V3 };
        }
        CpuTarget { level: Level::Baseline }
    }

    /// The features that the code needs, as Rust names them.
    pub fn features(&self) -> Vec<String> {
        let names: &[&str] = match self.level {
            Level::Baseline => &["sse4.1"],
            Level::V3 => &["avx2", "fma"],
        };
        names.iter().map(ToString::to_string).collect()
    }

    fn isa(&self) -> Result<OwnedTargetIsa, CodegenError> {
        let fail = |e: &dyn fmt::Display| CodegenError(e.to_string());
        let mut shared = settings::builder();
        for (name, value) in [
            ("opt_level", "speed"),
            ("is_pic", "true"),
            ("unwind_info", "false"),
            ("enable_probestack", "false"),
        ] {
            shared.set(name, value).map_err(|e| fail(&e))?;
        }
        let mut isa =
            cranelift_codegen::isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(|e| fail(&e))?;
        let mut flags = vec!["has_sse3", "has_ssse3", "has_sse41"];
        if self.level == Level::V3 {
            flags.extend([
                "has_sse42",
                "has_popcnt",
                "has_avx",
                "has_avx2",
                "has_fma",
                "has_bmi1",
                "has_bmi2",
                "has_lzcnt",
            ]);
        }
        for flag in flags {
            isa.enable(flag).map_err(|e| fail(&e))?;
        }
        isa.finish(settings::Flags::new(shared)).map_err(|e| fail(&e))
    }
}

/// A kernel's machine code.
#[derive(Debug, Clone)]
pub struct KernelCode {
    /// The code, from its entry; position-independent.
    pub code: Vec<u8>,
    /// Scratch a thread needs.
    pub scratch_bytes: u64,
    /// Disassembly, where it was asked for.
    pub asm: Option<String>,
}

/// Generates a kernel. Ask [`supports`] first.
pub fn compile(spec: &KernelSpec, target: &CpuTarget, want_asm: bool) -> Result<KernelCode, CodegenError> {
    let isa = target.isa()?;
    let mut context = cranelift_codegen::Context::new();
    context.set_disasm(want_asm);
    let scratch_bytes = build(spec, target, isa.as_ref(), &mut context.func)?;
    let compiled = context
        .compile(isa.as_ref(), &mut ControlPlane::default())
        .map_err(|e| CodegenError(format!("{}: {:?}", spec.op.name(), e.inner)))?;
    if !compiled.buffer.relocs().is_empty() {
        return Err(CodegenError(format!("{} refers to something outside itself", spec.op.name())));
    }
    Ok(KernelCode { code: compiled.code_buffer().to_vec(), scratch_bytes, asm: compiled.vcode.clone() })
}

/// Builds the function; returns its scratch bytes.
fn build(
    spec: &KernelSpec,
    target: &CpuTarget,
    isa: &dyn cranelift_codegen::isa::TargetIsa,
    function: &mut Function,
) -> Result<u64, CodegenError> {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params = vec![AbiParam::new(I64); 5];
    *function = Function::with_name_signature(UserFuncName::user(0, 0), signature);
    let mut builders = FunctionBuilderContext::new();
    let builder = FunctionBuilder::new(function, &mut builders);
    let mut e = Emit::new(builder, spec, target.level == Level::V3);
    body(&mut e, spec);
    e.finish(isa.frontend_config()).map_err(CodegenError)
}

fn body(e: &mut Emit<'_>, spec: &KernelSpec) {
    match spec.op {
        StepOp::Embed(ops::Embed { hidden, .. }) => pointwise::emit_embed(e, hidden),
        StepOp::RmsNorm(ops::RmsNorm { groups, width, eps }) => {
            pointwise::emit_rmsnorm(e, groups, width, eps)
        }
        StepOp::Linear(ops::Linear { in_features, norm, epilogue, .. }) => {
            linear::emit(e, spec, in_features, norm, epilogue)
        }
        StepOp::QkvAppend(op) => {
            qkv::emit(e, spec, &op);
        }
        StepOp::Rope(ops::Rope { heads, dim, rope }) => qkv::emit_rope(e, spec, heads, dim, rope),
        StepOp::Append(_) => qkv::emit_append(e),
        StepOp::QuantiseKv(_) => kv_codes::emit_quantise(e),
        StepOp::Add(ops::Add { width }) => {
            pointwise::emit_binary(e, ["a", "b", "out"], width, |e, a, b| e.fadd(a, b))
        }
        StepOp::Bias(ops::Bias { width }) => pointwise::emit_bias(e, width),
        StepOp::SiluMul(ops::SiluMul { width }) => {
            pointwise::emit_binary(e, ["a", "b", "out"], width, |e, a, b| {
                let a = e.silu4(a);
                e.fmul(a, b)
            })
        }
        StepOp::Gate(ops::Gate { heads, v_dim, mode }) => pointwise::emit_gate(e, heads, v_dim, mode),
        StepOp::FullAttention(ops::FullAttention { shape, sink }) => attention::emit_full(e, shape, sink),
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) => {
            attention::emit_oracle(e, spec, shape, sink, select)
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }) => {
            attention::emit_window(e, shape, window, sink)
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, .. }) => {
            attention::emit_sparse(e, shape, select, sink)
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, .. }) => {
            attention::emit_hybrid(e, shape, select, window, gate);
        }
        StepOp::Router(op) => router::emit(e, op),
        StepOp::ExpertsUp(ops::ExpertsUp { in_features, ffn, active, .. }) => {
            moe::emit_up(e, spec, in_features, ffn, active)
        }
        StepOp::ExpertsDown(ops::ExpertsDown { active, ffn, .. }) => moe::emit_down(e, spec, active, ffn),
        StepOp::GatherRows(ops::GatherRows { width }) => pointwise::emit_gather(e, width),
        // `supports` refuses them.
        StepOp::PageLists(_) | StepOp::Sample(_) => {}
    }
}
