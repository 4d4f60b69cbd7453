//! The closed list of graph ops, a struct each. An op's meaning is its reference in `hyc-kernels`; what it says of its
//! operands and results is in `described.rs`, and their types in `verify/rules.rs`.

use hyc_plan::{Epilogue, GateMode};

use crate::roles::Described;

/// An attribute's value in the text form.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// A non-negative integer.
    Int(u64),
    /// A float, printed so that it parses back to the same bits.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A bare word.
    Word(String),
}

/// A Rust type that an attribute field may have.
pub trait AttrValue: Sized {
    /// Into text form; `None` leaves the attribute out.
    fn to_attr(&self) -> Option<Attr>;
    /// From text form; `None` where the attribute is absent. `Err` says what is expected.
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str>;
}

impl AttrValue for u64 {
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Int(*self))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            Some(Attr::Int(n)) => Ok(*n),
            _ => Err("an integer"),
        }
    }
}

impl AttrValue for f64 {
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Float(*self))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            Some(Attr::Float(x)) => Ok(*x),
            Some(Attr::Int(n)) => Ok(*n as f64),
            _ => Err("a number"),
        }
    }
}

/// Absent means false, so that a dump shows only what is so.
impl AttrValue for bool {
    fn to_attr(&self) -> Option<Attr> {
        self.then_some(Attr::Bool(true))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            None => Ok(false),
            Some(Attr::Bool(b)) => Ok(*b),
            _ => Err("true or false"),
        }
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Option<Attr> {
        self.as_ref().and_then(T::to_attr)
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        attr.map(|attr| T::from_attr(Some(attr))).transpose()
    }
}

macro_rules! word_attr {
    ($type:ty, $expected:literal, $($word:literal => $value:path),+) => {
        impl AttrValue for $type {
            fn to_attr(&self) -> Option<Attr> {
                Some(Attr::Word(match self { $($value => $word),+ }.to_string()))
            }
            fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
                match attr {
                    Some(Attr::Word(word)) => match word.as_str() {
                        $($word => Ok($value),)+
                        _ => Err($expected),
                    },
                    _ => Err($expected),
                }
            }
        }
    };
}
word_attr!(GateMode, "none, head or elementwise",
    "none" => GateMode::None, "head" => GateMode::Head, "elementwise" => GateMode::Elementwise);
word_attr!(Epilogue, "store, residual or swiglu",
    "store" => Epilogue::Store, "residual" => Epilogue::Residual, "swiglu" => Epilogue::SwiGlu);

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident $name:literal { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? }),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq)]
            pub struct $variant { $($(#[$fdoc])* pub $field: $type),* }
        )+

        /// What a node of the graph computes.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[allow(missing_docs, reason = "each is the struct of its name")]
        pub enum Op {
            $($variant($variant)),+
        }

        impl Op {
            /// What the op says of itself.
            pub fn described(&self) -> &dyn Described {
                match self { $(Op::$variant(op) => op),+ }
            }
        }

        impl Op {
            /// Every op's name, for the parser's "did you mean".
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => $name),+ }
            }

            /// The attributes in the order of the declaration; absent ones are left out.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self {
                    $(Op::$variant($variant { $($field),* }) => {
                        #[allow(unused_mut)]
                        let mut attrs: Vec<(&'static str, Attr)> = Vec::new();
                        $(attrs.extend($field.to_attr().map(|attr| (stringify!($field), attr)));)*
                        attrs
                    })+
                }
            }

            /// The op `name` with `attrs`. `Err` is a sentence: an unknown op, a missing, unknown or
            /// mistyped attribute.
            pub fn from_attrs(name: &str, attrs: &[(String, Attr)]) -> Result<Op, String> {
                match name {
                    $($name => {
                        #[allow(unused_variables)]
                        let find = |key: &str| attrs.iter().find(|(k, _)| k == key).map(|(_, attr)| attr);
                        let known: &[&str] = &[$(stringify!($field)),*];
                        for (i, (key, _)) in attrs.iter().enumerate() {
                            if !known.contains(&key.as_str()) {
                                return Err(format!(
                                    "`{name}` has no attribute `{key}`; it takes [{}]", known.join(", ")));
                            }
                            if attrs[..i].iter().any(|(k, _)| k == key) {
                                return Err(format!("attribute `{key}` is given twice"));
                            }
                        }
                        Ok(Op::$variant($variant {
                            $($field: <$type as AttrValue>::from_attr(find(stringify!($field)))
                                .map_err(|want| format!("`{name}` needs `{} = ` {want}", stringify!($field)))?),*
                        }))
                    })+
                    _ => Err(format!("no op is named `{name}`")),
                }
            }
        }
    };
}

