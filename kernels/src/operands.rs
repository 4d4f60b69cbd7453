//! The operands of one kernel by the names of their roles ([`StepOp::roles`](hyc_plan::StepOp::roles)).
//!
//! Before a kernel is made [`check`] has seen that each operand is of its role's kind. A kernel that asks for an
//! operand that its op does not have, or for a weight's constants of a tensor, is a bug: it is given something harmless,
//! and [`Operands::fault`] then says what it asked for, so that no code comes out.

use std::cell::RefCell;

use hyc_plan::{
    CachePolicy, CacheSpec, Codec, Elem, Format, KernelSpec, Kind, KvCodec, KvOrder, Layout, OperandSpec,
    tensor,
};

/// The operands of one kernel, and the first that it asked for in vain.
#[derive(Debug)]
pub struct Operands {
    spec: KernelSpec,
    fault: RefCell<Option<String>>,
}

impl Operands {
    /// Those of `spec`.
    pub fn new(spec: &KernelSpec) -> Operands {
        Operands { spec: spec.clone(), fault: RefCell::new(None) }
    }

    /// What was asked for that there is not.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Where an operand stands.
    pub fn index(&self, name: &str) -> usize {
        self.spec.at(name).unwrap_or_else(|| self.missing(name, "operand", 0))
    }

    /// Elements from row to row of a tensor.
    pub fn stride(&self, name: &str) -> u64 {
        match self.of(name) {
            Some(OperandSpec::Tensor { stride, .. }) => stride,
            Some(OperandSpec::Weight(_) | OperandSpec::Cache(_)) | None => self.missing(name, "tensor", 0),
        }
    }

    /// Whether a tensor lies in bf16 tiles.
    #[cfg(feature = "llvm")]
    pub fn in_tiles(&self, name: &str) -> bool {
        matches!(self.of(name), Some(OperandSpec::Tensor { elem: Elem::Bf16, .. }))
    }

    /// How a weight is stored.
    pub fn format(&self, name: &str) -> Format {
        match self.of(name) {
            Some(OperandSpec::Weight(format)) => format,
            Some(OperandSpec::Tensor { .. } | OperandSpec::Cache(_)) | None => {
                self.missing(name, "weight", Format { codec: Codec::F32, layout: Layout::Vector { len: 0 } })
            }
        }
    }

    /// Element type and order of a weight whose numbers stand by themselves.
    pub fn weight(&self, name: &str) -> (Elem, Layout) {
        match self.of(name) {
            Some(OperandSpec::Weight(Format { codec: Codec::F32, layout })) => (Elem::F32, layout),
            Some(OperandSpec::Weight(Format { codec: Codec::Bf16, layout })) => (Elem::Bf16, layout),
            Some(OperandSpec::Weight(_) | OperandSpec::Tensor { .. } | OperandSpec::Cache(_)) | None => {
                self.missing(name, "weight of f32 or bf16", (Elem::F32, Layout::Vector { len: 0 }))
            }
        }
    }

    /// The constants of a cache.
    pub fn cache(&self, name: &str) -> CacheSpec {
        const NONE: CacheSpec = CacheSpec {
            kv_heads: 1,
            qk_dim: 1,
            v_dim: 1,
            codec: KvCodec::F32,
            page: 1,
            policy: CachePolicy::Growing,
            order: KvOrder::Columns,
        };
        match self.of(name) {
            Some(OperandSpec::Cache(cache)) => cache,
            Some(OperandSpec::Tensor { .. } | OperandSpec::Weight(_)) | None => {
                self.missing(name, "cache", NONE)
            }
        }
    }

    fn of(&self, name: &str) -> Option<OperandSpec> {
        self.spec.operands.get(self.spec.at(name)?).copied()
    }

    /// Notes that there is no such operand, and stands in for it.
    fn missing<T>(&self, name: &str, what: &str, stand_in: T) -> T {
        let op = self.spec.op.name();
        self.fault.borrow_mut().get_or_insert_with(|| format!("`{op}` has no {what} `{name}`"));
        stand_in
    }
}

/// Whether each operand is of the kind that its role says, of elements that kernels read, which share scales in strips alone.
#[cfg(feature = "llvm")]
pub fn check(spec: &KernelSpec) -> Result<(), String> {
    check_kinds(spec)?;
    // What is in strips a back end takes or refuses itself.
    check_shared(spec, |_, layout| matches!(layout, Layout::Strips { .. }))
}

