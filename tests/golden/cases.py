"""The models of the golden tensors: descriptions, seeds, and the number formats that they are computed in."""
BASE = dict(layers=6, hidden=44, heads=6, kv_heads=2, head_dim=20, ffn=56, vocab=97)
SPARSE = dict(pattern='"1:3"', block=8, top_k=32, window=11)
TARGET = dict(max_context=211, max_batch=3, chunk=64, max_outputs=64)
WIDE = dict(head_dim=None, qk_head_dim=24, v_head_dim=12, norm_eps=1e-5, qk_norm="true", tie_embeddings="true",
            rope="{ theta = 10000.0, dims = 16 }")
EXPERTS = dict(experts=12, active=3, expert_ffn=20, shared_ffn=24)
# Small models for what is told apart elsewhere than in the sizes.
SMALL = dict(layers=6, hidden=24, heads=4, kv_heads=2, head_dim=16, ffn=32, vocab=61)


def case(seed, tokens=203, model=None, attention=None, moe=None, dtype="f32", target=None, exact=False, tied=False,
         full_sinks=(0.0, 1.5)):
    """`exact`: float64 but for what the caches round; else all in `dtype`. `tied`: blocks of the first layer have
    the very same scores. `full_sinks`: mean and spread of the full layers' sinks, where there are some."""
    attention = SPARSE if attention is None else attention
    return dict(seed=seed, tokens=tokens, model=BASE | (model or {}), attention=attention, moe=moe, dtype=dtype,
                target=TARGET | (target or {}), exact=exact, tied=tied,
                full_sinks=full_sinks)


def small(seed, model=None, attention=None, moe=None, kv=None, **rest):
    """An oracle with two sparse layers, one with one, and the last layer."""
    attention = SPARSE | dict(pattern=None, full="[0, 3, 5]") | (attention or {})
    target = dict(max_context=160) | (dict(kv_dtype=f'"{kv}"') if kv else {})
    return case(seed, tokens=150, model=SMALL | (model or {}), attention=attention, moe=moe, exact=True,
                target=target, **rest)


def tiny(seed, moe=None):
    """Layers full, sparse, full."""
    model = dict(layers=3, hidden=24, heads=4, kv_heads=1, head_dim=8, ffn=32, vocab=61)
    attention = SPARSE | dict(pattern=None, full="[0, 2]", top_k=16)
    return case(seed, tokens=45, model=model, attention=attention, moe=moe, dtype="bf16", exact=True,
                target=dict(max_context=48))


def heads(query, kv, **more):
    return dict(heads=query, kv_heads=kv, head_dim=8) | more


CASES = {
    "dense": case(1),
    "wide": case(2, model=WIDE, attention=SPARSE | dict(gate='"head"', full_gate="true", full_sink="true")),
    "moe": case(3, moe=EXPERTS),
    "full": case(4, attention=dict(kind='"full"', block=8)),
    "swa": case(5, attention=dict(kind='"swa"', pattern='"1:3"', block=8, window=11)),
    "own": case(6, attention=SPARSE | dict(sparse_kv='"own"')),
    "shared-both": case(7, attention=SPARSE | dict(sparse_kv='"shared-both"')),
    "no-window": case(8, attention=SPARSE | dict(window=None, window_branch="false")),
    "block64": case(9, tokens=301, model=dict(layers=5, heads=4, kv_heads=1, head_dim=32, hidden=48),
                    attention=dict(full="[0, 4]", block=64, top_k=128, window=70, gate='"none"'),
                    target=dict(max_context=301)),
    "dense-bf16": case(10, dtype="bf16"),
    "moe-bf16": case(11, moe=EXPERTS, dtype="bf16"),
    # Weights of bf16 and activations of float64: what the two above can't tell from rounding.
    "exact": small(12, dtype="bf16", kv="f32"),
    "exact-moe": small(13, moe=EXPERTS | dict(experts=6, expert_ffn=16), dtype="bf16", kv="f32"),
    "exact-wide": small(14, model=WIDE, dtype="bf16", kv="f32",
                        attention=dict(gate='"head"', full_gate="true", full_sink="true")),
    # With caches of bf16 too. Few and small, with seeds for which no key or value is so near to a tie of its rounding
    # that f32 would round it otherwise (`make.py` prints how near): one that is costs more than all else together.
    "exact-kv-bf16": tiny(253),
    "exact-moe-kv-bf16": tiny(182, moe=dict(experts=5, active=2, expert_ffn=16, shared_ffn=24)),
    # Query heads per KV head.
    "group-1": small(21, model=heads(3, 3)),
    "group-5": small(22, model=heads(5, 1), attention=dict(gate='"head"')),
    "group-8": small(23, model=heads(16, 2, rope="{ theta = 10000.0, dims = 4 }")),
    "group-16": small(24, model=heads(16, 1), attention=dict(full_sink="true")),
    "group-17": small(25, model=heads(17, 1), attention=dict(gate='"none"')),
    "head-gates": small(26, attention=dict(gate='"head"')),
    "partial-rope": small(27, model=dict(rope="{ theta = 640000.0, dims = 6 }")),
    # Sinks so unequal that they decide which head of a group counts in what is selected.
    "full-sink": small(28, attention=dict(full_sink="true"), full_sinks=(4.0, 6.0)),
    # Mixtures, alone and with what else differs of a sparse layer.
    "moe-top-1": small(31, moe=dict(experts=5, active=1, expert_ffn=20, shared_ffn=24)),
    "moe-no-shared": small(32, moe=dict(experts=6, active=2, expert_ffn=20)),
    "moe-own": small(33, moe=dict(experts=6, active=2, expert_ffn=20), attention=dict(sparse_kv='"own"')),
    "moe-shared-both": small(34, moe=dict(experts=4, active=4, expert_ffn=20, shared_ffn=12),
                             attention=dict(sparse_kv='"shared-both"')),
    "moe-no-window": small(35, moe=dict(experts=5, active=1, expert_ffn=20),
                           attention=dict(window=None, window_branch="false")),
    # Chosen by sigmoids and a bias, and weighed by the sigmoids.
    "moe-sigmoid": case(38, tokens=60, model=dict(layers=3, hidden=16, heads=4, kv_heads=2, head_dim=8, vocab=61),
                        attention=SPARSE | dict(pattern=None, full="[0, 2]", top_k=16), dtype="bf16", exact=True,
                        moe=dict(experts=7, active=3, expert_ffn=8, shared_ffn=8, router='"sigmoid"',
                                 router_bias="true", router_scale=2.5),
                        target=dict(max_context=64, kv_dtype='"f32"')),
    "own-no-window": small(36, attention=dict(sparse_kv='"own"', window=None, window_branch="false")),
    "ties": small(37, model=dict(heads=6, kv_heads=2, rope="{ theta = 10000.0, dims = 8 }"),
                  attention=dict(full="[0, 5]"), tied=True),
}
