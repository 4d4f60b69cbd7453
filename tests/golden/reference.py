"""The HySparse family in PyTorch, as the papers write it: dense masks, no cache, no tricks.

One class per architecture; `build(config, weights, dtype)` picks it from a parsed model.toml.
`forward(tokens)` runs one whole sequence and returns (logits [T, vocab], Record).

Number formats. dtype is the type of weights, linear layers, the residual stream and K, V.
Scores, softmax, norms, gates and the router are computed in `wide(dtype)` (float32, or float64 for
float64), then rounded back where the next linear layer or the residual stream takes over. `kv_dtype`, where
given, is what K and V are rounded to when they are stored, as a cache of that type does: with float64 for all
else that is `hyc`'s arithmetic of a bf16 model but for the rounding of f32.
"""
import math
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

MINUS_INF = float("-inf")


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Config:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    vocab: int
    norm_eps: float
    rope_theta: float
    rope_dims: int
    qk_norm: bool
    tied: bool
    kind: str
    full: list[int]
    block: int
    top_k: int
    window: int
    gate: str
    sparse_kv: str
    window_branch: bool
    full_gate: bool
    full_sink: bool
    ffn: int
    experts: int
    active: int
    expert_ffn: int
    shared_ffn: int
    router: str
    router_bias: bool
    renormalise: bool
    router_scale: float

    @staticmethod
    def load(path) -> "Config":
        return Config.parse(tomllib.loads(Path(path).read_text()))

    @staticmethod
    def parse(doc: dict) -> "Config":
        model, attention, moe = doc["model"], doc["attention"], doc.get("moe", {})
        qk_dim = model.get("qk_head_dim", model.get("head_dim"))
        layers, kind = model["layers"], attention.get("kind", "hysparse")
        return Config(
            layers=layers, hidden=model["hidden"], heads=model["heads"], kv_heads=model["kv_heads"],
            qk_dim=qk_dim, v_dim=model.get("v_head_dim", model.get("head_dim")), vocab=model["vocab"],
            norm_eps=model.get("norm_eps", 1e-6),
            rope_theta=model["rope"]["theta"], rope_dims=model["rope"].get("dims", qk_dim),
            qk_norm=model.get("qk_norm", False), tied=model.get("tie_embeddings", False),
            kind=kind, full=full_layers(layers, kind, attention),
            block=attention.get("block", 0), top_k=attention.get("top_k", 0),
            window=attention.get("window", 0), gate=attention.get("gate", "elementwise"),
            sparse_kv=attention.get("sparse_kv", "shared"),
            window_branch=attention.get("window_branch", True),
            full_gate=attention.get("full_gate", False), full_sink=attention.get("full_sink", False),
            ffn=model.get("ffn", 0), experts=moe.get("experts", 0), active=moe.get("active", 0),
            expert_ffn=moe.get("expert_ffn", 0), shared_ffn=moe.get("shared_ffn", 0),
            router=moe.get("router", "softmax"), router_bias=moe.get("router_bias", False),
            renormalise=moe.get("renormalise", True), router_scale=moe.get("router_scale", 1.0))

    def is_oracle(self, layer: int) -> bool:
        """A full layer whose selection somebody reads: the one right before a sparse layer."""
        next_is_sparse = layer + 1 < self.layers and layer + 1 not in self.full
        return self.kind == "hysparse" and layer in self.full and next_is_sparse


def full_layers(layers: int, kind: str, attention: dict) -> list[int]:
    if kind == "full":
        return list(range(layers))
    if "full" in attention:
        return attention["full"]
    full, sparse = map(int, attention["pattern"].split(":"))
    return [i for i in range(layers) if i % (full + sparse) < full or i == layers - 1]


@dataclass
class Record:
    """What a run leaves behind, by layer, for comparison."""
    selected: dict[int, Tensor] = field(default_factory=dict)  # i32 [T, kv_heads, top_k/block], best first, -1 pads
    margin: dict[int, Tensor] = field(default_factory=dict)    # [T, kv_heads] ln S(k-th) - ln S(k+1-th), inf if fewer
    order_gap: dict[int, Tensor] = field(default_factory=dict) # [T, kv_heads] least such gap inside the list
    k: dict[int, Tensor] = field(default_factory=dict)         # [T, kv_heads, qk_dim], after RoPE, own projection
    v: dict[int, Tensor] = field(default_factory=dict)         # [T, kv_heads, v_dim]
    router_gap: dict[int, Tensor] = field(default_factory=dict)  # [T] score of the last active expert - of the next
    # Least distance of what a cache stores to where it would be rounded otherwise, in root mean squares, of elements
    # that are no smaller than an eighth of that: an f32 model that is nearer than this stores the same.
    rounding_gap: float = math.inf