ops! {
    /// `() -> weight`: a tensor of the weight files, named by its value's name.
    Weight "weight" {},
    /// `() -> cache`: the state of a KV cache before this step.
    Cache "cache" {
        /// Layer that appends.
        owner: u64,
    },
    /// `() -> selection`: a selection left by an earlier step. No read of it is valid (selection
    /// provenance); it exists so that the text form can say it and the verifier can name it.
    PriorSelection "prior_selection" {},
    /// `() -> selection`: of the nearest oracle before; `detect-chains` resolves it.
    ChainSelection "chain_selection" {},
    /// `() -> cache`: of the nearest oracle before; `detect-chains` resolves it.
    ChainCache "chain_cache" {},
    /// `(cache) -> cache`: a layer's own copy of another layer's cache; `plan-kv` aliases it.
    KvShare "kv_share" {},
    /// `(table) -> x`: rows of the table at the step's token ids.
    Embed "embed" {},
    /// `(x, weight) -> y`: RMSNorm over each slice of the weight's length.
    RmsNorm "rmsnorm" {
        /// Added to the mean square.
        eps: f64,
    },
    /// `(x, weight) -> y`: y = W x.
    Linear "linear" {},
    /// `(x) -> y`: rotate-half RoPE at each row's position.
    Rope "rope" {
        /// Heads of a row.
        heads: u64,
        /// Base.
        theta: f64,
        /// Rotated dims of a head.
        dims: u64,
    },
    /// `(cache, k, v) -> cache`: the cache with this step's rows.
    Append "append" {},
    /// `(q, cache, [sink]) -> out, [probs]`: causal GQA attention. `probs`, where `scores`, are the
    /// normalised probabilities `[tokens, heads, context]`; a sink is part of what they are normalised by, and so of
    /// what a selection ranks.
    Attention "attention" {
        /// Query heads.
        heads: u64,
        /// Whether the third operand is there.
        sink: bool,
        /// Whether the probabilities are a second result.
        scores: bool,
    },
    /// `(probs) -> [tokens, heads, context/block]`: the maximum over each block.
    BlockMax "block_max" {
        /// Tokens per block.
        block: u64,
    },
    /// `([tokens, heads, n]) -> [tokens, kv_heads, n]`: the maximum over each group of heads.
    GroupMax "group_max" {
        /// KV heads.
        kv_heads: u64,
    },
    /// `([tokens, kv_heads, context/block]) -> selection`: the best blocks, ties to the lower index.
    TopK "topk" {
        /// Blocks kept.
        blocks: u64,
    },
    /// `(q, cache, [sink]) -> out`: attention over the last `window` tokens.
    WindowAttention "window_attention" {
        /// Query heads.
        heads: u64,
        /// Tokens visible, the row's own included.
        window: u64,
        /// Whether the third operand is there.
        sink: bool,
    },
    /// `(q, cache, sel, [sink]) -> out`: attention over the selected blocks.
    SparseAttention "sparse_attention" {
        /// Query heads.
        heads: u64,
        /// Whether the fourth operand is there.
        sink: bool,
    },
    /// `(x, g) -> x * sigmoid(g)`.
    Gate "gate" {
        /// Heads of x.
        heads: u64,
        /// Width of g.
        mode: GateMode,
    },
    /// `(a, b) -> a + b`.
    Add "add" {},
    /// `(a, b) -> silu(a) * b`.
    SiluMul "silu_mul" {},
    /// `(logits) -> index, weight`: `[tokens, active]` each, i32 and f32.
    Router "router" {
        /// Experts per token.
        active: u64,
    },
    /// `(x, index, gate, up) -> h`: `[tokens, active * ffn]`.
    ExpertsUp "experts_up" {},
    /// `(h, index, weight, down, [residual]) -> y`.
    ExpertsDown "experts_down" {
        /// Whether the last operand is there.
        residual: bool,
    },
    /// `(x) -> y`: the rows whose logits are wanted.
    GatherRows "gather_rows" {},
    /// `(x)`: the logits. Exactly one, the last op.
    Output "output" {},
    /// `(q, cache, [sink]) -> out, selection`: Attention, BlockMax, GroupMax and TopK in one.
    OracleAttention "oracle_attention" {
        /// Query heads.
        heads: u64,
        /// Whether the third operand is there.
        sink: bool,
        /// Blocks kept.
        blocks: u64,
    },
    /// `(q, shared, sel, sink_select, own, sink_window, [gate_select, gate_window]) -> out`: both branches
    /// of a sparse layer.
    HybridAttention "hybrid_attention" {
        /// Query heads.
        heads: u64,
        /// Tokens visible to the window branch.
        window: u64,
        /// Width of the gates; `none`: no gate operands.
        gate: GateMode,
    },
    /// `(x, [norm], weight, [residual | up]) -> y`: Linear with what is fused around it.
    FusedLinear "fused_linear" {
        /// eps of the fused RMSNorm, where there is one.
        norm: Option<f64>,
        /// Use of the product.
        epilogue: Epilogue,
    },
    /// `(x, [norm], wq, [wk, wv], [q_norm, [k_norm]], [cache]) -> q, [cache]`: projections, QK-norm, RoPE,
    /// append. `own_kv` brings wk, wv, k_norm and the cache.
    QkvAppend "qkv_append" {
        /// Query heads.
        heads: u64,
        /// KV heads.
        kv_heads: u64,
        /// eps of the fused RMSNorm.
        norm: Option<f64>,
        /// eps of QK-norm.
        qk_norm: Option<f64>,
        /// RoPE base.
        theta: f64,
        /// Rotated dims of a head.
        dims: u64,
        /// Whether k and v are projected and appended.
        own_kv: bool,
    },
}
