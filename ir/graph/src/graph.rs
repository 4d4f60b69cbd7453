//! The graph: ops in execution order, SSA values between them.
//!
//! petgraph holds the def-use edges and stays private. A `Graph` may be *invalid* (a value without a
//! producer, or with two): the parser accepts such text, and the verifier says what is wrong with it.

use std::collections::HashMap;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use hyc_plan::TargetKind;

use crate::op::Op;
use crate::order::Order;
use crate::types::Type;

pub use crate::order::Place;

/// An op of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(u32);

/// A value of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// The id as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Limits and sizes that the graph was made for; the first lines of the text form.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Name of the model.
    pub name: String,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Vocabulary entries.
    pub vocab: u64,
    /// Entries that the tokenizer has, where they are fewer: tokens are chosen from these. `None`: from all.
    pub named: Option<u64>,
    /// Most tokens of a sequence.
    pub max_context: u64,
    /// Most sequences in a step.
    pub max_batch: u64,
    /// Most tokens in a step.
    pub chunk: u64,
    /// Most rows of logits in a step.
    pub max_outputs: u64,
    /// What it is compiled for.
    pub target: TargetKind,
}

/// An op with its operands and results.
#[derive(Debug, Clone, PartialEq)]
pub struct OpData {
    /// What it computes.
    pub op: Op,
    /// Operands in order.
    pub operands: Vec<ValueId>,
    /// Results in order.
    pub results: Vec<ValueId>,
    /// Layer it belongs to.
    pub layer: Option<u32>,
    /// Chain (hybrid block) it belongs to, once `detect-chains` has run.
    pub chain: Option<u32>,
    /// Line of the text that it was parsed from.
    pub line: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
struct ValueData {
    name: String,
    ty: Type,
    defs: Vec<(OpId, usize)>,
}

/// A model as a graph.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Sizes and limits.
    pub header: Header,
    dag: StableDiGraph<OpData, (ValueId, usize)>,
    order: Order,
    values: Vec<ValueData>,
    names: HashMap<String, ValueId>,
    /// Uses that had no producer when they were met, and so no edge. An entry may have become stale.
    early: HashMap<ValueId, Vec<(NodeIndex, usize)>>,
}

impl Graph {
    /// An empty graph.
    pub fn new(header: Header) -> Graph {
        Graph {
            header,
            dag: StableDiGraph::new(),
            order: Order::default(),
            values: Vec::new(),
            names: HashMap::new(),
            early: HashMap::new(),
        }
    }

