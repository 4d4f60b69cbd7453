"""What PyTorch's libraries take for the work of our kernels, on the card at hand: run it beside `hyc bench`.

Shapes are those of the 7B model: 32 query heads, 8 KV heads, head dim 128. bf16, random data, medians; work that is
bound by bytes runs inside a CUDA graph over rotating weights, so that no cache helps.
"""
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


def prefill():
    for tokens in (2048, 8192, 32768):
        q = torch.randn(1, 32, tokens, 128, device="cuda").bfloat16()
        k, v = (torch.randn(1, 8, tokens, 128, device="cuda").bfloat16() for _ in range(2))
        for name, backend in [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention-2", SDPBackend.FLASH_ATTENTION)]:
            with sdpa_kernel(backend):
                attend = partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)
                ms = median_ms(attend, repeat=7)
            flop = 4 * 32 * 128 * tokens * tokens / 2
            row(f"{name} causal prefill, {tokens}", ms, f"{flop / ms / 1e9:.0f} TFLOP/s")


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


if __name__ == "__main__":
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
    for part in (copy, matvec, product, prefill, decode):
        try:
            part()
        except Exception as error:  # a backend that this build of PyTorch lacks
            print(f"{part.__name__}: {error}")
        torch.cuda.empty_cache()
