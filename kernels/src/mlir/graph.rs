//! A [`Graph`] as a module of the `hysparse` dialect:
//!
//! ```text
//! %x = embed(@table) : tensor<tokens x 32 x f32>
//!   %x = "hysparse.embed"(%table) : (!hysparse.weight<tensor<64x32xf32>>) -> tensor<?x32xf32, ["tokens"]>
//! ```
//! Op by op and value by value, after any pass; names are kept as locations, flags that say whether an operand
//! is there are kept as attributes. The dialect's verifier then checks what the graph's own does in its way.

use std::collections::HashMap;

use hyc_ir::roles::{List, Roles};
use hyc_ir::types::{CacheType, Dim, ListsType, SelectionType, Type};
use hyc_ir::{Attr, Graph, Op, OpData, OpId, ValueId, op};
use hyc_plan::{CachePolicy, Codec, KvCodec};
use melior::ir::attribute::{DenseI32ArrayAttribute, FloatAttribute, IntegerAttribute, StringAttribute};
use melior::ir::operation::{OperationBuilder, OperationLike, OperationMutLike, OperationPrintingFlags};
use melior::ir::r#type::IntegerType;
use melior::ir::{Attribute, Block, BlockLike, Identifier, Location, Module, Region, RegionLike, Value};

use super::{Mlir, MlirError};

/// The graph as verified MLIR text.
pub fn graph_text(graph: &Graph) -> Result<String, MlirError> {
    let mlir = Mlir::with_dialect()?;
    let module = translate(&mlir, graph)?;
    mlir.verify(&module)?;
    print(&module)
}

fn translate<'c>(mlir: &'c Mlir, graph: &Graph) -> Result<Module<'c>, MlirError> {
    let context = &mlir.context;
    let module_location = Location::name(context, &graph.header.name, Location::unknown(context));
    let mut module = Module::new(module_location);
    let h = &graph.header;
    let limits = [
        ("layers", h.layers),
        ("hidden", h.hidden),
        ("vocab", h.vocab),
        ("max_context", h.max_context),
        ("max_batch", h.max_batch),
        ("chunk", h.chunk),
        ("max_outputs", h.max_outputs),
    ];
    let mut operation = module.as_operation_mut();
    operation.set_attribute("sym_name", StringAttribute::new(context, &h.name).into());
    operation.set_attribute("hysparse.target", StringAttribute::new(context, &h.target.to_string()).into());
    for (name, value) in limits {
        operation.set_attribute(&format!("hysparse.{name}"), int(mlir, value));
    }
    let body = Block::new(&[]);
    let mut values = HashMap::new();
    for id in graph.ops() {
        translate_op(mlir, graph, id, &body, &mut values)?;
    }
    let unknown = Location::unknown(context);
    body.append_operation(build(mlir, OperationBuilder::new("func.return", unknown))?);
    let region = Region::new();
    region.append_block(body);
    let function = OperationBuilder::new("func.func", unknown)
        .add_attributes(&[
            (Identifier::new(context, "sym_name"), StringAttribute::new(context, "forward").into()),
            (Identifier::new(context, "function_type"), attribute(mlir, "() -> ()")?),
        ])
        .add_regions([region]);
    module.body().append_operation(build(mlir, function)?);
    Ok(module)
}

fn build<'c>(
    mlir: &Mlir,
    builder: OperationBuilder<'c>,
) -> Result<melior::ir::operation::Operation<'c>, MlirError> {
    builder.build().map_err(|e| mlir.error(&e.to_string()))
}

