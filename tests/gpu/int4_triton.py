"""A product of bf16 rows with weights of four bits in groups of 64, in Triton: the peer of ours for many rows."""
import torch
import triton
import triton.language as tl

GROUP = 64


def configs():
    sizes = [(128, 128, 4, 3), (128, 128, 8, 4), (128, 256, 8, 3), (64, 128, 4, 4), (256, 128, 8, 3)]
    return [
        triton.Config({"BM": m, "BN": n}, num_warps=warps, num_stages=stages) for m, n, warps, stages in sizes
    ]


@triton.autotune(configs=configs(), key=["rows", "out", "inn"])
@triton.jit
def kernel(x, codes, scales, y, rows, out, inn, GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, GROUP)
    pairs = tl.arange(0, GROUP // 2)
    sums = tl.zeros((BM, BN), tl.float32)
    for group in range(inn // GROUP):
        a = tl.load(x + m[:, None] * inn + group * GROUP + k[None, :], mask=m[:, None] < rows, other=0.0)
        at = codes + (group * GROUP // 2 + pairs[:, None]) * out + n[None, :]
        byte = tl.load(at, mask=n[None, :] < out, other=0)
        both = tl.join(byte & 15, byte >> 4)
        w = tl.reshape(tl.permute(both, (0, 2, 1)), (GROUP, BN)).to(tl.float32) - 8.0
        scale = tl.load(scales + group * out + n, mask=n < out, other=0.0).to(tl.float32)
        sums = tl.dot(a, (w * scale[None, :]).to(tl.bfloat16), sums)
    inside = (m[:, None] < rows) & (n[None, :] < out)
    tl.store(y + m[:, None] * out + n[None, :], sums.to(tl.bfloat16), mask=inside)


def random(inn, out):
    """Codes `[inn / 2][out]`, inputs 2i in the low halves, and scales `[inn / GROUP][out]`."""
    codes = torch.randint(0, 256, (inn // 2, out), device="cuda", dtype=torch.uint8)
    return codes, torch.rand(inn // GROUP, out, device="cuda").half()


def linear(x, codes, scales):
    """`x [rows][inn]` in bf16 by the weight: `[rows][out]`."""
    (rows, inn), out = x.shape, codes.shape[1]
    y = torch.empty(rows, out, device="cuda", dtype=torch.bfloat16)

    def grid(config):
        return triton.cdiv(out, config["BN"]), triton.cdiv(rows, config["BM"])

    kernel[grid](x, codes, scales, y, rows, out, inn, GROUP)
    return y


def check():
    """Whether it is right, on a small one. Errors: it is not."""
    x = torch.randn(100, 256, device="cuda").bfloat16()
    codes, scales = random(256, 192)
    w = torch.stack([codes & 15, codes >> 4], 1).reshape(256, 192).float() - 8
    want = x.float() @ (w * scales.float().repeat_interleave(GROUP, 0))
    error = (linear(x, codes, scales).float() - want).norm() / want.norm()
    assert error < 1e-2, error
