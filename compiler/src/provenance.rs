//! What `hyc inspect MODEL provenance` says: why each selection may be read where it is read, and each cache; which caches
//! are aliases, and the bytes that this saves. The rules are checked anew, on the graph in the artefact.

use std::collections::BTreeMap;

use hyc_ir::text::Layers;
use hyc_ir::verify::{SelectionRead, selection_reads, verify};
use hyc_ir::{Graph, Op, OpId, Type, ValueId};
use hyc_plan::{Cache, CachePolicy, Plan};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::report::bytes;
use crate::words::{listed, shortened};

/// A rule that holds, and what shows it.
type Held = (&'static str, String);

/// All reads of one selection over one cache.
struct Selection {
    name: String,
    readers: Vec<u32>,
    held: Vec<Held>,
}

/// Errors: the graph breaks a rule.
pub fn check(graph: &Graph) -> Result<()> {
    verify(graph).map_err(|violations| {
        let list: Vec<String> = violations.iter().map(|v| shortened(&v.to_string()).into_owned()).collect();
        Error::input(format!("the graph in this artefact is not valid:\n  {}", listed(&list, "\n  ")))
            .help("compile the model again")
    })
}

fn told(graph: &Graph, id: OpId) -> String {
    let data = graph.op(id);
    let layer = data.layer.map(|layer| format!(" of layer {layer}")).unwrap_or_default();
    format!("{}{layer}", data.op.name())
}

fn selections(graph: &Graph) -> Vec<Selection> {
    let place: BTreeMap<OpId, usize> = graph.ops().enumerate().map(|(place, id)| (id, place)).collect();
    let mut all: Vec<((ValueId, ValueId), Selection)> = Vec::new();
    // Page lists are a form of the selection, for its readers.
    let lists = |read: &SelectionRead| matches!(graph.op(read.reader).op, Op::PageLists(_));
    for read in selection_reads(graph).into_iter().filter(|read| !lists(read)) {
        let key = (read.selection, read.cache);
        // Readers of a chain stand behind each other, each with its own cache or all with the oracle's.
        if all.last().is_none_or(|(last, _)| *last != key) {
            let name = graph.name(read.selection).to_string();
            all.push((key, Selection { name, readers: Vec::new(), held: held(graph, &place, &read) }));
        }
        if let Some((_, selection)) = all.last_mut() {
            selection.readers.extend(graph.op(read.reader).layer);
        }
    }
    all.into_iter().map(|(_, selection)| selection).collect()
}

/// The rules of a read, each with its facts.
fn held(graph: &Graph, place: &BTreeMap<OpId, usize>, read: &SelectionRead) -> Vec<Held> {
    let (maker, reader) = (told(graph, read.maker), told(graph, read.reader));
    let (from, to) = (place[&read.maker], place[&read.reader]);
    let over = format!("%{}", graph.name(read.over));
    let mut held = vec![
        ("selection-producer", format!("{maker} ranks the blocks of {over}")),
        ("selection-two-producers", "nothing else makes it".to_string()),
        ("selection-dominance", format!("it is op {from}, before the first read in op {to}, {reader}")),
        ("selection-step", "it runs in the same pass".to_string()),
    ];
    if let (Type::Selection(selection), Type::Cache(cache)) = (graph.ty(read.selection), graph.ty(read.cache))
    {
        let (map, block, heads) = (&selection.map, selection.shape.block, selection.shape.kv_heads);
        held.push((
            "selection-map",
            format!("both name pages by the map `{map}`, the cache by `{}`", cache.map),
        ));
        held.push(("selection-block", format!("a block of {block} tokens is a page of {}", cache.page)));
        held.push((
            "selection-heads",
            format!("lists for {heads} KV heads, of {} in the cache", cache.kv_heads),
        ));
    }
    let read_over = format!("%{}", graph.name(read.cache));
    held.push(match read.over == read.cache {
        true => ("selection-cache", format!("{read_over} is read, which it was ranked over")),
        false => {
            ("selection-cache", format!("{read_over} is read, the layer's own; it was ranked over {over}"))
        }
    });
    held
}

/// A cache's other readers, which have no cache of their own for it.
fn aliases(cache: &Cache) -> Vec<u32> {
    cache.readers.iter().copied().filter(|reader| *reader != cache.owner).collect()
}

/// Bytes of one sequence of that many tokens, where the cache grows.
fn grown(cache: &Cache, tokens: u64) -> u64 {
    cache.page_bytes().saturating_mul(tokens.div_ceil(cache.page.max(1)))
}

/// Bytes that a cache saves in one sequence of the most tokens: copies that its readers do not have, and what a ring does
/// not keep.
fn saved(cache: &Cache, tokens: u64) -> (u64, u64) {
    let copies = grown(cache, tokens).saturating_mul(aliases(cache).len() as u64);
    let ring = match cache.policy {
        CachePolicy::Growing => 0,
        CachePolicy::Ring { pages, .. } => {
            grown(cache, tokens).saturating_sub(cache.page_bytes().saturating_mul(pages))
        }
    };
    (copies, ring)
}

fn cache_held(cache: &Cache) -> Vec<Held> {
    let layer = cache.owner;
    let ring = match cache.policy {
        CachePolicy::Growing => "it keeps every token".to_string(),
        CachePolicy::Ring { window, .. } => format!("only windows of at most {window} tokens read it"),
    };
    let readers = Layers::of(cache.readers.iter().copied());
    let readers = readers.map_or("nobody".to_string(), |layers| layers.named());
    vec![
        ("cache-version", format!("layer {layer} alone appends, once a pass")),
        ("ring-window", ring),
        ("alias-before-append", format!("read by {readers} behind that append")),
    ]
}

/// Caches that are alike but for their owners: those that others read by themselves.
fn groups(plan: &Plan) -> Vec<(Vec<&Cache>, Vec<Held>)> {
    let mut groups: Vec<(Vec<&Cache>, Vec<Held>)> = Vec::new();
    let mut rings: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for cache in &plan.caches {
        let alone = aliases(cache).is_empty();
        let key = match cache.policy {
            CachePolicy::Ring { window, .. } if alone => Some((window, cache.page_bytes())),
            _ => None,
        };
        match key.and_then(|key| rings.get(&key)) {
            Some(at) => groups[*at].0.push(cache),
            None => {
                rings.extend(key.map(|key| (key, groups.len())));
                groups.push((vec![cache], cache_held(cache)));
            }
        }
    }
    groups
}

/// For people.
pub fn text(plan: &Plan, graph: &Graph) -> String {
    let mut out = String::new();
    let held = |out: &mut String, held: &[Held]| {
        held.iter().for_each(|(rule, fact)| out.push_str(&format!("  {rule:24} {fact}\n")));
    };
    for selection in selections(graph) {
        let readers = Layers::of(selection.readers.iter().copied());
        let readers = readers.map_or("no layer".to_string(), |layers| layers.named());
        out.push_str(&format!("selection %{}, read by {readers}\n", selection.name));
        held(&mut out, &selection.held);
        out.push('\n');
    }
    let most = plan.model.max_context;
    for (caches, facts) in groups(plan) {
        let owners = Layers::of(caches.iter().map(|cache| cache.owner));
        let owners = owners.map(|layers| layers.named()).unwrap_or_default();
        out.push_str(&format!("cache {}, of {owners}\n", caches[0].name));
        match &caches[..] {
            [_] => held(&mut out, &facts),
            _ => held(&mut out, &facts[1..2]),
        }
        let saved: (u64, u64) = caches.iter().fold((0, 0), |sum: (u64, u64), cache| {
            let (copies, ring) = saved(cache, most);
            (sum.0.saturating_add(copies), sum.1.saturating_add(ring))
        });
        if let Some(layers) = Layers::of(aliases(caches[0])) {
            let copies = bytes(saved.0);
            out.push_str(&format!(
                "  {:24} {} read it and have no copy: {copies} less\n",
                "plan-kv, alias",
                layers.named()
            ));
        }
        if saved.1 > 0 {
            out.push_str(&format!("  {:24} {} less than all tokens\n", "plan-kv, ring", bytes(saved.1)));
        }
        out.push('\n');
    }
    let (copies, rings) = total(plan);
    out.push_str(&format!(
        "in one sequence of {most} tokens aliases save {}, rings {}\n",
        bytes(copies),
        bytes(rings)
    ));
    out
}

fn total(plan: &Plan) -> (u64, u64) {
    let each = plan.caches.iter().map(|cache| saved(cache, plan.model.max_context));
    each.fold((0, 0), |sum, one| (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1)))
}

/// For programs.
pub fn json(plan: &Plan, graph: &Graph) -> Value {
    let held = |held: &[Held]| -> Value {
        held.iter().map(|(rule, fact)| json!({ "rule": rule, "fact": fact })).collect()
    };
    let selection = |s: &Selection| json!({ "name": s.name, "readers": s.readers, "held": held(&s.held) });
    let cache = |cache: &Cache| {
        let (copies, ring) = saved(cache, plan.model.max_context);
        json!({
            "name": cache.name, "owner": cache.owner, "aliased_by": aliases(cache), "held": held(&cache_held(cache)),
            "saved_by_aliases": copies, "saved_by_ring": ring,
        })
    };
    let (copies, rings) = total(plan);
    json!({
        "selections": selections(graph).iter().map(selection).collect::<Vec<_>>(),
        "caches": plan.caches.iter().map(cache).collect::<Vec<_>>(),
        "max_context": plan.model.max_context, "saved_by_aliases": copies, "saved_by_rings": rings,
    })
}
