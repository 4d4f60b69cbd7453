// The `hysparse` dialect: a graph of hyc-ir as MLIR verifies it. The ops and their meaning are those of
// ir/graph/src/op.rs. A constraint that is named twice in an op wants one and the same type or attribute at both
// places: so `add` takes equal shapes, and a selection is read over the page map, block size and KV heads of
// its cache. Tensors have an encoding that names their symbolic dimensions. Attributes that may be absent are
// not declared here: IRDL has no optional ones. Types stand in a module of their own, since symbols of types and
// ops would clash there (`weight`, `cache`).
module @types {
irdl.dialect @hysparse {
  // A cache keeps every token, or the last ones before any row of a step, in pages that are used in turn.
  irdl.attribute @growing {
  }
  irdl.attribute @ring {
    %window = irdl.base "#builtin.integer"
    %pages = irdl.base "#builtin.integer"
    irdl.parameters(window: %window, pages: %pages)
  }
  irdl.type @weight {
    %tensor = irdl.base "!builtin.tensor"
    irdl.parameters(tensor: %tensor)
  }
  irdl.type @cache {
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %f32 = irdl.is f32
    %bf16 = irdl.is bf16
    %int8 = irdl.is i8
    %fp8 = irdl.is f8E4M3FN
    %elem = irdl.any_of(%f32, %bf16, %int8, %fp8)
    %page = irdl.base "#builtin.integer"
    %growing = irdl.base @hysparse::@growing
    %ring = irdl.base @hysparse::@ring
    %policy = irdl.any_of(%growing, %ring)
    %map = irdl.base "#builtin.string"
    irdl.parameters(kv_heads: %kv_heads, qk_dim: %qk_dim, v_dim: %v_dim, elem: %elem, page: %page,
      policy: %policy, map: %map)
  }
  irdl.type @selection {
    %kv_heads = irdl.base "#builtin.integer"
    %blocks = irdl.base "#builtin.integer"
    %block = irdl.base "#builtin.integer"
    %map = irdl.base "#builtin.string"
    irdl.parameters(kv_heads: %kv_heads, blocks: %blocks, block: %block, map: %map)
  }
  irdl.type @lists {
    %kv_heads = irdl.base "#builtin.integer"
    %blocks = irdl.base "#builtin.integer"
    %block = irdl.base "#builtin.integer"
    %tile = irdl.base "#builtin.integer"
    %least = irdl.base "#builtin.integer"
    %map = irdl.base "#builtin.string"
    irdl.parameters(kv_heads: %kv_heads, blocks: %blocks, block: %block, tile: %tile, least: %least, map: %map)
  }
}
}
irdl.dialect @hysparse {
  // Sources.
  irdl.operation @weight {
    %out = irdl.base @types::@hysparse::@weight
    %name = irdl.base "#builtin.string"
    irdl.attributes {"name" = %name}
    irdl.results(out: %out)
  }
  irdl.operation @cache {
    %out = irdl.base @types::@hysparse::@cache
    %owner = irdl.base "#builtin.integer"
    irdl.attributes {"owner" = %owner}
    irdl.results(out: %out)
  }
  irdl.operation @prior_selection {
    %out = irdl.base @types::@hysparse::@selection
    irdl.results(out: %out)
  }
  irdl.operation @chain_selection {
    %out = irdl.base @types::@hysparse::@selection
    irdl.results(out: %out)
  }
  irdl.operation @chain_cache {
    %out = irdl.base @types::@hysparse::@cache
    irdl.results(out: %out)
  }
  // Caches.
  irdl.operation @kv_share {
    %cache = irdl.base @types::@hysparse::@cache
    irdl.operands(cache: %cache)
    irdl.results(out: %cache)
  }
  irdl.operation @append {
    %cache = irdl.base @types::@hysparse::@cache
    %k = irdl.base "!builtin.tensor"
    %v = irdl.base "!builtin.tensor"
    irdl.operands(cache: %cache, k: %k, v: %v)
    irdl.results(out: %cache)
  }
  irdl.operation @quantise_kv {
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %codes = irdl.any
    %page = irdl.base "#builtin.integer"
    %policy = irdl.any
    %map = irdl.base "#builtin.string"
    %elem = irdl.any
    %from_page = irdl.base "#builtin.integer"
    %from_policy = irdl.any
    %from_map = irdl.base "#builtin.string"
    %cache = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %codes, %page, %policy, %map>
    %from = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %elem, %from_page, %from_policy, %from_map>
    irdl.operands(cache: %cache, from: %from)
    irdl.results(out: %cache)
  }
  // Rows.
  irdl.operation @embed {
    %table = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    irdl.operands(table: %table)
    irdl.results(out: %out)
  }
  irdl.operation @rmsnorm {
    %x = irdl.base "!builtin.tensor"
    %norm = irdl.base @types::@hysparse::@weight
    %eps = irdl.base "#builtin.float"
    // Of the shape of x; in bf16 it lies in tiles.
    %out = irdl.base "!builtin.tensor"
    irdl.attributes {"eps" = %eps}
    irdl.operands(x: %x, weight: %norm)
    irdl.results(out: %out)
  }
  irdl.operation @linear {
    %x = irdl.base "!builtin.tensor"
    %w = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    irdl.operands(x: %x, weight: %w)
    irdl.results(out: %out)
  }
  irdl.operation @bias {
    %x = irdl.base "!builtin.tensor"
    %weight = irdl.base @types::@hysparse::@weight
    irdl.operands(x: %x, weight: %weight)
    irdl.results(out: %x)
  }
  irdl.operation @rope {
    %x = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    %theta = irdl.base "#builtin.float"
    %dims = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "theta" = %theta, "dims" = %dims}
    irdl.operands(x: %x)
    irdl.results(out: %x)
  }
  irdl.operation @gate {
    %x = irdl.base "!builtin.tensor"
    %g = irdl.base "!builtin.tensor"
    %head = irdl.is "head"
    %elementwise = irdl.is "elementwise"
    %mode = irdl.any_of(%head, %elementwise)
    %heads = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "mode" = %mode}
    irdl.operands(x: %x, gate: %g)
    irdl.results(out: %x)
  }
  irdl.operation @add {
    %x = irdl.base "!builtin.tensor"
    irdl.operands(a: %x, b: %x)
    irdl.results(out: %x)
  }
  irdl.operation @silu_mul {
    %x = irdl.base "!builtin.tensor"
    irdl.operands(a: %x, b: %x)
    irdl.results(out: %x)
  }
  irdl.operation @gather_rows {
    %x = irdl.base "!builtin.tensor"
    %out = irdl.base "!builtin.tensor"
    irdl.operands(x: %x)
    irdl.results(out: %out)
  }
  irdl.operation @output {
    %x = irdl.base "!builtin.tensor"
    irdl.operands(x: %x)
  }
  // Attention and selection.
  irdl.operation @attention {
    %q = irdl.base "!builtin.tensor"
    %kv = irdl.base @types::@hysparse::@cache
    %sink = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    %probs = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads}
    irdl.operands(q: %q, cache: %kv, sink: optional %sink)
    irdl.results(out: %out, probs: optional %probs)
  }
  irdl.operation @block_max {
    %x = irdl.base "!builtin.tensor"
    %out = irdl.base "!builtin.tensor"
    %block = irdl.base "#builtin.integer"
    irdl.attributes {"block" = %block}
    irdl.operands(probs: %x)
    irdl.results(out: %out)
  }
  irdl.operation @group_max {
    %x = irdl.base "!builtin.tensor"
    %out = irdl.base "!builtin.tensor"
    %kv_heads = irdl.base "#builtin.integer"
    irdl.attributes {"kv_heads" = %kv_heads}
    irdl.operands(x: %x)
    irdl.results(out: %out)
  }
  irdl.operation @topk {
    %x = irdl.base "!builtin.tensor"
    %kv_heads = irdl.base "#builtin.integer"
    %blocks = irdl.base "#builtin.integer"
    %block = irdl.base "#builtin.integer"
    %map = irdl.base "#builtin.string"
    %sel = irdl.parametric @types::@hysparse::@selection<%kv_heads, %blocks, %block, %map>
    irdl.attributes {"blocks" = %blocks}
    irdl.operands(x: %x)
    irdl.results(sel: %sel)
  }
  irdl.operation @window_attention {
    %q = irdl.base "!builtin.tensor"
    %kv = irdl.base @types::@hysparse::@cache
    %sink = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    %window = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "window" = %window}
    irdl.operands(q: %q, cache: %kv, sink: optional %sink)
    irdl.results(out: %out)
  }
  irdl.operation @sparse_attention {
    %q = irdl.base "!builtin.tensor"
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %elem = irdl.any
    %page = irdl.base "#builtin.integer"
    %policy = irdl.any
    %map = irdl.base "#builtin.string"
    %blocks = irdl.base "#builtin.integer"
    %cache = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %elem, %page, %policy, %map>
    %sel = irdl.parametric @types::@hysparse::@selection<%kv_heads, %blocks, %page, %map>
    %tile = irdl.base "#builtin.integer"
    %least = irdl.base "#builtin.integer"
    %lists = irdl.parametric @types::@hysparse::@lists<%kv_heads, %blocks, %page, %tile, %least, %map>
    %sink = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads}
    irdl.operands(q: %q, cache: %cache, sel: %sel, sink: optional %sink, lists: optional %lists)
    irdl.results(out: %out)
  }
  irdl.operation @oracle_attention {
    %q = irdl.base "!builtin.tensor"
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %elem = irdl.any
    %page = irdl.base "#builtin.integer"
    %policy = irdl.any
    %map = irdl.base "#builtin.string"
    %blocks = irdl.base "#builtin.integer"
    %cache = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %elem, %page, %policy, %map>
    %sel = irdl.parametric @types::@hysparse::@selection<%kv_heads, %blocks, %page, %map>
    %sink = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "blocks" = %blocks}
    irdl.operands(q: %q, cache: %cache, sink: optional %sink)
    irdl.results(out: %out, sel: %sel)
  }
  irdl.operation @hybrid_attention {
    %q = irdl.base "!builtin.tensor"
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %elem = irdl.any
    %page = irdl.base "#builtin.integer"
    %policy = irdl.any
    %map = irdl.base "#builtin.string"
    %blocks = irdl.base "#builtin.integer"
    %cache = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %elem, %page, %policy, %map>
    %sel = irdl.parametric @types::@hysparse::@selection<%kv_heads, %blocks, %page, %map>
    %tile = irdl.base "#builtin.integer"
    %least = irdl.base "#builtin.integer"
    %lists = irdl.parametric @types::@hysparse::@lists<%kv_heads, %blocks, %page, %tile, %least, %map>
    %sink_select = irdl.base @types::@hysparse::@weight
    %own = irdl.base @types::@hysparse::@cache
    %sink_window = irdl.base @types::@hysparse::@weight
    %gates = irdl.base "!builtin.tensor"
    %out = irdl.base "!builtin.tensor"
    %none = irdl.is "none"
    %head = irdl.is "head"
    %elementwise = irdl.is "elementwise"
    %gate = irdl.any_of(%none, %head, %elementwise)
    %heads = irdl.base "#builtin.integer"
    %window = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "window" = %window, "gate" = %gate}
    irdl.operands(q: %q, shared: %cache, sel: %sel, sink_select: %sink_select, own: %own, sink_window: %sink_window, gates: variadic %gates, lists: optional %lists)
    irdl.results(out: %out)
  }
  irdl.operation @page_lists {
    %kv_heads = irdl.base "#builtin.integer"
    %qk_dim = irdl.base "#builtin.integer"
    %v_dim = irdl.base "#builtin.integer"
    %elem = irdl.any
    %page = irdl.base "#builtin.integer"
    %policy = irdl.any
    %map = irdl.base "#builtin.string"
    %blocks = irdl.base "#builtin.integer"
    %cache = irdl.parametric @types::@hysparse::@cache<%kv_heads, %qk_dim, %v_dim, %elem, %page, %policy, %map>
    %sel = irdl.parametric @types::@hysparse::@selection<%kv_heads, %blocks, %page, %map>
    %tile = irdl.base "#builtin.integer"
    %least = irdl.base "#builtin.integer"
    %lists = irdl.parametric @types::@hysparse::@lists<%kv_heads, %blocks, %page, %tile, %least, %map>
    irdl.operands(cache: %cache, sel: %sel)
    irdl.results(lists: %lists)
  }
  // Experts.
  irdl.operation @router {
    %logits = irdl.base "!builtin.tensor"
    %index = irdl.base "!builtin.tensor"
    %w = irdl.base "!builtin.tensor"
    %active = irdl.base "#builtin.integer"
    irdl.attributes {"active" = %active}
    irdl.operands(logits: %logits)
    irdl.results(index: %index, weight: %w)
  }
  irdl.operation @experts_up {
    %x = irdl.base "!builtin.tensor"
    %index = irdl.base "!builtin.tensor"
    %gate = irdl.base @types::@hysparse::@weight
    %up = irdl.base @types::@hysparse::@weight
    %shared = irdl.base @types::@hysparse::@weight
    %h = irdl.base "!builtin.tensor"
    irdl.operands(x: %x, index: %index, gate: %gate, up: %up, shared: variadic %shared)
    irdl.results(h: %h)
  }
  irdl.operation @experts_down {
    %h = irdl.base "!builtin.tensor"
    %index = irdl.base "!builtin.tensor"
    %w = irdl.base "!builtin.tensor"
    %down = irdl.base @types::@hysparse::@weight
    %shared = irdl.base @types::@hysparse::@weight
    %out = irdl.base "!builtin.tensor"
    irdl.operands(h: %h, index: %index, weight: %w, down: %down, shared_down: optional %shared, residual: optional %out)
    irdl.results(out: %out)
  }
  // Products with what is fused around them.
  irdl.operation @fused_linear {
    %x = irdl.base "!builtin.tensor"
    %norm = irdl.base @types::@hysparse::@weight
    %w = irdl.base @types::@hysparse::@weight
    %residual = irdl.base "!builtin.tensor"
    %up = irdl.base @types::@hysparse::@weight
    %extra = irdl.any_of(%residual, %up)
    %out = irdl.base "!builtin.tensor"
    %store = irdl.is "store"
    %add = irdl.is "residual"
    %swiglu = irdl.is "swiglu"
    %epilogue = irdl.any_of(%store, %add, %swiglu)
    irdl.attributes {"epilogue" = %epilogue}
    irdl.operands(x: %x, norm: optional %norm, weight: %w, extra: optional %extra)
    irdl.results(out: %out)
  }
  irdl.operation @qkv_append {
    %x = irdl.base "!builtin.tensor"
    %norm = irdl.base @types::@hysparse::@weight
    %wq = irdl.base @types::@hysparse::@weight
    %wk = irdl.base @types::@hysparse::@weight
    %wv = irdl.base @types::@hysparse::@weight
    %qk_norm = irdl.base @types::@hysparse::@weight
    %wg = irdl.base @types::@hysparse::@weight
    %cache = irdl.base @types::@hysparse::@cache
    %q = irdl.base "!builtin.tensor"
    %gate = irdl.base "!builtin.tensor"
    %heads = irdl.base "#builtin.integer"
    %kv_heads = irdl.base "#builtin.integer"
    %theta = irdl.base "#builtin.float"
    %dims = irdl.base "#builtin.integer"
    irdl.attributes {"heads" = %heads, "kv_heads" = %kv_heads, "theta" = %theta, "dims" = %dims}
    irdl.operands(x: %x, norm: optional %norm, wq: %wq, wk: optional %wk, wv: optional %wv, qk_norm: variadic %qk_norm, wg: variadic %wg, cache: optional %cache)
    irdl.results(q: %q, gate: variadic %gate, out: optional %cache)
  }
}