fn translate_op<'c, 'b>(
    mlir: &'c Mlir,
    graph: &Graph,
    id: OpId,
    body: &'b Block<'c>,
    values: &mut HashMap<ValueId, Value<'c, 'b>>,
) -> Result<(), MlirError> {
    let (context, data) = (&mlir.context, graph.op(id));
    let operands = data.operands.iter().map(|v| {
        let missing = || MlirError(format!("%{} is read before anything makes it", graph.name(*v)));
        values.get(v).copied().ok_or_else(missing)
    });
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    let results = data.results.iter().map(|v| {
        let text = type_text(graph.ty(*v));
        melior::ir::Type::parse(context, &text).ok_or_else(|| mlir.error(&format!("the type {text}")))
    });
    let results = results.collect::<Result<Vec<_>, _>>()?;
    let attributes: Vec<_> = attributes(mlir, graph, data)
        .into_iter()
        .map(|(name, value)| (Identifier::new(context, name), value))
        .collect();
    // The builder keeps the name's address.
    let name = format!("hysparse.{}", data.op.name());
    let operation = OperationBuilder::new(&name, location(mlir, graph, data))
        .add_operands(&operands)
        .add_results(&results)
        .add_attributes(&attributes);
    let operation = body.append_operation(build(mlir, operation)?);
    for (i, value) in data.results.iter().enumerate() {
        let result = operation.result(i).map_err(|e| MlirError(e.to_string()))?;
        values.insert(*value, result.into());
    }
    Ok(())
}

/// The first result's name, by which MLIR prints it, at the dump's line where there is one.
fn location<'c>(mlir: &'c Mlir, graph: &Graph, data: &OpData) -> Location<'c> {
    let context = &mlir.context;
    let place = match data.line {
        Some(line) => Location::new(context, &graph.header.name, line as usize, 1),
        None => Location::unknown(context),
    };
    match data.results.first() {
        Some(value) => Location::name(context, graph.name(*value), place),
        None => place,
    }
}

fn attributes<'c>(mlir: &'c Mlir, graph: &Graph, data: &OpData) -> Vec<(&'static str, Attribute<'c>)> {
    let context = &mlir.context;
    let mut list: Vec<(&'static str, Attribute<'c>)> = Vec::new();
    if let (Op::Weight(op::Weight {}), [value]) = (&data.op, &data.results[..]) {
        list.push(("name", StringAttribute::new(context, graph.name(*value)).into()));
    }
    for (name, value) in data.op.attrs() {
        let value = match value {
            Attr::Int(n) => int(mlir, n),
            Attr::Float(x) => FloatAttribute::new(context, melior::ir::Type::float64(context), x).into(),
            Attr::Bool(b) => melior::ir::attribute::BoolAttribute::new(context, b).into(),
            attr @ (Attr::Word(_) | Attr::Call(..)) => {
                StringAttribute::new(context, &attr.to_string()).into()
            }
        };
        list.push((name, value));
    }
    list.extend(data.layer.map(|n| ("layer", int(mlir, n.into()))));
    list.extend(data.chain.map(|n| ("chain", int(mlir, n.into()))));
    let Roles { takes, gives } = data.op.roles();
    let sizes = [
        ("operandSegmentSizes", operand_places(&data.op).map(|places| segments(places, &takes))),
        ("resultSegmentSizes", result_places(&data.op).map(|places| segments(places, &gives))),
    ];
    for (name, sizes) in sizes {
        list.extend(sizes.map(|sizes| (name, DenseI32ArrayAttribute::new(context, &sizes).into())));
    }
    list
}

