//! Ops whose description is wrong: what an op says of its operands and results is all that provenance goes by, and no
//! wrong word of it passes.

use super::{Violation, verify_as};
use crate::graph::Graph;
use crate::op::Op;
use crate::roles::{Gives, Over, Roles, Takes, Version};
use crate::text;
use hyc_plan::Reach;

/// A selection made by one op, by ranked scores, and in a copy of the oracle's cache.
fn graph() -> Graph {
    text::parse(
        "graph \"t\" {
  layers = 2, hidden = 16, vocab = 32, max_context = 256, max_batch = 2, chunk = 16, max_outputs = 2, target = cpu
}
@embed = weight() : weight<32 x 16 x f32>
%x = embed(table=@embed) : tensor<tokens x 16 x f32>
%c = cache() {owner = 0} layer 0 : cache<1 x 16+16 x f32, page 8, growing, map pages>
%kv = append(cache=%c, k=%x, v=%x) layer 0 : cache<1 x 16+16 x f32, page 8, growing, map pages>
%o, %p = attention(q=%x, cache=%kv) {heads = 1, scores = true} layer 0 : tensor<tokens x 16 x f32>, tensor<tokens x 1 x context x f32>
%b = block_max(scores=%p) {block = 8} layer 0 : tensor<tokens x 1 x context/8 x f32>
%g = group_max(scores=%b) {kv_heads = 1} layer 0 : tensor<tokens x 1 x context/8 x f32>
%ranked = topk(scores=%g) {blocks = 2} layer 0 : selection<1 x 2, block 8, map pages>
%o2, %sel = oracle_attention(q=%x, cache=%kv) {heads = 1, blocks = 2} layer 0 : tensor<tokens x 16 x f32>, selection<1 x 2, block 8, map pages>
%copy = kv_share(cache=%kv) layer 1 : cache<1 x 16+16 x f32, page 8, growing, map pages>
%s = sparse_attention(q=%x, cache=%kv, sel=%sel) {heads = 1} layer 1 : tensor<tokens x 16 x f32>
%t = sparse_attention(q=%s, cache=%copy, sel=%ranked) {heads = 1} layer 1 : tensor<tokens x 16 x f32>
%last = gather_rows(x=%t) : tensor<outputs x 16 x f32>
%logits = linear(x=%last, weight=@embed) : tensor<outputs x 32 x f32>
output(logits=%logits)
",
    )
    .unwrap_or_else(|errors| panic!("{}", errors[0]))
}

/// The ops' own descriptions, but one: `change` makes it wrong.
fn described(op: &str, change: impl Fn(&mut Roles)) -> Result<(), Vec<Violation>> {
    verify_as(&graph(), &|of: &Op| {
        let mut roles = of.roles();
        if of.name() == op {
            change(&mut roles);
        }
        roles
    })
}

fn refused(op: &str, rule: &str, change: impl Fn(&mut Roles)) {
    let violations = described(op, change).expect_err(rule);
    assert!(violations.iter().any(|v| v.rule == rule), "{op}, {rule}: {violations:?}");
}

fn takes(roles: &mut Roles, name: &str, kind: Takes) {
    let at = roles.takes.position(name).unwrap();
    roles.takes[at].kind = kind;
}

fn gives(roles: &mut Roles, name: &str, kind: Gives) {
    let at = roles.gives.position(name).unwrap();
    roles.gives[at].kind = kind;
}

/// An op that reads a selection, or a cache that is another layer's, and does not say so.
#[test]
fn nothing_is_read_unseen() {
    assert_eq!(described("add", |_| {}), Ok(()));
    for kind in [Takes::Tensor, Takes::Weight, Takes::Scores, Takes::Append, Takes::Cache(Reach::Context)] {
        refused("sparse_attention", "type", |roles| takes(roles, "sel", kind));
    }
    for kind in [Takes::Tensor, Takes::Weight, Takes::Selection { over: "cache" }] {
        refused("sparse_attention", "type", |roles| takes(roles, "cache", kind));
        refused("kv_share", "type", |roles| takes(roles, "cache", kind));
        refused("append", "type", |roles| takes(roles, "cache", kind));
    }
    // Who appends says what comes of it, and who says what comes of an append appends.
    refused("attention", "roles", |roles| takes(roles, "cache", Takes::Append));
    refused("append", "roles", |roles| takes(roles, "cache", Takes::Cache(Reach::Context)));
    refused("append", "roles", |roles| gives(roles, "cache", Gives::Cache(Version::CopyOf("cache"))));
    refused("append", "roles", |roles| gives(roles, "cache", Gives::Cache(Version::After("k"))));
    refused("append", "roles", |roles| gives(roles, "cache", Gives::Cache(Version::State)));
}

#[test]
fn selections_are_read_over_the_cache_that_they_were_ranked_over() {
    for over in ["q", "nothing", "sel"] {
        refused("sparse_attention", "roles", |roles| takes(roles, "sel", Takes::Selection { over }));
        refused("oracle_attention", "roles", |roles| {
            gives(roles, "sel", Gives::Selection(Over::Cache(over)));
        });
        refused("attention", "roles", |roles| gives(roles, "scores", Gives::Scores(Over::Cache(over))));
        refused("topk", "roles", |roles| gives(roles, "sel", Gives::Selection(Over::Scores(over))));
        refused("kv_share", "roles", |roles| gives(roles, "cache", Gives::Cache(Version::CopyOf(over))));
    }
    for over in [Over::EarlierStep, Over::Scores("cache")] {
        let rule = if over == Over::EarlierStep { "selection-step" } else { "roles" };
        refused("oracle_attention", rule, |roles| gives(roles, "sel", Gives::Selection(over)));
    }
    // Scores that are of nothing, at every place on the way to the ranking.
    for op in ["attention", "block_max", "group_max"] {
        refused(op, "selection-producer", |roles| gives(roles, "scores", Gives::Tensor));
        refused(op, "selection-step", |roles| gives(roles, "scores", Gives::Scores(Over::EarlierStep)));
    }
    // A copy that does not say of what.
    refused("kv_share", "selection-cache", |roles| gives(roles, "cache", Gives::Cache(Version::State)));
}

#[test]
fn every_operand_and_result_is_described() {
    for id in graph().ops().collect::<Vec<_>>() {
        let op = graph().op(id).op;
        let roles = op.roles();
        for at in 0..roles.takes.len() {
            for kind in [Takes::Tensor, Takes::Weight, Takes::Append, Takes::Selection { over: "cache" }] {
                let same = matches!(
                    (roles.takes[at].kind, kind),
                    (Takes::Tensor | Takes::Experts, Takes::Tensor)
                        | (Takes::Weight, Takes::Weight)
                        | (Takes::Append, Takes::Append)
                        | (Takes::Selection { .. }, Takes::Selection { .. })
                );
                let change = |roles: &mut Roles| roles.takes[at].kind = kind;
                assert_eq!(described(op.name(), change).is_ok(), same, "{op:?}: operand {at} as {kind:?}");
            }
        }
        for at in 0..roles.gives.len() {
            let change = |roles: &mut Roles| {
                roles.gives[at].kind = match roles.gives[at].kind {
                    Gives::Weight => Gives::Tensor,
                    _ => Gives::Weight,
                };
            };
            assert!(described(op.name(), change).is_err(), "{op:?}: result {at}");
        }
    }
}
