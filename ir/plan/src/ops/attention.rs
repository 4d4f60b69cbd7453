//! What each attention says of its operands and its sizes.

use super::described::{cache, gate, read, shares_out, sliced_tiles, slices, write};
use super::*;
use crate::roles::{Kind, Reach, Stored};

impl AttnShape {
    fn cache(&self, name: &'static str, reach: Reach) -> Role {
        read(name, cache((self.kv_heads, self.qk_dim, self.v_dim), reach, Stored::Any))
    }

    fn q(&self) -> Role {
        read("q", slices(self.heads, self.qk_dim))
    }

    fn sink(&self, name: &'static str) -> Role {
        read(name, Kind::Vector(self.heads))
    }

    fn out(&self) -> Role {
        write("out", sliced_tiles(self.heads, self.v_dim))
    }

    /// q, the cache, the sink where there is one.
    fn attends(&self, reach: Reach, sink: bool) -> Vec<Role> {
        let mut roles = vec![self.q(), self.cache("cache", reach)];
        roles.extend(sink.then(|| self.sink("sink")));
        roles
    }

    /// The page lists of a selection.
    fn lists(select: SelectShape, lists: Option<ListShape>) -> Option<Role> {
        lists.map(|lists| read("lists", Kind::PageLists { select, lists, of: "sel" }))
    }

    /// The logits of a gate on each head's output.
    fn gate(&self, name: &'static str, mode: GateMode) -> Option<Role> {
        gate(mode, self.heads, self.v_dim, sliced_tiles).map(|kind| read(name, kind))
    }
}

/// A selection of some blocks for each KV head.
fn selects(s: &AttnShape, select: &SelectShape) -> bool {
    shares_out(s) && select.kv_heads == s.kv_heads && select.blocks > 0
}

impl Op for FullAttention {
    const NAME: &'static str = "full_attention";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let mut roles = self.shape.attends(Reach::Context, self.sink);
        roles.push(self.shape.out());
        roles
    }

    fn is_possible(&self) -> bool {
        shares_out(&self.shape)
    }

    fn attention(&self) -> Option<AttnShape> {
        Some(self.shape)
    }
}

impl Op for OracleAttention {
    const NAME: &'static str = "oracle_attention";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let mut roles = self.shape.attends(Reach::Context, self.sink);
        let sel = Kind::Selection { shape: self.select, over: "cache" };
        roles.extend([self.shape.out(), write("sel", sel)]);
        roles
    }

    fn is_possible(&self) -> bool {
        selects(&self.shape, &self.select)
    }

    fn attention(&self) -> Option<AttnShape> {
        Some(self.shape)
    }
}

impl Op for WindowAttention {
    const NAME: &'static str = "window_attention";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let mut roles = self.shape.attends(Reach::Window(self.window), self.sink);
        roles.push(self.shape.out());
        roles
    }

    fn is_possible(&self) -> bool {
        shares_out(&self.shape) && self.window > 0
    }

    fn attention(&self) -> Option<AttnShape> {
        Some(self.shape)
    }
}

impl Op for SparseAttention {
    const NAME: &'static str = "sparse_attention";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let SparseAttention { shape, select, sink, lists } = *self;
        let mut roles = vec![
            shape.q(),
            shape.cache("cache", Reach::Selected("sel")),
            read("sel", Kind::Selection { shape: select, over: "cache" }),
        ];
        roles.extend(sink.then(|| shape.sink("sink")));
        roles.extend(AttnShape::lists(select, lists));
        roles.push(shape.out());
        roles
    }

    fn is_possible(&self) -> bool {
        selects(&self.shape, &self.select) && self.lists.is_none_or(ListShape::is_possible)
    }

    fn attention(&self) -> Option<AttnShape> {
        Some(self.shape)
    }
}

impl Op for HybridAttention {
    const NAME: &'static str = "hybrid_attention";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let HybridAttention { shape, select, window, gate, lists } = *self;
        let mut roles = vec![
            shape.q(),
            shape.cache("shared", Reach::Selected("sel")),
            read("sel", Kind::Selection { shape: select, over: "shared" }),
            shape.sink("sink_select"),
            shape.cache("own", Reach::Window(window)),
            shape.sink("sink_window"),
        ];
        roles.extend(["gate_select", "gate_window"].iter().filter_map(|name| shape.gate(name, gate)));
        roles.extend(AttnShape::lists(select, lists));
        roles.push(shape.out());
        roles
    }

    fn is_possible(&self) -> bool {
        selects(&self.shape, &self.select) && self.window > 0 && self.lists.is_none_or(ListShape::is_possible)
    }

    fn attention(&self) -> Option<AttnShape> {
        Some(self.shape)
    }
}

impl Op for PageLists {
    const NAME: &'static str = "page_lists";
    const BY_TOKEN: bool = true;

    fn roles(&self) -> Vec<Role> {
        let PageLists { select, qk_dim, v_dim, lists } = *self;
        let cache = cache((select.kv_heads, qk_dim, v_dim), Reach::Nothing, Stored::Any);
        vec![
            read("cache", cache),
            read("sel", Kind::Selection { shape: select, over: "cache" }),
            write("lists", Kind::PageLists { select, lists, of: "sel" }),
        ]
    }

    fn is_possible(&self) -> bool {
        self.select.kv_heads > 0 && self.select.blocks > 0 && self.lists.is_possible()
    }
}
