//! Row-wise kernels: embedding, elementwise ops, gates, gathered rows. Reference: `reference::pointwise`.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::pack;
use hyc_plan::{Codec, Elem, Format, GateMode, KernelSpec, Layout, StepOp, ops};
use hyc_plan::{PANEL, TILE};

use super::norm::rms_norm;
use super::rope::rope;
use super::text::{Kernel, Value, type_name, vector};

/// Elements of 16 bytes of f32.
const LANES: u64 = 4;

/// The function `entry` for a row-wise step; `None` where the op is of another kind, an error where the kernel asks for
/// what the spec does not have.
pub fn function(entry: &str, spec: &KernelSpec) -> Option<Result<String, String>> {
    let mut k = Kernel::new(entry, spec);
    match spec.op {
        StepOp::Embed(ops::Embed { hidden, .. }) => embed(&mut k, hidden),
        StepOp::RmsNorm(ops::RmsNorm { groups, width, eps }) => rms_norm(&mut k, groups, width, eps),
        StepOp::Add(ops::Add { width }) => {
            binary(&mut k, width, |k, a, b| k.floats_with(LANES, "addf", a, b))
        }
        StepOp::Bias(ops::Bias { width }) => bias(&mut k, width),
        StepOp::SiluMul(ops::SiluMul { width }) => binary(&mut k, width, |k, a, b| {
            let sigmoid = sigmoid(k, LANES, a);
            let silu = k.floats_with(LANES, "mulf", a, &sigmoid);
            k.floats_with(LANES, "mulf", &silu, b)
        }),
        StepOp::Gate(ops::Gate { heads, v_dim, mode }) => gate(&mut k, heads, v_dim, mode),
        StepOp::Rope(ops::Rope { heads, dim, rope: spec }) => rope(&mut k, heads, dim, spec),
        StepOp::GatherRows(ops::GatherRows { width }) => gather(&mut k, width),
        StepOp::Linear(_)
        | StepOp::QkvAppend(_)
        | StepOp::Append(_)
        | StepOp::QuantiseKv(_)
        | StepOp::FullAttention(_)
        | StepOp::OracleAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_)
        | StepOp::PageLists(_)
        | StepOp::Router(_)
        | StepOp::ExpertsUp(_)
        | StepOp::ExpertsDown(_)
        | StepOp::Sample(_) => return None,
    }
    Some(k.finish())
}

/// `1 / (1 + e^-x)`, to a few units in the last place.
fn sigmoid(k: &mut Kernel<'_>, lanes: u64, x: &str) -> Value {
    let ty = vector(lanes, "f32");
    let scale = k.floats(lanes, -std::f32::consts::LOG2_E);
    let power = k.floats_with(lanes, "mulf", x, &scale);
    let e = k.value(format!("math.exp2 {power} fastmath<afn> : {ty}"));
    let one = k.floats(lanes, 1.0);
    let sum = k.floats_with(lanes, "addf", &e, &one);
    k.value(format!("arith.divf {one}, {sum} fastmath<afn> : {ty}"))
}

/// `out = f(a, b)`.
fn binary(k: &mut Kernel<'_>, width: u64, f: impl Fn(&mut Kernel<'_>, &str, &str) -> Value) {
    let row = k.row();
    let rows = ["a", "b", "out"].map(|name| k.tensor_row(name, &row));
    elements(k, &rows, (width, LANES), f);
}

fn bias(k: &mut Kernel<'_>, width: u64) {
    // Nothing stands behind the vector's end.
    let lanes = if width % LANES == 0 { LANES } else { 1 };
    let row = k.row();
    let [x, out] = ["x", "out"].map(|name| k.tensor_row(name, &row));
    let weight = k.operand("weight");
    elements(k, &[x, weight, out], (width, lanes), |k, x, b| k.floats_with(lanes, "addf", x, b));
}