@dataclass
class Oracle:
    """What a full layer hands to the sparse layers after it."""
    k: Tensor
    v: Tensor
    mask: Tensor | None  # bool [heads, T, T]: s lies in a block that t's KV head selected


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.to(wide(x.dtype))
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * weight.to(y.dtype)).to(x.dtype)


def rope(x: Tensor, theta: float, dims: int) -> Tensor:
    """Rotates halves of the first `dims` of x [T, heads, dim]; the angles are exact (float64)."""
    half = dims // 2
    rate = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) * 2 / dims)
    angle = torch.arange(x.shape[0], dtype=torch.float64, device=x.device)[:, None, None] * rate
    y = x.to(wide(x.dtype))
    cos, sin = angle.cos().to(y.dtype), angle.sin().to(y.dtype)
    a, b = y[..., :half], y[..., half:dims]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, y[..., dims:]], -1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sink: Tensor | None):
    """Softmax over the masked keys and the sink. q [T, H, d]; k, v [T, kv, d]; mask [T, T] or [H, T, T].

    Returns the output [T, H, dv] and ln p [H, T, T], both wide."""
    acc, group = wide(q.dtype), q.shape[1] // k.shape[1]
    k, v = (x.to(acc).repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q.to(acc), k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask, MINUS_INF)
    denominator = torch.logsumexp(scores, -1, keepdim=True)
    if sink is not None:
        denominator = torch.logaddexp(denominator, sink.to(acc)[:, None, None])
    log_p = scores - denominator
    return torch.einsum("hts,shd->thd", log_p.exp(), v), log_p


