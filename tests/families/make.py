"""Tiny random checkpoints of the families that `hyc import` reads, as transformers writes them, with the logits that it
computes of them: `python make.py` writes the folders anew, `python make.py --check` compares. Needs torch 2.11 and
transformers 5.24.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = 40

SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=128,
    max_position_embeddings=256,
    initializer_range=0.3,
    bos_token_id=1,
    eos_token_id=2,
    torch_dtype="float32",
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=5000.0, factor=8.0, original_max_position_embeddings=16)

# Each folder: the model's class, its configuration's class, and what it is made with.
FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(head_dim=16)),
    "llama3": ("LlamaForCausalLM", "LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama-linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", dict(head_dim=12, sliding_window=None)),
    "mistral-window": ("MistralForCausalLM", "MistralConfig", dict(head_dim=8, sliding_window=8)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3-yarn": ("Qwen3ForCausalLM", "Qwen3Config", dict(head_dim=16, rope_parameters=YARN)),
}


def make(name, folder):
    """Writes a checkpoint, and the logits of one sequence."""
    model_class, config_class, more = FAMILIES[name]
    torch.manual_seed(1 + sorted(FAMILIES).index(name))
    config = getattr(transformers, config_class)(**SIZES | more)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("norm.weight"):
                value.uniform_(0.5, 1.5)
    tokens = torch.randint(0, SIZES["vocab_size"], (1, TOKENS), dtype=torch.int32)
    with torch.no_grad():
        logits = model(tokens.long()).logits
    model.save_pretrained(folder)
    save_file({"tokens": tokens[0], "logits": logits[0].contiguous()}, folder / "golden.safetensors")


def check(name):
    """Whether what lies there is what would be made."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make(name, folder)
        for file in ["model.safetensors", "golden.safetensors"]:
            made, kept = load_file(folder / file), load_file(HERE / name / file)
            assert made.keys() == kept.keys(), (name, file)
            for key in made:
                assert torch.allclose(made[key], kept[key], rtol=1e-5, atol=1e-5), (name, file, key)
        made, kept = (json.loads((at / "config.json").read_text()) for at in (folder, HERE / name))
        made.pop("transformers_version"), kept.pop("transformers_version")
        assert made == kept, name


def main():
    for name in FAMILIES:
        if sys.argv[1:] == ["--check"]:
            check(name)
        else:
            shutil.rmtree(HERE / name, ignore_errors=True)
            (HERE / name).mkdir()
            make(name, HERE / name)
    print(f"{len(FAMILIES)} families")


main()