/// Maps the first two rows to the third, so many elements at a time.
fn elements(
    k: &mut Kernel<'_>,
    [a, b, out]: &[Value; 3],
    (width, lanes): (u64, u64),
    f: impl Fn(&mut Kernel<'_>, &str, &str) -> Value,
) {
    let team = k.block();
    k.columns(&team, width, lanes, |k, columns| {
        let loaded: Vec<[Value; 2]> =
            columns.iter().map(|c| [a, b].map(|x| k.load(Elem::F32, lanes, x, c))).collect();
        for (column, [a, b]) in columns.iter().zip(&loaded) {
            let y = f(k, a, b);
            k.store(lanes, out, column, &y);
        }
    });
}

/// `out = x * sigmoid(g)`, one g per element or head.
fn gate(k: &mut Kernel<'_>, heads: u64, v_dim: u64, mode: GateMode) {
    // Lanes of a chunk that crosses heads would have several gates.
    let by_head = mode == GateMode::Head;
    let lanes = if by_head && v_dim % LANES != 0 { 1 } else { LANES };
    let (team, row) = (k.block(), k.row());
    let [x, gates, out] = ["x", "gate", "out"].map(|name| k.tensor_row(name, &row));
    k.columns(&team, heads * v_dim, lanes, |k, columns| {
        let loaded: Vec<[Value; 2]> = columns
            .iter()
            .map(|column| {
                let x = k.load(Elem::F32, lanes, &x, column);
                if !by_head {
                    return [x, k.load(Elem::F32, lanes, &gates, column)];
                }
                let head = k.with("divui", column, v_dim);
                let gate = k.load(Elem::F32, 1, &gates, &head);
                [x, gate]
            })
            .collect();
        for (column, [x, gate]) in columns.iter().zip(&loaded) {
            let factor = if by_head {
                let one = sigmoid(k, 1, gate);
                k.splat(lanes, &one)
            } else {
                sigmoid(k, lanes, gate)
            };
            let y = k.floats_with(lanes, "mulf", x, &factor);
            k.store(lanes, &out, column, &y);
        }
    });
}

/// `out[o] = x[out_rows[o]]`.
fn gather(k: &mut Kernel<'_>, width: u64) {
    let (team, row) = (k.block(), k.row());
    let from = k.context_list(offset_of!(StepContext, out_rows), &row);
    let (x, out) = (k.tensor_row("x", &from), k.tensor_row("out", &row));
    k.columns(&team, width, LANES, |k, columns| {
        let loaded: Vec<Value> = columns.iter().map(|c| k.load(Elem::F32, LANES, &x, c)).collect();
        for (column, x) in columns.iter().zip(&loaded) {
            k.store(LANES, &out, column, x);
        }
    });
}

/// `out[t] = table[token_ids[t]]`. The table is rows, or panels or tiles where a product reads it too.
fn embed(k: &mut Kernel<'_>, hidden: u64) {
    let (elem, layout) = k.weight("table");
    let (team, row) = (k.block(), k.row());
    let token = k.context_list(offset_of!(StepContext, token_ids), &row);
    let out = k.tensor_row("out", &row);
    let table = table_row(k, elem, layout, &token, hidden);
    let lanes = table.lanes(elem, hidden);
    k.columns(&team, hidden, lanes, |k, columns| {
        let loaded: Vec<Value> = columns.iter().map(|c| table.load(k, elem, lanes, c)).collect();
        for (column, x) in columns.iter().zip(&loaded) {
            k.store(lanes, &out, column, x);
        }
    });
}

/// One row of the table, by how its elements follow each other.
enum TableRow {
    /// One after the other, from an address on.
    Dense { base: Value },
    /// Every [`PANEL`]-th, from an address on.
    Strided { base: Value },
    /// In chunks of 8, of which those of each 64 are exchanged by the row's number in its tile.
    Swizzled { base: Value, place: Value },
}

fn table_row(k: &mut Kernel<'_>, elem: Elem, layout: Layout, token: &str, hidden: u64) -> TableRow {
    let (name, table) = (type_name(elem), k.operand("table"));
    match layout {
        Layout::Panels { in_features, group, .. } => {
            let (part, inside) = (k.with("divui", token, group), k.with("remui", token, group));
            let part = k.with("muli", &part, group.div_ceil(PANEL));
            let panel = k.with("divui", &inside, PANEL);
            let panel = k.add(&part, &panel);
            let lane = k.with("remui", &inside, PANEL);
            let slot = slot(k, elem, &lane);
            let index = k.with("muli", &panel, in_features * PANEL);
            let index = k.add(&index, &slot);
            TableRow::Strided { base: k.at(&table, &index, name) }
        }
        Layout::Tiles { in_features, .. } => {
            let (tile, place) = (k.with("divui", token, TILE), k.with("remui", token, TILE));
            let tile = k.with("muli", &tile, in_features.div_ceil(TILE) * TILE * TILE);
            let index = k.with("muli", &place, TILE);
            let index = k.add(&tile, &index);
            TableRow::Swizzled { base: k.at(&table, &index, name), place: k.with("remui", &place, 8) }
        }
        // No table is in strips: `operands::check`.
        Layout::Rows { .. } | Layout::Vector { .. } | Layout::Strips { .. } => {
            let index = k.with("muli", token, hidden);
            TableRow::Dense { base: k.at(&table, &index, name) }
        }
    }
}

/// Where a panel's lane stands among its sixteen: a table of 4 bits per lane in one number.
fn slot(k: &mut Kernel<'_>, elem: Elem, lane: &str) -> Value {
    let codec = match elem {
        Elem::Bf16 => Codec::Bf16,
        Elem::F32 | Elem::I32 => Codec::F32,
    };
    let one = Layout::Panels { count: 1, out_features: PANEL, in_features: 1, group: PANEL };
    let slots = (0..PANEL).map(|lane| pack::index(Format { codec, layout: one }, lane, 0) << (4 * lane));
    let slots = slots.fold(0, |all, slot| all | slot);
    let table = k.value(format!("arith.constant {} : i64", slots as i64));
    let shift = k.with("muli", lane, 4);
    let shifted = k.value(format!("arith.shrui {table}, {shift} : i64"));
    k.with("andi", &shifted, PANEL - 1)
}

impl TableRow {
    /// Elements to load at once. A row's end must not be passed where another follows.
    fn lanes(&self, elem: Elem, hidden: u64) -> u64 {
        let whole = |lanes| if hidden % lanes == 0 { lanes } else { 1 };
        match self {
            TableRow::Dense { .. } => whole(16 / elem.bytes()),
            TableRow::Strided { .. } => whole(LANES),
            TableRow::Swizzled { .. } => 8,
        }
    }

    fn load(&self, k: &mut Kernel<'_>, elem: Elem, lanes: u64, column: &str) -> Value {
        match self {
            TableRow::Dense { base } => k.load(elem, lanes, base, column),
            TableRow::Strided { base } => {
                let each: Vec<Value> = (0..lanes)
                    .map(|lane| {
                        let column = k.with("addi", column, lane);
                        let index = k.with("muli", &column, PANEL);
                        k.load(elem, 1, base, &index)
                    })
                    .collect();
                match &each[..] {
                    [one] => one.clone(),
                    _ => k.value(format!("vector.from_elements {} : vector<{lanes}xf32>", each.join(", "))),
                }
            }
            TableRow::Swizzled { base, place } => {
                let (tile, inside) = (k.with("divui", column, TILE), k.with("remui", column, TILE));
                let chunk = k.with("divui", &inside, 8);
                let chunk = k.value(format!("arith.xori {chunk}, {place} : i64"));
                let (tile, chunk) = (k.with("muli", &tile, TILE * TILE), k.with("muli", &chunk, 8));
                let index = k.add(&tile, &chunk);
                k.load(elem, lanes, base, &index)
            }
        }
    }
}