def select_blocks(log_p: Tensor, kv_heads: int, block: int, count: int):
    """The `count` blocks of the largest S per (token, KV head), from ln p [H, T, T]."""
    heads, T, _ = log_p.shape
    blocks = -(-T // block)
    padded = F.pad(log_p, (0, blocks * block - T), value=MINUS_INF)
    per_head = padded.view(heads, T, blocks, block).amax(-1)
    score = per_head.view(kv_heads, heads // kv_heads, T, blocks).amax(1).transpose(0, 1)  # [T, kv, blocks]
    score = F.pad(score, (0, max(0, count + 1 - blocks)), value=MINUS_INF)
    ranked, index = score.sort(dim=-1, descending=True, stable=True)  # stable: ties to the lower block
    selected = index[..., :count].masked_fill(ranked[..., :count] == MINUS_INF, -1).to(torch.int32)
    gaps = (ranked[..., :count] - ranked[..., 1:count + 1]).nan_to_num(nan=math.inf)  # -inf - -inf: both absent
    order = gaps[..., :-1].amin(-1) if count > 1 else torch.full_like(gaps[..., 0], math.inf)
    return selected, gaps[..., -1], order


def selection_mask(selected: Tensor, heads: int, block: int) -> Tensor:
    """bool [H, T, T]: key s lies in a selected block and not after t."""
    T, kv_heads, _ = selected.shape
    block_of = torch.arange(T, device=selected.device) // block
    mask = (selected[..., None] == block_of).any(2).permute(1, 0, 2) & causal(T, selected.device)
    return mask.repeat_interleave(heads // kv_heads, dim=0)


def causal(T: int, device) -> Tensor:
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


class Decoder:
    """Everything the family shares. Subclasses say what a sparse layer and an FFN are."""

    def __init__(self, config: Config, weights: dict[str, Tensor], dtype: torch.dtype, device="cpu", kv_dtype=None):
        self.config, self.kv_dtype = config, kv_dtype or dtype
        self.weights = {name: w.to(device=device, dtype=dtype) for name, w in weights.items()}

    def weight(self, name: str) -> Tensor:
        return self.weights["model." + name]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weight(name + ".weight"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return rms_norm(x, self.weight(name + ".weight"), self.config.norm_eps)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> tuple[Tensor, Record]:
        self.record, oracle = Record(), None
        x = self.weight("embed_tokens.weight")[tokens.long()]
        for i in range(self.config.layers):
            at = f"layers.{i}."
            h = self.norm(x, at + "input_layernorm")
            if i in self.config.full:
                out, oracle = self.full_attention(i, h)
            else:
                out = self.sparse_attention(i, h, oracle)
            x = x + self.linear(out.flatten(1).to(x.dtype), at + "self_attn.o_proj")
            h = self.norm(x, at + "post_attention_layernorm")
            x = x + self.ffn(i, h)
        head = self.weight("embed_tokens.weight") if self.config.tied else self.weights["lm_head.weight"]
        return F.linear(self.norm(x, "norm"), head).to(wide(x.dtype)), self.record

    def queries(self, i: int, h: Tensor) -> Tensor:
        return self.rotated(i, h, "q", self.config.heads)

    def keys_values(self, i: int, h: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        k = self.rotated(i, h, "k", c.kv_heads)
        v = self.linear(h, f"layers.{i}.self_attn.v_proj").view(-1, c.kv_heads, c.v_dim)
        k, v = (self.stored(x) for x in (k, v))
        self.record.k[i], self.record.v[i] = k, v
        return k, v

    def stored(self, x: Tensor) -> Tensor:
        """x as a cache gives it back."""
        if self.kv_dtype == x.dtype:
            return x
        y = x.to(self.kv_dtype).to(x.dtype)
        last_bit = torch.finfo(self.kv_dtype).eps * torch.exp2(torch.frexp(x)[1] - 1.0)
        rms = x.square().mean().sqrt()
        distance = torch.where(x.abs() > rms / 8, last_bit / 2 - (x - y).abs(), math.inf).min() / rms
        self.record.rounding_gap = min(self.record.rounding_gap, distance.item())
        return y

    def rotated(self, i: int, h: Tensor, which: str, heads: int) -> Tensor:
        c, at = self.config, f"layers.{i}.self_attn.{which}"
        x = self.linear(h, at + "_proj").view(-1, heads, c.qk_dim)
        if c.qk_norm:
            x = self.norm(x, at + "_norm")
        return rope(x, c.rope_theta, c.rope_dims)

    def gated(self, out: Tensor, i: int, h: Tensor, name: str) -> Tensor:
        """out [T, H, dv] times sigmoid of the gate's projection, one value per element or head."""
        logits = self.linear(h, f"layers.{i}.self_attn.{name}").to(out.dtype)
        return out * torch.sigmoid(logits).view(out.shape[0], out.shape[1], -1)

    def full_attention(self, i: int, h: Tensor) -> tuple[Tensor, Oracle]:
        c = self.config
        q, (k, v) = self.queries(i, h), self.keys_values(i, h)
        sink = self.weight(f"layers.{i}.self_attn.sink") if c.full_sink else None
        out, log_p = attend(q, k, v, causal(len(h), h.device), sink)
        mask = None
        if c.is_oracle(i):
            selected, margin, gap = select_blocks(log_p, c.kv_heads, c.block, c.top_k // c.block)
            self.record.selected[i], self.record.margin[i], self.record.order_gap[i] = selected, margin, gap
            mask = selection_mask(selected, c.heads, c.block)
        if c.full_gate and c.gate != "none":
            out = self.gated(out, i, h, "gate")
        return out, Oracle(k, v, mask)

    def branch(self, i, h, q, k, v, mask, name: str) -> Tensor:
        """One softmax of a sparse layer with its own sink and gate."""
        out, _ = attend(q, k, v, mask, self.weight(f"layers.{i}.self_attn.sink_{name}"))
        return out if self.config.gate == "none" else self.gated(out, i, h, "gate_" + name)

    def window_mask(self, h: Tensor) -> Tensor:
        """bool [T, T]: key s is one of t's last `window` tokens, t among them."""
        visible = causal(len(h), h.device)
        return visible & ~visible.tril(-self.config.window)

    def sparse_attention(self, i: int, h: Tensor, oracle: Oracle) -> Tensor:
        raise NotImplementedError

    def ffn(self, i: int, h: Tensor) -> Tensor:
        return self.swiglu(h, f"layers.{i}.mlp")

    def swiglu(self, h: Tensor, at: str) -> Tensor:
        gate = F.silu(self.linear(h, at + ".gate_proj"))
        return self.linear(gate * self.linear(h, at + ".up_proj"), at + ".down_proj")


class FullAttention(Decoder):
    """Every layer is full: no sparse layer to define."""


class HySparse(Decoder):
    """Selected blocks of the oracle's K, V, plus a window over the layer's own k', v'."""

    def sparse_attention(self, i, h, oracle):
        q, (k, v) = self.queries(i, h), self.keys_values(i, h)
        return (self.branch(i, h, q, oracle.k, oracle.v, oracle.mask, "select")
                + self.branch(i, h, q, k, v, self.window_mask(h), "window"))


class HybridSwa(Decoder):
    """A sparse layer is its window and its sink: no gate, no selection."""

    def sparse_attention(self, i, h, oracle):
        q, (k, v) = self.queries(i, h), self.keys_values(i, h)
        return attend(q, k, v, self.window_mask(h), self.weight(f"layers.{i}.self_attn.sink_window"))[0]


class OwnKv(Decoder):
    """The oracle lends its indices alone: both branches read the layer's own K', V'."""

    def sparse_attention(self, i, h, oracle):
        q, (k, v) = self.queries(i, h), self.keys_values(i, h)
        out = self.branch(i, h, q, k, v, oracle.mask, "select")
        if self.config.window_branch:
            out = out + self.branch(i, h, q, k, v, self.window_mask(h), "window")
        return out


class SharedBoth(Decoder):
    """Both branches read the oracle's K, V; the layer projects queries only."""

    def sparse_attention(self, i, h, oracle):
        q = self.queries(i, h)
        return (self.branch(i, h, q, oracle.k, oracle.v, oracle.mask, "select")
                + self.branch(i, h, q, oracle.k, oracle.v, self.window_mask(h), "window"))


class NoWindow(Decoder):
    """The select branch alone, with its gate and sink."""

    def sparse_attention(self, i, h, oracle):
        return self.branch(i, h, self.queries(i, h), oracle.k, oracle.v, oracle.mask, "select")


class Moe:
    """Mixed in before an architecture: its FFN becomes routed experts and a shared one."""

    def ffn(self, i, h):
        c, at = self.config, f"layers.{i}.mlp"
        acc = wide(h.dtype)
        logits = F.linear(h.to(acc), self.weight(at + ".router.weight").to(acc))
        scores = logits.sigmoid() if c.router == "sigmoid" else logits.softmax(-1)
        # A softmax has the order of its logits.
        by = scores if c.router == "sigmoid" else logits
        if c.router_bias:
            by = by + self.weight(at + ".router.choice_bias").to(acc)
        ranked, index = by.sort(dim=-1, descending=True, stable=True)
        if c.active < c.experts:
            self.record.router_gap[i] = ranked[:, c.active - 1] - ranked[:, c.active]
        chosen = index[:, :c.active]
        share = scores.gather(1, chosen)
        if c.renormalise:
            share = share / (share.sum(-1, keepdim=True) + (1e-20 if c.router == "sigmoid" else 0.0))
        share = share * c.router_scale
        out = torch.zeros_like(h, dtype=acc)
        for e in range(c.experts):
            gate, up, down = (self.weight(f"{at}.experts.{p}_proj.weight")[e] for p in ("gate", "up", "down"))
            y = F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)
            out += (share * (chosen == e)).sum(-1, keepdim=True) * y.to(acc)
        if c.shared_ffn:
            out += self.swiglu(h, at + ".shared_expert").to(acc)
        return out.to(h.dtype)


class HySparseMoe(Moe, HySparse):
    """The HySparse 80B's kind of layer."""


def architecture(config: Config) -> type[Decoder]:
    if config.kind == "full":
        base = FullAttention
    elif config.kind == "swa":
        base = HybridSwa
    elif config.sparse_kv == "own":
        base = OwnKv
    elif not config.window_branch:
        base = NoWindow
    else:
        base = {"shared": HySparse, "shared-both": SharedBoth}[config.sparse_kv]
    if not config.experts:
        return base
    return HySparseMoe if base is HySparse else type("Moe" + base.__name__, (Moe, base), {})


def build(config: Config, weights: dict[str, Tensor], dtype=torch.float32, device="cpu", kv_dtype=None) -> Decoder:
    return architecture(config)(config, weights, dtype, device, kv_dtype)


def load(folder, dtype=torch.float32, device="cpu") -> Decoder:
    """The model of a folder with a model.toml."""
    from safetensors.torch import load_file
    doc = tomllib.loads((Path(folder) / "model.toml").read_text())
    weights = {}
    for file in doc["weights"]["files"]:
        weights |= load_file(Path(folder) / file)
    return build(Config.parse(doc), weights, dtype, device)


if __name__ == "__main__":
    model = load(sys.argv[1])
    tokens = torch.tensor([int(token) for token in sys.argv[2:]])
    print(type(model).__name__, model.forward(tokens)[0][-1].topk(5))
