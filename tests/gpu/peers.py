"""What other libraries take for the work of our kernels, on the card at hand: run it beside `hyc bench`.

    peers.py [PART]...

Parts: copy matvec product int4 prefill decode flashinfer flashinfer_decode step nsa; all without one.
FlashInfer and flash-linear-attention are not in PyTorch: measured were flashinfer-python 0.6.1, which compiles its
kernels when they are first called, and fla-core 0.6.0.

Shapes are those of the 7B model: 32 query heads, 8 KV heads, head dim 128. bf16, random data, medians; work that is
bound by bytes runs inside a CUDA graph over rotating weights, so that no cache helps.
"""
import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def median_ms(run, repeat=15, warm=3):
    times = []
    for i in range(warm + repeat):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if i >= warm:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def graph_of(run):
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def row(name, ms, figure):
    print(f"{name:58} {ms:10.4f} ms  {figure}")


def copy():
    a = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    ms = median_ms(lambda: b.copy_(a))
    row("device copy, 2 GiB", ms, f"{2 * a.numel() / ms / 1e9:.2f} TB/s")


def linears(x, weights):
    return [F.linear(x, w) for w in weights]


def matvec():
    for inn, out in [(4096, 4096), (4096, 6144), (4096, 22016), (11008, 4096)]:
        count = max(2, (1 << 31) // (inn * out * 2))
        weights = [torch.randn(out, inn, device="cuda").bfloat16() for _ in range(count)]
        for batch in (1, 8):
            x = torch.randn(batch, inn, device="cuda").bfloat16()
            ms = median_ms(graph_of(partial(linears, x, weights))) / count
            row(f"cuBLAS linear {inn}x{out}, {batch} rows", ms, f"{inn * out * 2 / ms / 1e9:.2f} TB/s")


def product():
    for inn, out in [(4096, 4096), (4096, 22016), (11008, 4096)]:
        x = torch.randn(2048, inn, device="cuda").bfloat16()
        w = torch.randn(out, inn, device="cuda").bfloat16()
        ms = median_ms(partial(F.linear, x, w))
        row(f"cuBLAS linear {inn}x{out}, 2048 rows", ms, f"{2 * 2048 * inn * out / ms / 1e9:.0f} TFLOP/s")


def int4():
    """Four bits in groups of 64: PyTorch's own product of few rows (tinygemm), and of many by int4_triton.py."""
    import int4_triton

    int4_triton.check()

    for inn, out in [(4096, 4096), (4096, 6144), (4096, 22016), (11008, 4096)]:
        bytes_ = inn * out // 2 + inn // 64 * out * 4
        count = max(2, (1 << 30) // bytes_)
        codes = torch.randint(0, 256, (out, inn // 2), device="cuda", dtype=torch.uint8)
        scales = torch.randn(inn // 64, out, 2, device="cuda").bfloat16()
        packed = [(torch._convert_weight_to_int4pack(codes, 8), scales.clone()) for _ in range(count)]
        for batch in (1, 8):
            x = torch.randn(batch, inn, device="cuda").bfloat16()
            ms = median_ms(graph_of(partial(int4_linears, x, packed))) / count
            row(f"torch int4 linear {inn}x{out}, {batch} rows", ms, f"{bytes_ / ms / 1e9:.2f} TB/s")
        x = torch.randn(2048, inn, device="cuda").bfloat16()
        weight = int4_triton.random(inn, out)
        ms = median_ms(partial(int4_triton.linear, x, *weight))
        row(f"Triton int4 linear {inn}x{out}, 2048 rows", ms, f"{2 * 2048 * inn * out / ms / 1e9:.0f} TFLOP/s")


def int4_linears(x, packed):
    return [torch._weight_int4pack_mm(x, codes, 64, scales) for codes, scales in packed]


def causal_flop(tokens):
    return 4 * 32 * 128 * tokens * tokens / 2


def prefill():
    for tokens in (32768, 131072):
        q = torch.randn(1, 32, tokens, 128, device="cuda").bfloat16()
        k, v = (torch.randn(1, 8, tokens, 128, device="cuda").bfloat16() for _ in range(2))
        for name, backend in [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention-2", SDPBackend.FLASH_ATTENTION)]:
            with sdpa_kernel(backend):
                attend = partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)
                ms = median_ms(attend, repeat=7)
            row(f"{name} causal prefill, {tokens}", ms, f"{causal_flop(tokens) / ms / 1e9:.0f} TFLOP/s")


def attentions(q, caches):
    return [F.scaled_dot_product_attention(q, k, v, enable_gqa=True) for k, v in caches]


def decode():
    for batch, context in [(1, 4096), (1, 32768), (8, 32768)]:
        q = torch.randn(batch, 32, 1, 128, device="cuda").bfloat16()
        caches = [[torch.randn(batch, 8, context, 128, device="cuda").bfloat16() for _ in range(2)] for _ in range(6)]
        bytes_ = 2 * batch * 8 * context * 128 * 2
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            ms = median_ms(graph_of(partial(attentions, q, caches))) / len(caches)
        row(f"FlashAttention-2 decode, batch {batch}, {context}", ms, f"{bytes_ / ms / 1e9:.2f} TB/s")


def flashinfer():
    from flashinfer import single_prefill_with_kv_cache

    for tokens in (32768, 131072):
        q = torch.randn(tokens, 32, 128, device="cuda").bfloat16()
        k, v = (torch.randn(tokens, 8, 128, device="cuda").bfloat16() for _ in range(2))
        ms = median_ms(partial(single_prefill_with_kv_cache, q, k, v, causal=True, backend="fa3"), repeat=7)
        row(f"FlashInfer FA3 causal prefill, {tokens}", ms, f"{causal_flop(tokens) / ms / 1e9:.0f} TFLOP/s")


def flashinfer_decode():
    """A step of one token over paged KV, pages of 64, as its plan splits it; the KV of six layers in turn."""
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    for batch, context in [(1, 4096), (1, 32768), (1, 131072), (8, 32768)]:
        pages = context // 64
        q = torch.randn(batch, 32, 128, device="cuda").bfloat16()
        caches = [torch.randn(batch * pages, 2, 64, 8, 128, device="cuda").bfloat16() for _ in range(6)]
        of_batch = torch.arange(0, batch * pages + 1, pages, device="cuda", dtype=torch.int32)
        table = torch.randperm(batch * pages, device="cuda").int()
        last = torch.full((batch,), 64, device="cuda", dtype=torch.int32)
        workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        bytes_ = 2 * batch * 8 * context * 128 * 2
        for name, options in [
            ("tensor cores", {"use_tensor_cores": True, "backend": "fa2"}),
            ("CUDA cores", {"use_tensor_cores": False}),
        ]:
            wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", **options)
            types = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}
            wrapper.plan(of_batch, table, last, 32, 8, 128, 64, **types)
            ms = median_ms(graph_of(lambda w=wrapper, q=q, c=caches: [w.run(q, kv) for kv in c])) / len(caches)
            row(f"FlashInfer decode, {name}, batch {batch}, {context}", ms, f"{bytes_ / ms / 1e9:.2f} TB/s")


def layer(x, w, kv, cos, sin):
    """One layer of the full-attention 7B for the last token of each sequence."""
    batch, width = x.shape[0], 4096
    h = F.rms_norm(x, (width,), w["norm"])
    q, k, v = F.linear(h, w["qkv"]).split([4096, 1024, 1024], dim=-1)

    def turned(y, heads):
        y = y.view(batch, heads, 1, 128)
        a, b = y.chunk(2, dim=-1)
        return y * cos + torch.cat([-b, a], dim=-1) * sin

    keys, values = kv
    keys[:, :, -1:] = turned(k, 8)
    values[:, :, -1:] = v.view(batch, 8, 1, 128)
    y = F.scaled_dot_product_attention(turned(q, 32), keys, values, enable_gqa=True)
    x = x + F.linear(y.reshape(batch, width), w["o"])
    gate, up = F.linear(F.rms_norm(x, (width,), w["norm2"]), w["gate_up"]).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def step():
    """A decode step of the full-attention 7B: 36 compiled layers and the head in one CUDA graph."""
    compiled = torch.compile(layer, dynamic=False)

    def weight(out, inn):
        return torch.empty(out, inn, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02)

    one = torch.ones(4096, device="cuda", dtype=torch.bfloat16)
    layers = [
        {"norm": one, "norm2": one, "qkv": weight(6144, 4096), "o": weight(4096, 4096),
         "gate_up": weight(22016, 4096), "down": weight(4096, 11008)}
        for _ in range(36)
    ]
    head = weight(151680, 4096)
    cos, sin = (torch.randn(128, device="cuda").bfloat16() for _ in range(2))
    for batch, context in [(1, 4096), (1, 32768), (1, 131072), (8, 4096), (8, 32768)]:
        def kv(heads=8, batch=batch, context=context):
            return torch.empty(batch, heads, context, 128, device="cuda", dtype=torch.bfloat16).normal_()

        caches = [(kv(), kv()) for _ in layers]
        x = torch.randn(batch, 4096, device="cuda").bfloat16()

        def whole(x=x, caches=caches):
            for w, cache in zip(layers, caches, strict=True):
                x = compiled(x, w, cache, cos, sin)
            return F.linear(F.rms_norm(x, (4096,), one), head).argmax(-1)

        with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            row(f"compiled PyTorch step, batch {batch}, {context}", median_ms(graph_of(whole)), "")
        del caches


def nsa():
    """The selected branch of native sparse attention, uniform blocks: 64 heads on 4 KV heads, 16 blocks of 64."""
    from fla.ops.nsa.parallel import parallel_nsa_fwd

    tokens, blocks = 32768, 16
    q = torch.randn(1, tokens, 64, 128, device="cuda").bfloat16()
    k, v = (torch.randn(1, tokens, 4, 128, device="cuda").bfloat16() for _ in range(2))
    seen = torch.arange(tokens, device="cuda") // 64 + 1
    chosen = (torch.rand(1, tokens, 4, blocks, device="cuda") * seen[None, :, None, None]).long()
    ms = median_ms(partial(parallel_nsa_fwd, q, k, v, chosen, blocks, 64, 128**-0.5), repeat=7)
    flop = 4 * 64 * 128 * tokens * blocks * 64
    row(f"NSA selected branch, group 16, {tokens}", ms, f"{flop / ms / 1e9:.0f} TFLOP/s")


PARTS = (copy, matvec, product, int4, prefill, decode, flashinfer, flashinfer_decode, step, nsa)

if __name__ == "__main__":
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
    for part in PARTS:
        if len(sys.argv) > 1 and part.__name__ not in sys.argv[1:]:
            continue
        try:
            part()
        except Exception as error:  # a library or a backend that is not there
            print(f"{part.__name__}: {type(error).__name__}: {error}")
        torch.cuda.empty_cache()