/// The places of an op in the dialect, each with the names of what may stand there.
type Places = &'static [&'static [&'static str]];

/// Those of the operands, for ops with more than one place that may be empty.
fn operand_places(op: &Op) -> Option<Places> {
    match op {
        Op::SparseAttention(_) => Some(&[&["q"], &["cache"], &["sel"], &["sink"], &["lists"]]),
        Op::HybridAttention(_) => Some(&[
            &["q"],
            &["shared"],
            &["sel"],
            &["sink_select"],
            &["own"],
            &["sink_window"],
            &["gate_select", "gate_window"],
            &["lists"],
        ]),
        Op::ExpertsDown(_) => {
            Some(&[&["h"], &["index"], &["weight"], &["down"], &["shared_down"], &["residual"]])
        }
        Op::FusedLinear(_) => Some(&[&["x"], &["norm"], &["weight"], &["residual", "up"]]),
        Op::QkvAppend(_) => Some(&[
            &["x"],
            &["norm"],
            &["wq"],
            &["wk"],
            &["wv"],
            &["q_norm", "k_norm"],
            &["wg1", "wg2"],
            &["cache"],
        ]),
        _ => None,
    }
}

/// Those of the results, likewise.
fn result_places(op: &Op) -> Option<Places> {
    match op {
        Op::QkvAppend(_) => Some(&[&["q"], &["gate1", "gate2"], &["cache"]]),
        _ => None,
    }
}

/// How many of the roles stand in each place.
fn segments<K: Copy>(places: Places, roles: &List<K>) -> Vec<i32> {
    let count = |place: &&[&str]| roles.iter().filter(|role| place.contains(&role.name)).count() as i32;
    places.iter().map(count).collect()
}

fn int(mlir: &Mlir, n: u64) -> Attribute<'_> {
    // Sizes are far below 2^63: the graph's verifier and the parser see to it.
    IntegerAttribute::new(IntegerType::new(&mlir.context, 64).into(), n as i64).into()
}

fn attribute<'c>(mlir: &'c Mlir, text: &str) -> Result<Attribute<'c>, MlirError> {
    Attribute::parse(&mlir.context, text).ok_or_else(|| mlir.error(&format!("the attribute {text}")))
}

fn type_text(ty: &Type) -> String {
    match ty {
        Type::Tensor { elem, dims } => {
            let mut shape = String::new();
            let mut symbols = Vec::new();
            for dim in dims {
                match dim {
                    Dim::Const(n) => shape.push_str(&format!("{n}x")),
                    symbolic => {
                        shape.push_str("?x");
                        symbols.push(format!("\"{symbolic}\""));
                    }
                }
            }
            format!("tensor<{shape}{elem}, [{}]>", symbols.join(", "))
        }
        Type::Weight { codec, dims } => {
            let shape: String = dims.iter().map(|n| format!("{n}x")).collect();
            let elem = match codec {
                Codec::F32 => "f32",
                Codec::Bf16 => "bf16",
                Codec::Int8 { .. } => "i8",
                Codec::Int4 { .. } => "i4",
                Codec::Fp8 { .. } => "f8E4M3FN",
            };
            format!("!hysparse.weight<tensor<{shape}{elem}>>")
        }
        Type::Cache(cache) => cache_text(cache),
        Type::Selection(SelectionType { shape: s, map }) => {
            format!("!hysparse.selection<{}, {}, {}, {map:?}>", s.kv_heads, s.blocks, s.block)
        }
        Type::Lists(ListsType { selection: SelectionType { shape: s, map }, lists }) => {
            let sizes = format!("{}, {}, {}", s.kv_heads, s.blocks, s.block);
            format!("!hysparse.lists<{sizes}, {}, {}, {map:?}>", lists.tile, lists.least)
        }
    }
}

fn cache_text(c: &CacheType) -> String {
    let elem = match c.codec {
        KvCodec::F32 => "f32",
        KvCodec::Bf16 => "bf16",
        KvCodec::Int8 => "i8",
        KvCodec::Fp8 => "f8E4M3FN",
    };
    let policy = match c.policy {
        CachePolicy::Growing => "#hysparse.growing".to_string(),
        CachePolicy::Ring { window, pages } => format!("#hysparse.ring<{window}, {pages}>"),
    };
    let sizes = format!("{}, {}, {}", c.kv_heads, c.qk_dim, c.v_dim);
    format!("!hysparse.cache<{sizes}, {elem}, {}, {policy}, {:?}>", c.page, c.map)
}

/// Text in which values bear the graph's names.
fn print(module: &Module<'_>) -> Result<String, MlirError> {
    let flags = OperationPrintingFlags::new();
    // SAFETY: `flags` owns the object and lives through the call.
    unsafe { mlir_sys::mlirOpPrintingFlagsPrintNameLocAsPrefix(flags.to_raw()) };
    module.as_operation().to_string_with_flags(flags).map_err(|e| MlirError(e.to_string()))
}
