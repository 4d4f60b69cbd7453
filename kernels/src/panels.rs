//! The layouts of kernels that read weights in panels: a processor's, and a GPU's without tensor cores.

use hyc_plan::{Kind, Layout};

/// The layout of a weight of this kind; `None` where it is no weight's, or a matrix of features that nobody counts.
pub fn panels(kind: &Kind) -> Option<Layout> {
    match *kind {
        Kind::Vector(len) => Some(Layout::Vector { len }),
        Kind::Table { rows, cols } => Some(Layout::Rows { rows, cols }),
        Kind::Matrices { count, out_features: out, in_features, group } => {
            let out = out?;
            Some(Layout::Panels { count, out_features: out, in_features, group: group.unwrap_or(out) })
        }
        Kind::Rows(_)
        | Kind::RowsOrTiles(_)
        | Kind::TokenRows(_)
        | Kind::Token
        | Kind::Experts { .. }
        | Kind::Selection { .. }
        | Kind::PageLists { .. }
        | Kind::Cache { .. } => None,
    }
}
