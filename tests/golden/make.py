"""Makes the golden tensors: python make.py [NAME ...]; with --check, compares with what is there instead.

Each folder gets model.toml, model.safetensors (values that bf16 holds exactly, so that float32 and bfloat16
runs share one file) and golden.safetensors: tokens, logits of every position, and by layer the selected
blocks with the margin ln S(k-th) - ln S(k+1-th), and the keys and values that the layer projects.
"""
import math
import sys
import tomllib
from pathlib import Path

import reference
import torch
from cases import CASES
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def toml(name, c):
    def section(title, values):
        return f"[{title}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items() if v is not None) + "\n"
    ffn = {} if c["moe"] is None else dict(ffn=None)
    model = dict(name=f'"{name}"') | c["model"] | ffn
    model.setdefault("rope", "{ theta = 640000.0 }")
    text = section("model", model) + section("attention", c["attention"])
    if c["moe"]:
        text += section("moe", c["moe"])
    text += section("weights", dict(files='["model.safetensors"]', dtype=f'"{c["dtype"]}"'))
    return text + section("target", dict(kind='"cpu"') | c["target"]).rstrip() + "\n"


def random_weights(config, seed, full_sinks):
    """Peaked attention, open gates and strong sinks: everything must matter to the logits."""
    random = torch.Generator().manual_seed(seed)
    c, weights = config, {}

    def matrix(name, *shape, gain=1.0):
        w = torch.randn(shape, generator=random) * gain / shape[-1] ** 0.5
        weights[name] = w.to(torch.bfloat16)

    def vector(name, n, mean=1.0, spread=0.2):
        weights[name] = (mean + spread * torch.randn(n, generator=random)).to(torch.bfloat16)

    matrix("model.embed_tokens.weight", c.vocab, c.hidden, gain=c.hidden ** 0.5 * 0.7)
    for i in range(c.layers):
        at, full = f"model.layers.{i}.", i in c.full
        own = full or c.kind == "swa" or c.sparse_kv == "own" or (c.sparse_kv == "shared" and c.window_branch)
        vector(at + "input_layernorm.weight", c.hidden)
        vector(at + "post_attention_layernorm.weight", c.hidden)
        a = at + "self_attn."
        matrix(a + "q_proj.weight", c.heads * c.qk_dim, c.hidden, gain=1.6)
        if own:
            matrix(a + "k_proj.weight", c.kv_heads * c.qk_dim, c.hidden, gain=1.6)
            matrix(a + "v_proj.weight", c.kv_heads * c.v_dim, c.hidden)
        matrix(a + "o_proj.weight", c.hidden, c.heads * c.v_dim, gain=0.8)
        if c.qk_norm:
            vector(a + "q_norm.weight", c.qk_dim, 1.5)
            if own:
                vector(a + "k_norm.weight", c.qk_dim, 1.5)
        width = c.heads * (c.v_dim if c.gate == "elementwise" else 1)
        select = not full and c.kind == "hysparse"
        window = not full and (c.kind == "swa" or c.window_branch)
        for branch, there in [("select", select), ("window", window)]:
            if there:
                vector(a + f"sink_{branch}", c.heads, 0.0, 1.5)
                if c.gate != "none" and c.kind != "swa":
                    matrix(a + f"gate_{branch}.weight", width, c.hidden, gain=1.5)
        if full and c.full_gate:
            matrix(a + "gate.weight", width, c.hidden, gain=1.5)
        if full and c.full_sink:
            vector(a + "sink", c.heads, *full_sinks)
        m = at + "mlp."
        if c.experts:
            matrix(m + "router.weight", c.experts, c.hidden, gain=2.0)
            if c.router_bias:
                vector(m + "router.choice_bias", c.experts, 0.0, 0.3)
            for p, shape in [("gate", (c.expert_ffn, c.hidden)), ("up", (c.expert_ffn, c.hidden)),
                             ("down", (c.hidden, c.expert_ffn))]:
                matrix(m + f"experts.{p}_proj.weight", c.experts, *shape)
        prefix, width = (m + "shared_expert.", c.shared_ffn) if c.experts else (m, c.ffn)
        if width:
            matrix(prefix + "gate_proj.weight", width, c.hidden)
            matrix(prefix + "up_proj.weight", width, c.hidden)
            matrix(prefix + "down_proj.weight", c.hidden, width)
    vector("model.norm.weight", c.hidden)
    if not c.tied:
        matrix("lm_head.weight", c.vocab, c.hidden, gain=2.0)
    return weights


