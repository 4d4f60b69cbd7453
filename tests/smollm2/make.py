"""What transformers computes of SmolLM2-135M-Instruct, whose GGUF file `examples/smollm2.sh` fetches: of 50 pieces of
text of 128 tokens the likeliest token at each place, the next likely one, and the logits of both.

`python make.py FILE.gguf` writes golden.safetensors anew, from texts of this repository; with --check it computes those
of the tokens that are there. The file's numbers are dequantised to f32. Needs torch 2.11, transformers 5.24, accelerate
and gguf 0.19.
"""

import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "golden.safetensors"
PIECES, LENGTH = 50, 128
TEXTS = [
    "LICENSE-APACHE",
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "docs/model-toml.md",
    "runtime/src/pool/mod.rs",
]


def pieces(tokenizer):
    """Tokens of pieces of each text, from all over it."""
    found = []
    for i in range(PIECES):
        text = (HERE.parents[1] / TEXTS[i % len(TEXTS)]).read_text()
        tokens = tokenizer(text).input_ids
        begin = (len(tokens) - LENGTH) * (i // len(TEXTS)) * len(TEXTS) // PIECES
        found.append(tokens[begin : begin + LENGTH])
    return torch.tensor(found, dtype=torch.int32)


def main():
    file = pathlib.Path(sys.argv[1])
    where = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    is_check = sys.argv[2:] == ["--check"]
    tokens = load_file(GOLDEN)["tokens"] if is_check else pieces(AutoTokenizer.from_pretrained(**where))
    logits, ids = [], []
    for piece in tokens:
        with torch.no_grad():
            best = model(piece[None].long()).logits[0].topk(2)
        logits.append(best.values)
        ids.append(best.indices.int())
    made = {"tokens": tokens, "logits": torch.stack(logits), "best": torch.stack(ids)}
    if is_check:
        kept = load_file(GOLDEN)
        assert torch.allclose(made["logits"], kept["logits"], rtol=1e-4, atol=1e-3)
    else:
        save_file(made, GOLDEN)
    print(f"{PIECES} pieces of {LENGTH} tokens")


main()
