//! The operands and results of an op, as its rules ask for them: each by name, of a type, or the fault that it is another.

use super::rule::{ATTRIBUTE, Fault, fault};
use crate::graph::{Graph, OpId};
use crate::roles::Roles;
use crate::types::{CacheType, Dim, SelectionType, Sym, Type};
use hyc_plan::tensor::can_tile;
use hyc_plan::{CachePolicy, Codec, Elem, TILE};

/// Rows and width of a tensor of rows of constant width.
fn rows_of(dims: &[Dim]) -> Option<(Sym, u64)> {
    match *dims {
        [Dim::Sym(rows), Dim::Const(width)] if width > 0 => Some((rows, width)),
        _ => None,
    }
}

/// The same of one that can lie in tiles.
fn tiles_of(dims: &[Dim]) -> Option<(Sym, u64)> {
    rows_of(dims).filter(|(_, width)| can_tile(*width))
}

/// An op with the roles of its operands and results.
pub(super) struct View<'g> {
    pub(super) graph: &'g Graph,
    pub(super) id: OpId,
    pub(super) roles: Roles,
}

impl<'g> View<'g> {
    pub(super) fn operand(&self, name: &str) -> Result<&'g Type, Fault> {
        let at = self.roles.takes.position(name);
        let value = at.and_then(|at| self.graph.op(self.id).operands.get(at));
        value.map(|value| self.graph.ty(*value)).ok_or_else(|| fault(format!("it has no operand `{name}`")))
    }

    pub(super) fn result(&self, name: &str) -> Result<&'g Type, Fault> {
        let at = self.roles.gives.position(name);
        let value = at.and_then(|at| self.graph.op(self.id).results.get(at));
        value.map(|value| self.graph.ty(*value)).ok_or_else(|| fault(format!("it has no result `{name}`")))
    }

    /// Rows and width of an f32 operand.
    pub(super) fn row(&self, name: &str) -> Result<(Sym, u64), Fault> {
        let ty = self.operand(name)?;
        let Type::Tensor { elem: Elem::F32, dims } = ty else {
            return Err(fault(format!("operand `{name}` must be an f32 tensor, is {ty}")));
        };
        rows_of(dims)
            .ok_or_else(|| fault(format!("operand `{name}` must be rows of constant width, is {ty}")))
    }

    /// The same of an operand that may be in bf16 tiles.
    pub(super) fn row_or_tiles(&self, name: &str) -> Result<(Sym, u64), Fault> {
        match self.operand(name)? {
            Type::Tensor { elem: Elem::Bf16, dims } => tiles_of(dims).ok_or_else(|| {
                fault(format!("operand `{name}` in bf16 must be rows of whole tiles of {TILE}"))
            }),
            _ => self.row(name),
        }
    }

    /// Rows and width of what a product reads: of f32 where it normalises them itself.
    pub(super) fn product_input(&self, norm: bool) -> Result<(Sym, u64), Fault> {
        if norm { self.row("x") } else { self.row_or_tiles("x") }
    }

    /// A result of f32 rows, or of the same in bf16 tiles.
    pub(super) fn want_rows_or_tiles(&self, name: &str, rows: Sym, width: u64) -> Result<(), Fault> {
        match self.result(name)? {
            Type::Tensor { elem: Elem::Bf16, dims } if tiles_of(dims) == Some((rows, width)) => Ok(()),
            _ => self.want_result(name, &Type::rows(rows, width)),
        }
    }

    pub(super) fn want_width(&self, name: &str, want: Option<u64>) -> Result<(), Fault> {
        let (_, width) = self.row(name)?;
        self.fits_width(name, width, want)
    }

    pub(super) fn fits_width(&self, name: &str, width: u64, want: Option<u64>) -> Result<(), Fault> {
        match want {
            Some(want) if want == width => Ok(()),
            Some(want) => Err(fault(format!("operand `{name}` has width {width}, needs {want}"))),
            None => Err(fault("sizes overflow")),
        }
    }

    pub(super) fn want_result(&self, name: &str, want: &Type) -> Result<(), Fault> {
        match self.result(name)? {
            found if found == want => Ok(()),
            found => Err(fault(format!("result `{name}` is {found}, must be {want}"))),
        }
    }

    pub(super) fn weight(&self, name: &str) -> Result<&'g [u64], Fault> {
        match self.operand(name)? {
            Type::Weight { dims, .. } if !dims.is_empty() && !dims.contains(&0) => Ok(dims),
            other => Err(fault(format!("operand `{name}` must be a weight, is {other}"))),
        }
    }

    pub(super) fn want_weight(&self, name: &str, want: &[u64]) -> Result<(), Fault> {
        match self.weight(name)? {
            dims if dims == want => Ok(()),
            dims => Err(fault(format!("operand `{name}` is a weight of shape {dims:?}, needs {want:?}"))),
        }
    }

    /// A vector of that length, in f32 as norms, sinks and biases always are.
    pub(super) fn want_vector(&self, name: &str, len: u64) -> Result<(), Fault> {
        self.want_weight(name, &[len])?;
        match self.operand(name)? {
            Type::Weight { codec: Codec::F32, .. } => Ok(()),
            _ => Err(fault(format!("operand `{name}` must be f32, as vectors are"))),
        }
    }

    pub(super) fn cache(&self, ty: &'g Type, place: &str) -> Result<&'g CacheType, Fault> {
        let Type::Cache(cache) = ty else { return Err(fault(format!("{place} must be a cache, is {ty}"))) };
        let sizes = [cache.kv_heads, cache.qk_dim, cache.v_dim, cache.page];
        let growing = cache.policy == CachePolicy::Growing;
        let possible = sizes.iter().all(|n| (1..1 << 24).contains(n)) && (growing || !cache.codec.scaled());
        if possible { Ok(cache) } else { Err(fault(format!("{place} is an impossible {ty}"))) }
    }

    pub(super) fn cache_operand(&self, name: &str) -> Result<&'g CacheType, Fault> {
        self.cache(self.operand(name)?, &format!("operand `{name}`"))
    }

    pub(super) fn selection(&self, ty: &'g Type, place: &str) -> Result<&'g SelectionType, Fault> {
        match ty {
            Type::Selection(s)
                if [s.shape.kv_heads, s.shape.block, s.shape.blocks]
                    .iter()
                    .all(|n| (1..1 << 24).contains(n)) =>
            {
                Ok(s)
            }
            other => Err(fault(format!("{place} must be a selection, is {other}"))),
        }
    }

    pub(super) fn selection_operand(&self, name: &str) -> Result<&'g SelectionType, Fault> {
        self.selection(self.operand(name)?, &format!("operand `{name}`"))
    }

    pub(super) fn selection_result(&self, name: &str) -> Result<&'g SelectionType, Fault> {
        self.selection(self.result(name)?, &format!("result `{name}`"))
    }

    /// Page lists that can be, of a selection like the operand `sel`.
    pub(super) fn fits_selection(&self, place: &str, name: &str, ty: &Type) -> Result<(), Fault> {
        let selection = self.selection_operand("sel")?;
        match ty {
            Type::Lists(lists) if lists.lists.is_possible() && lists.selection == *selection => Ok(()),
            other => Err(fault(format!(
                "{place} `{name}` is {other}, which are no lists of {}",
                self.operand("sel")?
            ))),
        }
    }

    /// The attention over a cache operand, with a sink where there is one; checks q, sink and the first result.
    pub(super) fn attention(
        &self,
        heads: u64,
        cache: &str,
        sink: Option<&str>,
    ) -> Result<&'g CacheType, Fault> {
        let cache = self.cache_operand(cache)?;
        if heads % cache.kv_heads != 0 {
            return Err((ATTRIBUTE, format!("{heads} heads over {} KV heads", cache.kv_heads)));
        }
        self.want_width("q", heads.checked_mul(cache.qk_dim))?;
        if let Some(sink) = sink {
            self.want_vector(sink, heads)?;
        }
        let (rows, _) = self.row("q")?;
        let width = heads.checked_mul(cache.v_dim).ok_or_else(|| fault("sizes overflow"))?;
        self.want_rows_or_tiles("out", rows, width)?;
        Ok(cache)
    }

    pub(super) fn scores(&self, ty: &Type) -> Result<(u64, Dim), Fault> {
        match ty {
            Type::Tensor { elem: Elem::F32, dims } => match dims[..] {
                [Dim::Sym(Sym::Tokens), Dim::Const(heads), last] if heads > 0 => Ok((heads, last)),
                _ => Err(fault(format!("scores are [tokens, heads, n], not {ty}"))),
            },
            _ => Err(fault(format!("scores are an f32 tensor, not {ty}"))),
        }
    }

    pub(super) fn same(&self, name: &str, want: &Type) -> Result<(), Fault> {
        match self.operand(name)? {
            found if found == want => Ok(()),
            found => Err(fault(format!("operand `{name}` is {found}, must be {want}"))),
        }
    }
}