    /// Ops in execution order.
    pub fn ops(&self) -> impl DoubleEndedIterator<Item = OpId> + '_ {
        self.order.iter().map(OpId)
    }

    /// Number of ops.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no op.
    pub fn is_empty(&self) -> bool {
        self.order.len() == 0
    }

    /// An op's data. Panics on an op that was removed.
    pub fn op(&self, id: OpId) -> &OpData {
        &self.dag[NodeIndex::new(id.0 as usize)]
    }

    /// A value's type.
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.values[value.index()].ty
    }

    /// Changes a value's type (`plan-kv` turns growing into ring).
    pub fn set_ty(&mut self, value: ValueId, ty: Type) {
        self.values[value.index()].ty = ty;
    }

    /// A value's name, without its sigil.
    pub fn name(&self, value: ValueId) -> &str {
        &self.values[value.index()].name
    }

    /// All values that were ever made, dead ones included.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// The value of that name.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// Producers of a value as (op, result index): one in a valid graph.
    pub fn defs(&self, value: ValueId) -> &[(OpId, usize)] {
        &self.values[value.index()].defs
    }

    /// The one producer of a value; `None` where there is none or several.
    pub fn def(&self, value: ValueId) -> Option<OpId> {
        match self.defs(value) {
            [(op, _)] => Some(*op),
            _ => None,
        }
    }

    /// The op that makes a value, with its data.
    pub fn def_op(&self, value: ValueId) -> Option<(OpId, &OpData)> {
        self.def(value).map(|id| (id, self.op(id)))
    }

    /// Uses of a value as (op, operand index), in execution order. Where a pass asks this of every layer and all layers
    /// may use one value, [`Graph::users`] is what keeps its time linear.
    pub fn uses(&self, value: ValueId) -> Vec<(OpId, usize)> {
        let mut uses: Vec<(OpId, usize)> = self.users(value).collect();
        if uses.len() > 1 {
            uses.sort_unstable_by_key(|(id, i)| (self.order.place(id.0), *i));
            uses.dedup();
        }
        uses
    }

    /// The same in no order; of a value without a producer some may come twice.
    pub fn users(&self, value: ValueId) -> impl Iterator<Item = (OpId, usize)> + '_ {
        let def = self.defs(value).first().map(|(def, _)| NodeIndex::new(def.0 as usize));
        let edges = def.map(|def| self.dag.edges_directed(def, Direction::Outgoing));
        let edges = edges.into_iter().flatten().filter(move |edge| edge.weight().0 == value);
        let early = def.is_none().then(|| self.early_uses(value)).into_iter().flatten();
        let uses = edges.map(|edge| (edge.target(), edge.weight().1)).chain(early);
        uses.map(|(node, i)| (OpId(node.index() as u32), i))
    }

    /// The one use of a value; `None` where there is none or several. Takes no longer where there are many.
    pub fn sole_use(&self, value: ValueId) -> Option<(OpId, usize)> {
        let Some((def, _)) = self.defs(value).first() else {
            return match self.uses(value)[..] {
                [one] => Some(one),
                _ => None,
            };
        };
        let edges = self.dag.edges_directed(NodeIndex::new(def.0 as usize), Direction::Outgoing);
        let mut uses = edges.filter(|edge| edge.weight().0 == value);
        let edge = uses.next()?;
        uses.next().is_none().then(|| (OpId(edge.target().index() as u32), edge.weight().1))
    }

    /// Place of an op in the execution order, to compare with another's.
    pub fn place(&self, id: OpId) -> Place {
        self.order.place(id.0)
    }

    /// The op that runs after `id`.
    pub fn next(&self, id: OpId) -> Option<OpId> {
        self.order.after(id.0).map(OpId)
    }

    /// A new value without a producer; `hint` is made unique by a number where it is taken.
    pub fn new_value(&mut self, hint: &str, ty: Type) -> ValueId {
        let mut name = hint.to_string();
        let mut n = 1;
        while self.names.contains_key(&name) {
            name = format!("{hint}_{n}");
            n += 1;
        }
        let id = ValueId(self.values.len() as u32);
        self.names.insert(name.clone(), id);
        self.values.push(ValueData { name, ty, defs: Vec::new() });
        id
    }

    /// Appends an op; its results must be values made by [`new_value`](Graph::new_value).
    pub fn push(&mut self, data: OpData) -> OpId {
        self.insert(None, data)
    }

    /// Inserts an op before another one, or at the end.
    pub fn insert(&mut self, before: Option<OpId>, data: OpData) -> OpId {
        let results = data.results.clone();
        let node = self.dag.add_node(data);
        let id = OpId(node.index() as u32);
        self.order.insert(before.map(|op| op.0), id.0);
        for (i, result) in results.into_iter().enumerate() {
            let first = self.values[result.index()].defs.is_empty();
            self.values[result.index()].defs.push((id, i));
            if first {
                self.link_early_uses(result, node);
            }
        }
        self.link_operands(node);
        id
    }

    /// Uses of a value without a producer; some may be named twice.
    fn early_uses(&self, value: ValueId) -> impl Iterator<Item = (NodeIndex, usize)> + '_ {
        let noted = self.early.get(&value).into_iter().flatten().copied();
        noted.filter(move |(node, i)| {
            self.dag.node_weight(*node).is_some_and(|data| data.operands.get(*i) == Some(&value))
        })
    }

    /// Uses that stand before their producer (in text, or while a pass rewrites) get their edges now.
    fn link_early_uses(&mut self, value: ValueId, def: NodeIndex) {
        let mut early: Vec<(NodeIndex, usize)> = self.early_uses(value).collect();
        self.early.remove(&value);
        early.sort_unstable();
        early.dedup();
        for (node, i) in early.into_iter().filter(|(node, _)| *node != def) {
            self.dag.add_edge(def, node, (value, i));
        }
    }

    fn link_operands(&mut self, node: NodeIndex) {
        for (i, operand) in self.dag[node].operands.clone().into_iter().enumerate() {
            match self.values[operand.index()].defs.first() {
                Some((def, _)) => {
                    self.dag.add_edge(NodeIndex::new(def.0 as usize), node, (operand, i));
                }
                None => self.early.entry(operand).or_default().push((node, i)),
            }
        }
    }

    /// Removes an op; its results keep existing without a producer.
    pub fn remove(&mut self, id: OpId) {
        self.order.remove(id.0);
        let node = NodeIndex::new(id.0 as usize);
        for edge in self.dag.edges_directed(node, Direction::Outgoing) {
            let (value, i) = *edge.weight();
            self.early.entry(value).or_default().push((edge.target(), i));
        }
        for value in self.dag.remove_node(node).into_iter().flat_map(|data| data.results) {
            self.values[value.index()].defs.retain(|(op, _)| *op != id);
        }
    }

    /// Replaces an op's kind and operands in place; its results and layer stay.
    pub fn rewrite(&mut self, id: OpId, op: Op, operands: Vec<ValueId>) {
        let node = NodeIndex::new(id.0 as usize);
        let incoming: Vec<_> =
            self.dag.edges_directed(node, Direction::Incoming).map(|edge| edge.id()).collect();
        for edge in incoming {
            self.dag.remove_edge(edge);
        }
        self.dag[node].op = op;
        self.dag[node].operands = operands;
        self.link_operands(node);
    }

    /// Makes every use of `old` a use of `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for (user, i) in self.uses(old) {
            let data = self.op(user);
            let (op, mut operands) = (data.op, data.operands.clone());
            operands[i] = new;
            self.rewrite(user, op, operands);
        }
    }

    /// Says which chain an op belongs to.
    pub fn set_chain(&mut self, id: OpId, chain: Option<u32>) {
        self.dag[NodeIndex::new(id.0 as usize)].chain = chain;
    }
}

/// Two graphs are equal when their text forms are: same header, ops in order, names and types.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        let op = |graph: &Graph, id: OpId| {
            let data = graph.op(id);
            let names = |values: &[ValueId]| -> Vec<(String, Type)> {
                values.iter().map(|v| (graph.name(*v).to_string(), graph.ty(*v).clone())).collect()
            };
            (data.op, names(&data.operands), names(&data.results), data.layer, data.chain)
        };
        self.header == other.header
            && self.len() == other.len()
            && self.ops().zip(other.ops()).all(|(a, b)| op(self, a) == op(other, b))
    }
}
