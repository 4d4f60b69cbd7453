"""Trains one variant: train.py CORPUS OUT --variant hysparse|full|swa [--steps N] [--check].

The mathematics is tests/golden/reference.py's; `--check` shows that a forward here gives its logits. What is
done otherwise is only for speed: the window branch runs on pairs of blocks, the full layers on the fused
kernel, and a sink is one more key that every query sees.
"""
import argparse
import math
import random
import sys
import time
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent / "tests/golden")]
import reference  # noqa: E402
from data import Data, train_tokenizer  # noqa: E402

# (share of the steps, tokens per sequence, sequences per batch)
STAGES = [(0.50, 512, 96), (0.28, 1024, 40), (0.12, 2048, 16), (0.10, 4096, 8)]


def config_of(variant: str) -> reference.Config:
    doc = tomllib.loads((HERE / "model.toml").read_text())
    if variant == "full":
        doc["attention"] = dict(kind="full", block=32)
    if variant == "swa":
        doc["attention"] = dict(kind="swa", pattern="1:3", block=32, window=doc["attention"]["window"])
    return reference.Config.parse(doc)


class Model(torch.nn.Module):
    def __init__(self, config: reference.Config):
        super().__init__()
        self.c = c = config
        self.w = torch.nn.ParameterDict()

        def add(name, *shape, std=None, fill=None):
            value = torch.full(shape, fill) if fill is not None else torch.randn(shape) * std
            self.w[name.replace(".", "/")] = torch.nn.Parameter(value)
        deep = 1 / math.sqrt(2 * c.layers)
        add("model.embed_tokens.weight", c.vocab, c.hidden, std=0.02)
        for i in range(c.layers):
            at, full = f"model.layers.{i}.", i in c.full
            a, m, heads, std = at + "self_attn.", at + "mlp.", c.heads * c.v_dim, c.hidden ** -0.5
            add(at + "input_layernorm.weight", c.hidden, fill=1.0)
            add(at + "post_attention_layernorm.weight", c.hidden, fill=1.0)
            add(a + "q_proj.weight", c.heads * c.qk_dim, c.hidden, std=std)
            add(a + "k_proj.weight", c.kv_heads * c.qk_dim, c.hidden, std=std)
            add(a + "v_proj.weight", c.kv_heads * c.v_dim, c.hidden, std=std)
            add(a + "o_proj.weight", c.hidden, heads, std=heads ** -0.5 * deep)
            if not full and c.kind == "hysparse":
                add(a + "gate_select.weight", heads, c.hidden, std=0.02)
                add(a + "gate_window.weight", heads, c.hidden, std=0.02)
                add(a + "sink_select", c.heads, fill=0.0)
            if not full:
                add(a + "sink_window", c.heads, fill=0.0)
            add(m + "gate_proj.weight", c.ffn, c.hidden, std=std)
            add(m + "up_proj.weight", c.ffn, c.hidden, std=std)
            add(m + "down_proj.weight", c.hidden, c.ffn, std=c.ffn ** -0.5 * deep)
        add("model.norm.weight", c.hidden, fill=1.0)

    def named(self) -> dict:
        return {name.replace("/", "."): p.detach().cpu() for name, p in self.w.items()}

    def p(self, name: str):
        return self.w[f"model/{name}".replace(".", "/")]

    def norm(self, x, name):
        return F.rms_norm(x.float(), (x.shape[-1],), self.p(name).float(), self.c.norm_eps)

    def heads(self, h, name, count, dim):
        return F.linear(h, self.p(name)).unflatten(-1, (count, dim)).transpose(1, 2)  # [B, heads, T, dim]

    def rope(self, x):
        half = x.shape[-1] // 2
        a, b = x.float().split(half, -1)
        cos, sin = self.cos, self.sin
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def forward(self, tokens):
        """tokens [B, T] to hidden states [B, T, hidden], normalised for the head."""
        c, T = self.c, tokens.shape[1]
        rate = c.rope_theta ** (-torch.arange(c.qk_dim // 2, device=tokens.device, dtype=torch.float64) * 2 / c.qk_dim)
        angle = torch.arange(T, device=tokens.device, dtype=torch.float64)[:, None] * rate
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        x, oracle = F.embedding(tokens, self.p("embed_tokens.weight")).float(), None
        for i in range(c.layers):
            at = f"layers.{i}."
            h = self.norm(x, at + "input_layernorm.weight")
            a = at + "self_attn."
            q = self.rope(self.heads(h, a + "q_proj.weight", c.heads, c.qk_dim))
            k = self.rope(self.heads(h, a + "k_proj.weight", c.kv_heads, c.qk_dim))
            v = self.heads(h, a + "v_proj.weight", c.kv_heads, c.v_dim)
            if i in c.full:
                out = F.scaled_dot_product_attention(q, self.spread(k), self.spread(v), is_causal=True)
                if c.is_oracle(i):
                    oracle = (k, v, self.select(q.detach(), k.detach()))
            else:
                out = self.window(q, self.spread(k), self.spread(v), self.p(a + "sink_window"))
                if c.kind == "hysparse":
                    far = self.selected(q, *oracle, self.p(a + "sink_select"))
                    gates = [torch.sigmoid(self.heads(h, a + f"gate_{n}.weight", c.heads, c.v_dim))
                             for n in ("select", "window")]
                    out = gates[0] * far + gates[1] * out
            x = x + F.linear(out.transpose(1, 2).flatten(2), self.p(a + "o_proj.weight")).float()
            h = self.norm(x, at + "post_attention_layernorm.weight")
            m = at + "mlp."
            y = F.silu(F.linear(h, self.p(m + "gate_proj.weight"))) * F.linear(h, self.p(m + "up_proj.weight"))
            x = x + F.linear(y, self.p(m + "down_proj.weight")).float()
        return self.norm(x, "norm.weight")

    def spread(self, x):
        return x.repeat_interleave(self.c.heads // self.c.kv_heads, dim=1)

    @torch.no_grad()
    def select(self, q, k):
        """bool [B, kv_heads, T, blocks]: the blocks each token's KV heads choose."""
        c, T, d = self.c, q.shape[2], q.shape[3]
        blocks, kept = -(-T // c.block), c.top_k // c.block
        chosen = []
        k = F.pad(self.spread(k), (0, 0, 0, blocks * c.block - T)).float()
        column = torch.arange(blocks * c.block, device=q.device)
        for start in range(0, T, 512):
            rows = torch.arange(start, min(T, start + 512), device=q.device)
            scores = q[:, :, rows].float() @ k.transpose(2, 3) / math.sqrt(d)
            scores = scores.masked_fill(column > rows[:, None], float("-inf"))
            scores = scores - scores.logsumexp(-1, keepdim=True)
            scores = scores.unflatten(-1, (blocks, c.block)).amax(-1).unflatten(1, (c.kv_heads, -1)).amax(2)
            index = scores.topk(min(kept, blocks), -1).indices
            chosen.append(torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, index, True))
        return torch.cat(chosen, 2)

    def selected(self, q, k, v, chosen, sink):
        """Attention over the chosen blocks; key T is the sink: an extra dim gives it its own logit."""
        c, (B, H, T, d) = self.c, q.shape
        k, v = self.spread(k), self.spread(v)
        dtype = torch.bfloat16 if q.is_cuda else torch.float32
        one = torch.zeros(8, device=q.device, dtype=dtype)
        one[0] = 1
        q = torch.cat([q.to(dtype), one.expand(B, H, T, 8)], -1)
        keys = F.pad(k.to(dtype), (0, 8))
        sinks = (sink * math.sqrt(d)).to(dtype)[None, :, None, None] * one.expand(B, H, 1, 8)
        keys = torch.cat([keys, F.pad(sinks, (d, 0)), torch.zeros(B, H, 7, d + 8, device=q.device, dtype=dtype)], 2)
        mask = chosen.repeat_interleave(c.block, -1)[..., :T]
        mask = mask & torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
        tail = torch.zeros(8, dtype=torch.bool, device=q.device)
        tail[0] = True
        mask = torch.cat([mask, tail.expand(B, c.kv_heads, T, 8)], -1).repeat_interleave(H // c.kv_heads, 1)
        values = F.pad(v.to(dtype), (0, 8, 0, 8))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=1 / math.sqrt(d))[..., :d]

    def window(self, q, k, v, sink):
        """Attention over the last `window` tokens, by blocks of that many: a block sees itself and the last."""
        w, T, d = self.c.window, q.shape[2], q.shape[3]
        q, k, v = (F.pad(x, (0, 0, 0, -T % w)).unflatten(2, (-1, w)) for x in (q, k, v))
        k, v = (torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x], 3) for x in (k, v))
        scores = (q @ k.transpose(3, 4)).float() / math.sqrt(d)
        row, column = torch.arange(w, device=q.device)[:, None] + w, torch.arange(2 * w, device=q.device)
        near = (column <= row) & (column > row - w)
        first = torch.arange(q.shape[2], device=q.device)[:, None, None] == 0
        scores = scores.masked_fill(~(near & ~(first & (column < w))), float("-inf"))
        scores = torch.cat([scores, sink.float()[None, :, None, None, None].expand(*scores.shape[:-1], 1)], -1)
        p = scores.softmax(-1)[..., :-1].to(v.dtype)
        return (p @ v).flatten(2, 3)[:, :, :T]


def loss_of(model, ids, weights=None):
    ids = torch.as_tensor(ids)
    h = model(ids[:, :-1])
    logits = F.linear(h, model.p("embed_tokens.weight")).float().flatten(0, 1)
    loss = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    return loss.mean() if weights is None else (loss * weights.flatten()).sum() / weights.sum()


def train(args, model, data, device):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=decay, weight_decay=0.05), dict(params=rest, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")
    bounds, total = [], 0
    for share, length, batch in STAGES:
        total += round(share * args.steps)
        bounds.append((total, length, batch))
    start = time.time()
    for step in range(args.start, bounds[-1][0]):
        _, length, batch = next(b for b in bounds if step < b[0])
        lr = args.lr * min(1, (step + 1) / 150) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / bounds[-1][0])))
        for group in optimizer.param_groups:
            group["lr"] = lr
        ids, weights = data.batch(1, step, batch, length, 0.5 if length < 2048 else 0.35)
        ids, weights = torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of(model, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step + 1 == bounds[-1][0]:
            print(f"{args.variant} step {step} length {length} loss {loss.item():.3f} time {time.time() - start:.0f} s",
                  flush=True)
        if step % 500 == 499:
            save(model, args)
    save(model, args)


def save(model, args):
    save_file({k: v.to(torch.bfloat16) for k, v in model.named().items()}, args.out / f"{args.variant}.safetensors")


@torch.no_grad()
def evaluate(args, model, data, device):
    """Held-out perplexity and retrieval accuracy by length, from the bf16 weights that are saved."""
    for p in model.parameters():
        p.copy_(p.to(torch.bfloat16).float())
    for length in (1024, 2048, 4096):
        rng, losses = random.Random(5), []
        for _ in range(args.eval):
            ids = torch.tensor([data.filler(rng, length + 1)], device=device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                losses.append(loss_of(model, ids).item())
        right = total = 0
        for _ in range(args.eval * 4):
            ids, [(at, n)] = data.retrieval(rng, length, 4, 1)
            ids = torch.tensor([ids], device=device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                h = model(ids[:, :-1])[:, at - 1:at - 1 + n]
                guess = F.linear(h, model.p("embed_tokens.weight")).argmax(-1)
            right += int((guess == ids[:, at:at + n]).all())
            total += 1
        print(f"RESULT {args.variant} {length} perplexity {math.exp(sum(losses) / len(losses)):.3f} "
              f"retrieval {right}/{total}", flush=True)


def check(model):
    """The forward here and the reference's, on the same random weights."""
    torch.manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn_like(p) * (1.0 if p.ndim < 2 else p.shape[-1] ** -0.5)
    tokens = torch.randint(model.c.vocab, (1, 500))
    with torch.no_grad():
        ours = F.linear(model(tokens), model.p("embed_tokens.weight"))[0]
    want, _ = reference.build(model.c, model.named()).forward(tokens[0])
    print(f"relative error {((ours - want).norm() / want.norm()).item():.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", default="hysparse", choices=["hysparse", "full", "swa"])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--eval", type=int, default=64)
    parser.add_argument("--resume", type=Path, help="weights to go on from; the optimiser starts anew")
    parser.add_argument("--start", type=int, default=0, help="the step to go on from")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Model(config_of(args.variant))
    print(args.variant, sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    if args.check:
        check(model)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = HERE / "tokenizer.json"
    if not path.exists():
        train_tokenizer((args.corpus / "train.txt").read_text(), model.c.vocab).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume:
        for name, value in load_file(args.resume).items():
            model.w[name.replace(".", "/")].data.copy_(value)
    model.to(device)
    train(args, model, Data(args.corpus, tokenizer, "train"), device)
    evaluate(args, model, Data(args.corpus, tokenizer, "valid"), device)


if __name__ == "__main__":
    main()
