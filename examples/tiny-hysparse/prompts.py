"""Planted-key prompts with the reference's greedy answers: prompts.py CORPUS FOLDER.

FOLDER has model.toml, model.safetensors and tokenizer.json. Writes retrieval.safetensors there: `prompts`
[100, n] u16, and the reference's (float32) greedy continuation `expected` [100, 8] u16 with the gap between
its first and second logit, `margins` [100, 8]; `keys` [100, 7] are the right answers.
"""
import random
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent / "tests/golden"), str(HERE)]
import reference  # noqa: E402
from data import Data  # noqa: E402

COUNT, LENGTH, NEW = 100, 4096, 8


def main(corpus: Path, folder: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = reference.load(folder, device=device)
    data = Data(corpus, Tokenizer.from_file(str(folder / "tokenizer.json")), "valid")
    rng = random.Random(11)
    prompts, expected, margins, keys = [], [], [], []
    for i in range(COUNT):
        ids, [(at, n)] = data.retrieval(rng, LENGTH, 4, 1)
        prompts.append(ids[:at])
        keys.append(ids[at:at + n])
        tokens, found, gaps = list(ids[:at]), [], []
        for _ in range(NEW):
            logits, _ = model.forward(torch.tensor(tokens, device=device))
            best = logits[-1].topk(2)
            found.append(best.indices[0].item())
            gaps.append((best.values[0] - best.values[1]).item())
            tokens.append(found[-1])
        expected.append(found)
        margins.append(gaps)
        if i % 20 == 19:
            right = sum(e[:len(k)] == k for e, k in zip(expected, keys, strict=True))
            print(i + 1, "prompts,", right, "right", flush=True)
    save_file(dict(prompts=pad(prompts), expected=np.array(expected, dtype=np.uint16),
                   margins=np.array(margins, dtype=np.float32), keys=np.array(keys, dtype=np.uint16)),
              folder / "retrieval.safetensors")


def pad(prompts):
    """Prompts of different lengths in one array; 65535 fills the end."""
    out = np.full((len(prompts), max(map(len, prompts))), 65535, dtype=np.uint16)
    for row, prompt in zip(out, prompts, strict=True):
        row[:len(prompt)] = prompt
    return out


main(Path(sys.argv[1]), Path(sys.argv[2]))
