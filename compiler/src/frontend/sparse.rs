//! `sparse_heads` and its like of `[attention]`: heads of layers that are not full, where they are not those of `[model]`.

use super::attention::Attention;
use super::desc::{AttentionKind, SparseKv};
use super::keys::SPARSE_HEADS;
use super::model::{self, Heads};
use super::reader::{Faults, Section};
use super::rope;

/// Reads them beside the `full` layers' heads. Errors: what a layer cannot have that reads its oracle's keys.
pub fn read(
    a: &Section,
    full: Option<Heads>,
    attention: Option<&Attention>,
    faults: &Faults,
) -> Option<Heads> {
    let (heads, kv_heads) = (a.size("sparse_heads", "64"), a.size("sparse_kv_heads", "8"));
    let (qk, v) = (a.size("sparse_qk_head_dim", "192"), a.size("sparse_v_head_dim", "128"));
    let qk_dim = qk.clone().map(|at| at.value).or(full.map(|full| full.qk_dim));
    let rope = match a.get("sparse_rope") {
        Some(_) => rope::read(a, "sparse_rope", qk_dim, faults),
        None => full.map(|full| full.rope),
    };
    if let Some(attention) = attention {
        check_kinds(a, &attention.kinds);
    }
    let full = full?;
    if let (Some(qk), None) = (&qk, a.get("sparse_rope"))
        && qk.value != full.qk_dim
    {
        faults.add(
            qk.span.clone(),
            "heads of another size do not say how many of their elements turn",
            format!("those of [model] have {}", full.qk_dim),
            &format!("add `sparse_rope = {{ theta = {:?}, dims = ... }}`", full.rope.theta),
        );
    }
    if let Some(at) = kv_heads.as_ref().or(heads.as_ref()) {
        let heads = heads.as_ref().map_or(full.heads, |at| at.value);
        let kv_heads = kv_heads.as_ref().map_or(full.kv_heads, |at| at.value);
        model::share_evenly(heads, kv_heads, at.span.clone(), faults);
    }
    Some(Heads {
        heads: heads.map_or(full.heads, |at| at.value),
        kv_heads: kv_heads.map_or(full.kv_heads, |at| at.value),
        qk_dim: qk_dim?,
        v_dim: v.map_or(full.v_dim, |at| at.value),
        rope: rope?,
    })
}

/// Faults of keys that layers of these kinds cannot have.
fn check_kinds(a: &Section, kinds: &[AttentionKind]) {
    let other = kinds.iter().find(|kind| !matches!(kind, AttentionKind::Full { .. }));
    match other {
        None | Some(AttentionKind::Full { .. }) => {
            SPARSE_HEADS.iter().for_each(|key| a.refuse(key, "every layer is full"));
        }
        Some(AttentionKind::Window { .. }) => {}
        Some(AttentionKind::Sparse { kv, .. }) => {
            a.refuse("sparse_kv_heads", "a sparse layer has as many as its oracle, which selects for each");
            if *kv != SparseKv::Own {
                for key in ["sparse_qk_head_dim", "sparse_v_head_dim", "sparse_rope"] {
                    a.refuse(
                        key,
                        "a sparse layer reads its oracle's keys and values unless `sparse_kv = \"own\"`",
                    );
                }
            }
        }
    }
}
