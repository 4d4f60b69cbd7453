//! The graph: ops in execution order, SSA values between them.
//!
//! petgraph holds the def-use edges and stays private. A `Graph` may be *invalid* (a value without a
//! producer, or with two): the parser accepts such text, and the verifier says what is wrong with it.

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::op::Op;
use crate::types::Type;

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
    /// Most tokens of a sequence.
    pub max_context: u64,
    /// Most sequences in a step.
    pub max_batch: u64,
    /// Most tokens in a step.
    pub chunk: u64,
    /// Most rows of logits in a step.
    pub max_outputs: u64,
    /// Target kind, `cpu` or `sm_90a`.
    pub target: String,
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
    order: Vec<OpId>,
    values: Vec<ValueData>,
    names: std::collections::HashMap<String, ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(header: Header) -> Graph {
        Graph {
            header,
            dag: StableDiGraph::new(),
            order: Vec::new(),
            values: Vec::new(),
            names: std::collections::HashMap::new(),
        }
    }

    /// Ops in execution order.
    pub fn ops(&self) -> impl DoubleEndedIterator<Item = OpId> + '_ {
        self.order.iter().copied()
    }

    /// Number of ops.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no op.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
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

    /// Uses of a value as (op, operand index), in execution order.
    pub fn uses(&self, value: ValueId) -> Vec<(OpId, usize)> {
        let mut uses: Vec<(OpId, usize)> = match self.defs(value).first() {
            Some((def, _)) => self
                .dag
                .edges_directed(NodeIndex::new(def.0 as usize), Direction::Outgoing)
                .filter(|edge| edge.weight().0 == value)
                .map(|edge| (OpId(edge.target().index() as u32), edge.weight().1))
                .collect(),
            // A value without a producer has no edges; it is met in invalid graphs alone.
            None => self
                .ops()
                .flat_map(|id| self.op(id).operands.iter().enumerate().map(move |(i, v)| (id, i, *v)))
                .filter(|(_, _, v)| *v == value)
                .map(|(id, i, _)| (id, i))
                .collect(),
        };
        if uses.len() > 1 {
            let place: std::collections::HashMap<OpId, usize> =
                self.order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
            uses.sort_by_key(|(id, i)| (place[id], *i));
        }
        uses
    }

    /// The one use of a value; `None` where there is none or several.
    pub fn sole_use(&self, value: ValueId) -> Option<(OpId, usize)> {
        match self.uses(value)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Place of an op in the execution order.
    pub fn position(&self, id: OpId) -> usize {
        self.order.iter().position(|other| *other == id).expect("a live op")
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
        self.insert(self.order.len(), data)
    }

    /// Inserts an op at a place of the execution order.
    pub fn insert(&mut self, place: usize, data: OpData) -> OpId {
        let results = data.results.clone();
        let node = self.dag.add_node(data);
        let id = OpId(node.index() as u32);
        self.order.insert(place, id);
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

    /// Uses that stand before their producer (in text, or while a pass rewrites) get their edges now.
    fn link_early_uses(&mut self, value: ValueId, def: NodeIndex) {
        let early: Vec<(NodeIndex, usize)> = self
            .dag
            .node_indices()
            .flat_map(|node| {
                self.dag[node]
                    .operands
                    .iter()
                    .enumerate()
                    .filter(|(_, v)| **v == value)
                    .map(move |(i, _)| (node, i))
            })
            .collect();
        for (node, i) in early.into_iter().filter(|(node, _)| *node != def) {
            self.dag.add_edge(def, node, (value, i));
        }
    }

    fn link_operands(&mut self, node: NodeIndex) {
        for (i, operand) in self.dag[node].operands.clone().into_iter().enumerate() {
            if let Some((def, _)) = self.values[operand.index()].defs.first() {
                self.dag.add_edge(NodeIndex::new(def.0 as usize), node, (operand, i));
            }
        }
    }

    /// Removes an op; its results keep existing without a producer.
    pub fn remove(&mut self, id: OpId) {
        self.order.retain(|other| *other != id);
        for value in &mut self.values {
            value.defs.retain(|(op, _)| *op != id);
        }
        self.dag.remove_node(NodeIndex::new(id.0 as usize));
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
            let (op, mut operands) = (data.op.clone(), data.operands.clone());
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
            (data.op.clone(), names(&data.operands), names(&data.results), data.layer, data.chain)
        };
        self.header == other.header
            && self.len() == other.len()
            && self.ops().zip(other.ops()).all(|(a, b)| op(self, a) == op(other, b))
    }
}
