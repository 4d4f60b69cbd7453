//! What several parts of the page ask of a model, found once.

use std::collections::{HashMap, HashSet};

use hyc_ir::{Graph, OpId, ValueId};
use hyc_plan::{Operand, Plan};

use super::line::{is_weight, names_weight};
use super::lineage::{Lineage, steps};
use super::shape::{Role, Template, templates};
use super::subject::Subject;

/// A subject with what follows from it.
pub struct Facts<'s> {
    /// The model.
    pub subject: &'s Subject,
    /// The graph that was scheduled.
    pub graph: &'s Graph,
    /// Its plan.
    pub plan: &'s Plan,
    /// Its ops, those that only name weights left out.
    pub ops: u64,
    /// Layers of one shape.
    pub templates: Vec<Template>,
    /// The step of an op.
    pub steps: HashMap<OpId, usize>,
    /// What ops were made of.
    pub lineage: Lineage,
    /// The ops of each layer in execution order, those that only name weights left out.
    pub by_layer: HashMap<u32, Vec<OpId>>,
    /// First and last step that touch each buffer.
    pub lives: Vec<Option<(usize, usize)>>,
    roles: HashMap<u32, Role>,
    weights: HashMap<&'s str, u64>,
    carded: Option<HashSet<OpId>>,
}

/// Ops that all have cards: of more, those alone that stand in a template.
const MOST_CARDS: usize = 4000;

impl<'s> Facts<'s> {
    /// Looks at a subject.
    pub fn new(subject: &'s Subject) -> Facts<'s> {
        let (graph, plan) = (subject.graph(), &subject.plan);
        let templates = templates(graph);
        let roles = templates.iter().flat_map(|t| t.layers.iter().map(|layer| (*layer, t.role))).collect();
        let weights = plan.weights.iter().map(|weight| (weight.name.as_str(), weight.bytes())).collect();
        let shown = templates.iter().flat_map(|template| template.ops.iter().copied());
        let carded = (graph.len() > MOST_CARDS).then(|| shown.collect());
        Facts {
            subject,
            graph,
            plan,
            ops: graph.ops().filter(|id| !names_weight(graph, *id)).count() as u64,
            templates,
            steps: steps(graph, plan),
            lineage: Lineage::new(&subject.stages),
            by_layer: by_layer(graph),
            lives: lives(plan),
            roles,
            weights,
            carded,
        }
    }

    /// What a layer does.
    pub fn role(&self, layer: u32) -> Role {
        self.roles.get(&layer).copied().unwrap_or(Role::Plain)
    }

    /// Bytes of a weight as the plan stores it.
    pub fn weight_bytes(&self, name: &str) -> Option<u64> {
        self.weights.get(name).copied()
    }

    /// Bytes of the weights that a layer's ops read.
    pub fn layer_bytes(&self, layer: u32) -> u64 {
        let ops = self.by_layer.get(&layer).into_iter().flatten();
        let operands = ops.flat_map(|id| self.graph.op(*id).operands.iter());
        let weights = operands.filter(|value| is_weight(self.graph, **value));
        weights.filter_map(|value| self.weight_bytes(self.graph.name(*value))).sum()
    }

    /// Whether the page has a card of every op.
    pub fn has_all_cards(&self) -> bool {
        self.carded.is_none()
    }

    /// Whether the page has a card of this op.
    pub fn has_card(&self, id: OpId) -> bool {
        let shown = self.carded.as_ref().is_none_or(|carded| carded.contains(&id));
        shown && !names_weight(self.graph, id)
    }

    /// Contexts that decode steps are costed at: 32k, and the longest that the plan allows.
    pub fn contexts(&self) -> Vec<u64> {
        let most = self.plan.model.max_context;
        let mut contexts = vec![most.min(32 << 10), most];
        contexts.dedup();
        contexts
    }
}

/// The first value that an op makes; an output makes none, and is known by what it takes.
pub fn key(graph: &Graph, id: OpId) -> Option<ValueId> {
    let data = graph.op(id);
    data.results.first().or(data.operands.first()).copied()
}

/// The id of an op's card.
pub fn card_id(graph: &Graph, id: OpId) -> String {
    let name = key(graph, id).map(|value| graph.name(value)).unwrap_or_default();
    let kind = if graph.op(id).results.is_empty() { "end" } else { "op" };
    format!("{kind}.{}", super::html::slug(name))
}

fn by_layer(graph: &Graph) -> HashMap<u32, Vec<OpId>> {
    let mut layers: HashMap<u32, Vec<OpId>> = HashMap::new();
    for id in graph.ops().filter(|id| !names_weight(graph, *id)) {
        if let Some(layer) = graph.op(id).layer {
            layers.entry(layer).or_default().push(id);
        }
    }
    layers
}

fn lives(plan: &Plan) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        for operand in &step.operands {
            if let Operand::Buffer(id) = operand {
                let life = lives[id.index()].get_or_insert((at, at));
                life.1 = at;
            }
        }
    }
    lives
}

/// `1-3, 7`.
pub fn ranges(layers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for layer in layers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *layer => *end = *layer,
            _ => parts.push((*layer, *layer)),
        }
    }
    let one = |(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}–{b}") };
    parts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `Layer 48`, `Layers 1-3, 7`.
pub fn numbered(layers: &[u32]) -> String {
    format!("Layer{} {}", if layers.len() == 1 { "" } else { "s" }, ranges(layers))
}

/// `1447` as `1,447`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of tokens: `32768` as `32k`, `1048576` as `1M`.
pub fn tokens(n: u64) -> String {
    match n {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{}M", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{}k", n >> 10),
        n => thousands(n),
    }
}