/// Whether weights that share scales are of kinds and in layouts that `takes` takes.
pub fn check_shared(spec: &KernelSpec, takes: fn(&Kind, &Layout) -> bool) -> Result<(), String> {
    for (role, operand) in spec.op.roles().iter().zip(&spec.operands) {
        if let OperandSpec::Weight(Format { codec, layout }) = operand
            && codec.group().is_some()
            && !takes(&role.kind, layout)
        {
            return Err(format!("no kernel of `{}` reads weights of {codec}", spec.op.name()));
        }
    }
    Ok(())
}

/// Whether each operand is of the kind that its role says.
pub fn check_kinds(spec: &KernelSpec) -> Result<(), String> {
    let (roles, op) = (spec.op.roles(), spec.op.name());
    if !spec.op.is_possible() {
        return Err(format!("the sizes of this `{op}` cannot be"));
    }
    if spec.operands.len() != roles.len() {
        return Err(format!("{} operands for `{op}`", spec.operands.len()));
    }
    for (role, operand) in roles.iter().zip(&spec.operands) {
        if !fits(&role.kind, operand) {
            return Err(format!("operand `{}` of `{op}` is not what the op wants", role.name));
        }
    }
    Ok(())
}

fn fits(kind: &Kind, operand: &OperandSpec) -> bool {
    match *kind {
        Kind::Rows(_) | Kind::TokenRows(_) => matches!(operand, OperandSpec::Tensor { elem: Elem::F32, .. }),
        Kind::RowsOrTiles(_) => match *operand {
            OperandSpec::Tensor { elem: Elem::Bf16, width, .. } => tensor::can_tile(width),
            _ => matches!(operand, OperandSpec::Tensor { elem: Elem::F32, .. }),
        },
        Kind::Token | Kind::Experts { .. } | Kind::Selection { .. } => {
            matches!(operand, OperandSpec::Tensor { elem: Elem::I32, .. })
        }
        // A kernel's addresses follow from the shapes of the lists.
        Kind::PageLists { select, lists, .. } => {
            matches!(operand, OperandSpec::Tensor { elem: Elem::I32, width, stride }
            if lists.width(select) == Some(*width) && stride == width)
        }
        Kind::Vector(_) => {
            matches!(
                operand,
                OperandSpec::Weight(Format { codec: Codec::F32, layout: Layout::Vector { .. } })
            )
        }
        Kind::Matrices { .. } => matches!(
            operand,
            OperandSpec::Weight(Format {
                layout: Layout::Panels { .. } | Layout::Tiles { .. } | Layout::Strips { .. },
                ..
            })
        ),
        Kind::Table { .. } => matches!(
            operand,
            OperandSpec::Weight(Format {
                layout: Layout::Rows { .. } | Layout::Panels { .. } | Layout::Tiles { .. },
                ..
            })
        ),
        Kind::Cache { stored, .. } => {
            matches!(operand, OperandSpec::Cache(cache) if stored.takes(cache.codec))
        }
    }
}

#[cfg(test)]
mod tests {
    use hyc_plan::{Rows, StepOp, ops};

    use super::*;

    fn spec() -> KernelSpec {
        let logits = OperandSpec::Tensor { elem: Elem::F32, width: 50, stride: 64 };
        let token = OperandSpec::Tensor { elem: Elem::I32, width: 1, stride: 16 };
        KernelSpec {
            op: StepOp::Sample(ops::Sample { vocab: 50, named: None }),
            operands: vec![logits, token],
            rows: Rows::Outputs,
            max_rows: 4,
            max_context: 64,
        }
    }

    #[test]
    fn an_operand_is_found_by_its_name() {
        let operands = Operands::new(&spec());
        assert_eq!(
            (operands.index("token"), operands.stride("logits"), operands.stride("token")),
            (1, 64, 16)
        );
        assert_eq!(operands.fault(), None);
    }

    #[test]
    fn what_is_asked_for_in_vain_is_a_fault() {
        let operands = Operands::new(&spec());
        operands.index("cache");
        operands.weight("token");
        assert_eq!(operands.fault().as_deref(), Some("`sample` has no operand `cache`"));
        let operands = Operands::new(&spec());
        operands.weight("token");
        assert_eq!(operands.fault().as_deref(), Some("`sample` has no weight of f32 or bf16 `token`"));
    }

    #[test]
    fn operands_of_another_kind_are_refused() {
        assert_eq!(check_kinds(&spec()), Ok(()));
        let mut swapped = spec();
        swapped.operands.swap(0, 1);
        assert_eq!(
            check_kinds(&swapped),
            Err("operand `logits` of `sample` is not what the op wants".into())
        );
        let mut short = spec();
        short.operands.pop();
        assert_eq!(check_kinds(&short), Err("1 operands for `sample`".into()));
    }
}
