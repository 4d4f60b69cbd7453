//! Ops whose description is wrong: what an op says of its operands is all that the verifier goes by, and no wrong word
//! of it passes.

use super::super::verify_as;
use super::plan;
use crate::*;

/// The plan's own descriptions, but one: `change` makes it wrong.
fn described(op: &str, change: impl Fn(&mut Vec<Role>)) -> Result<(), Vec<PlanError>> {
    verify_as(&plan(), &|of| {
        let mut roles = of.roles();
        if of.name() == op {
            change(&mut roles);
        }
        roles
    })
}

fn refused(op: &str, words: &str, change: impl Fn(&mut Vec<Role>)) {
    let errors = described(op, change).expect_err(words);
    assert!(errors.iter().any(|e| e.to_string().contains(words)), "{op}, {words}: {errors:?}");
}

fn role<'r>(roles: &'r mut [Role], name: &str) -> &'r mut Role {
    roles.iter_mut().find(|role| role.name == name).unwrap()
}

/// An op that reads a selection and says so in another way, or over another operand than its cache.
#[test]
fn selections_are_read_as_they_were_made() {
    assert_eq!(described("sparse_attention", |_| {}), Ok(()));
    for kind in [Kind::Token, Kind::Rows(Some(2)), Kind::Experts { experts: 9, active: 2 }] {
        refused("sparse_attention", "operand `sel`", |roles| role(roles, "sel").kind = kind);
        refused("oracle_attention", "operand `sel`", |roles| role(roles, "sel").kind = kind);
    }
    for over in ["q", "sink", "nothing"] {
        let change = |roles: &mut Vec<Role>| match &mut role(roles, "sel").kind {
            Kind::Selection { over: name, .. } => *name = over,
            kind => panic!("{kind:?}"),
        };
        refused("sparse_attention", "over no cache of its own", change);
        refused("oracle_attention", "does not select the blocks", change);
    }
    // A producer that says nothing of the list that it makes.
    refused("oracle_attention", "operands for", |roles| roles.truncate(3));
    refused("oracle_attention", "reads b3", |roles| role(roles, "sel").access = Access::Read);
}

/// An op that reads a cache and says that it appends, or the other way round.
#[test]
fn caches_have_one_owner_and_readers_behind_it() {
    refused("sparse_attention", "of layer 0", |roles| role(roles, "cache").access = Access::Append);
    refused("oracle_attention", "second time", |roles| role(roles, "cache").access = Access::Append);
    refused("qkv_append", "before its owner", |roles| role(roles, "cache").access = Access::Read);
    refused("qkv_append", "appends to it", |roles| role(roles, "cache").access = Access::Read);
}

/// Every role of every op of the plan: of every other kind, only read, and not there.
#[test]
fn no_wrong_word_passes() {
    let shape = SelectShape { kv_heads: 1, block: 8, blocks: 2 };
    let kinds = |name| {
        [
            Kind::Rows(None),
            Kind::Rows(Some(3)),
            Kind::TokenRows(3),
            Kind::Token,
            Kind::Experts { experts: 4, active: 2 },
            Kind::Selection { shape, over: name },
            Kind::Selection { shape: SelectShape { blocks: 3, ..shape }, over: "cache" },
            Kind::Vector(3),
            Kind::Matrices { count: 2, out_features: Some(16), in_features: 16, group: None },
            Kind::Table { rows: 3, cols: 16 },
            Kind::Cache { kv_heads: 2, qk_dim: 8, v_dim: 8, reach: Reach::Context, stored: Stored::Any },
        ]
    };
    let valid = plan();
    for step in &valid.steps {
        for (at, role) in step.op.roles().iter().enumerate() {
            let name = step.op.name();
            for kind in kinds(role.name).into_iter().filter(|kind| *kind != role.kind) {
                assert!(
                    described(name, |roles| roles[at].kind = kind).is_err(),
                    "{name}: {role:?} as {kind:?}"
                );
            }
            // Who says that it only reads what it makes leaves its readers without a producer.
            let unread = matches!(step.operands[at], Operand::Buffer(id) if id == BufferId(2));
            if role.writes() && !unread {
                let change = |roles: &mut Vec<Role>| roles[at].access = Access::Read;
                assert!(described(name, change).is_err(), "{name}: {role:?} as read");
            }
            let without = |roles: &mut Vec<Role>| {
                roles.remove(at);
            };
            assert!(described(name, without).is_err(), "{name} without {role:?}");
        }
    }
}