def tie_blocks(config, weights, tokens):
    """Exact ties in the first layer: the first KV head's queries are zero, and the other's keys say nothing of the
    position, with blocks of tokens of three kinds."""
    c, at = config, "model.layers.0.self_attn."
    weights[at + "q_proj.weight"][:c.heads // c.kv_heads * c.qk_dim] = 0
    weights[at + "k_proj.weight"].view(c.kv_heads, c.qk_dim, c.hidden)[:, :c.rope_dims] = 0
    kinds = tokens[:3 * c.block].view(3, c.block)
    return kinds[tokens[:-(-len(tokens) // c.block)] % 3].flatten()[:len(tokens)]


def tensors(name, c):
    """model.toml's text, the weights, and the golden tensors."""
    text = toml(name, c)
    doc = tomllib.loads(text)
    config = reference.Config.parse(doc)
    weights = random_weights(config, c["seed"], c["full_sinks"])
    tokens = torch.randint(config.vocab, (c["tokens"],), generator=torch.Generator().manual_seed(c["seed"] + 100))
    if c["tied"]:
        tokens = tie_blocks(config, weights, tokens)
    dtype = torch.float64 if c["exact"] else DTYPES[c["dtype"]]
    kv_dtype = DTYPES[doc["target"].get("kv_dtype", c["dtype"])]
    model = reference.build(config, weights, dtype, kv_dtype=None if kv_dtype == torch.float32 else kv_dtype)
    logits, record = model.forward(tokens)
    exact, _ = reference.build(config, weights, torch.float64).forward(tokens)
    golden = dict(tokens=tokens.to(torch.int32), logits=logits.float().contiguous())
    for i, selected in record.selected.items():
        golden[f"layer{i}.selected"] = selected.contiguous()
        golden[f"layer{i}.margin"] = record.margin[i].float().contiguous()
    if dtype != torch.bfloat16:
        # The first two layers, and the last: an oracle, a sparse layer and what came of all.
        for i in {0, 1, config.layers - 1} & set(record.k):
            golden[f"layer{i}.k"] = record.k[i].float().contiguous()
            golden[f"layer{i}.v"] = record.v[i].float().contiguous()
    error = ((logits - exact).norm() / exact.norm()).item()
    least = [min((gap.min().item() for gap in gaps.values()), default=math.nan)
             for gaps in (record.margin, record.router_gap)]
    print(f"{name:18} {config.layers} layers, {len(tokens)} tokens, error against float64 {error:.1e}, least margin "
          f"{least[0]:.1e}, of a router {least[1]:.1e}, of what a cache rounds {record.rounding_gap:.1e}")
    return text, weights, golden


def make(name, c):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    text, weights, golden = tensors(name, c)
    (folder / "model.toml").write_text(text)
    save_file(weights, folder / "model.safetensors")
    save_file(golden, folder / "golden.safetensors")


def check(name, c):
    """Description, weights and tokens must be what is there; the rest as near as another PyTorch's sums come."""
    folder = HERE / name
    text, weights, golden = tensors(name, c)
    assert (folder / "model.toml").read_text() == text, f"{name}/model.toml is another"
    rounds = c["dtype"] == "bf16" and not c["exact"]
    limit, tie = (3e-2, 2e-1) if rounds else (1e-5, 1e-5)
    for file, want in [("model", weights), ("golden", golden)]:
        there = load_file(folder / f"{file}.safetensors")
        assert there.keys() == want.keys(), f"{name}/{file}: {there.keys() ^ want.keys()}"
        for key, tensor in want.items():
            at = f"{name}/{file}: {key}"
            assert (there[key].dtype, there[key].shape) == (tensor.dtype, tensor.shape), at
            if key.endswith(".selected"):
                decided = want[key.replace("selected", "margin")] > tie
                assert torch.equal(there[key].sort(-1)[0][decided], tensor.sort(-1)[0][decided]), at
            elif file == "model" or key == "tokens":
                assert torch.equal(there[key], tensor), at
            elif not key.endswith(".margin"):
                error = ((there[key].double() - tensor.double()).norm() / tensor.double().norm()).item()
                assert error < limit, f"{at} differs by {error:.1e}"


if __name__ == "__main__":
    torch.set_num_threads(2)
    names = sys.argv[1:]
    act = check if "--check" in names else make
    for name in [n for n in names if n != "--check"] or CASES:
        act(name, CASES[name])
