"""Tiny random checkpoints of the families that `hyc import` reads, as transformers writes them, with the logits that it
computes of them; and the weights of one in GGUF files, as ggml's package writes and reads them. `python make.py` writes
the folders anew, `python make.py NAME ...` those of these names, `python make.py --check` compares. Needs torch 2.11,
transformers 5.24, gguf 0.19 and sentencepiece 0.2.
"""

import io
import json
import pathlib
import shutil
import sys
import tempfile

import gguf
import numpy as np
import sentencepiece
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
# Two lists, neither of which ascends; `original` is above or below the number of tokens.
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=5000.0,
    short_factor=[1.0, 1.25, 0.8, 1.5, 2.0, 1.03, 3.0, 2.5],
    long_factor=[1.0, 2.5, 1.8, 6.5, 12.0, 9.06, 31.0, 24.5],
)
# The same of three quarters of a head of 16.
LONGROPE_OF_A_PART = LONGROPE | dict(
    short_factor=LONGROPE["short_factor"][:6],
    long_factor=LONGROPE["long_factor"][:6],
    partial_rotary_factor=0.75,
)

# Kinds of layers: full at both ends, and a window between.
KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
# A part of each head turns, by another base in layers with a window.
PARTIAL = dict(rope_type="default", partial_rotary_factor=0.334)
MIMO = dict(
    head_dim=12,
    v_head_dim=8,
    num_hidden_layers=4,
    num_key_value_heads=1,
    sliding_window=9,
    layer_types=KINDS,
    mlp_layer_types=["dense"] * 4,
    rope_parameters=dict(
        full_attention=PARTIAL | dict(rope_theta=5000.0), sliding_attention=PARTIAL | dict(rope_theta=100.0)
    ),
    # Nothing is routed.
    n_routed_experts=2,
    num_experts_per_tok=1,
    moe_intermediate_size=8,
)
# Experts that are chosen by sigmoids and their biases, behind a layer that has none.
ROUTED = dict(
    mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
    n_routed_experts=6,
    num_experts_per_tok=2,
    routed_scaling_factor=1.5,
    hidden_size=16,
    intermediate_size=24,
    vocab_size=64,
)

# Each folder: the model's class, its configuration's class, and what it is made with. Its seed is its place.
FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(head_dim=16)),
    "llama-linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    ),
    "llama3": ("LlamaForCausalLM", "LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("MistralForCausalLM", "MistralConfig", dict(head_dim=12, sliding_window=None)),
    "mistral-window": ("MistralForCausalLM", "MistralConfig", dict(head_dim=8, sliding_window=8)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3-yarn": ("Qwen3ForCausalLM", "Qwen3Config", dict(head_dim=16, rope_parameters=YARN)),
    "qwen3moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        dict(head_dim=8, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True),
    ),
    "llama-longrope-short": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(head_dim=16, rope_parameters=LONGROPE | dict(original_max_position_embeddings=64)),
    ),
    "llama-longrope-long": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(head_dim=16, rope_parameters=LONGROPE | dict(original_max_position_embeddings=16)),
    ),
    "qwen3-yarn-ramp": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        dict(head_dim=16, rope_parameters=YARN | dict(truncate=False)),
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        dict(head_dim=8, no_rope_layer_interval=2, tie_word_embeddings=True, pad_token_id=0),
    ),
    "phi3": (
        "Phi3ForCausalLM",
        "Phi3Config",
        dict(
            num_attention_heads=2,
            num_key_value_heads=1,
            original_max_position_embeddings=64,
            rope_parameters=dict(LONGROPE_OF_A_PART),
            sliding_window=300,
            pad_token_id=0,
        ),
    ),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", dict(num_key_value_heads=1, tie_word_embeddings=True)),
    "mimo": ("MiMoV2FlashForCausalLM", "MiMoV2FlashConfig", MIMO | dict(hidden_size=24, attention_value_scale=0.707)),
    "qwen2-windows": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        dict(hidden_size=24, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    ),
    "qwen3-windows": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        dict(
            head_dim=8,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=11,
            layer_types=KINDS,
            hidden_size=24,
        ),
    ),
    "ministral": (
        "MinistralForCausalLM",
        "MinistralConfig",
        dict(
            head_dim=8,
            num_hidden_layers=4,
            sliding_window=11,
            layer_types=[*KINDS[1:], "sliding_attention"],
            hidden_size=24,
        ),
    ),
    "smollm3-windows": (
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        dict(
            head_dim=8,
            hidden_size=24,
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=7,
            pad_token_id=0,
        ),
    ),
    "qwen3moe-dense": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        dict(
            head_dim=8,
            hidden_size=24,
            num_hidden_layers=4,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=12,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
        ),
    ),
    "mimo-experts": ("MiMoV2FlashForCausalLM", "MiMoV2FlashConfig", MIMO | ROUTED),
    # Weights of experts are those of the whole softmax.
    "qwen3moe-whole": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        dict(
            head_dim=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
            norm_topk_prob=False,
            vocab_size=64,
        ),
    ),
}


def make(name, folder):
    """Writes a checkpoint, and the logits of one sequence."""
    model_class, config_class, more = FAMILIES[name]
    torch.manual_seed(1 + list(FAMILIES).index(name))
    config = getattr(transformers, config_class)(**SIZES | more)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("norm.weight"):
                value.uniform_(0.5, 1.5)
            if key.endswith("sinks"):
                value.uniform_(-2.0, 2.0)
            if key.endswith(".bias"):
                value.uniform_(-1.0, 1.0)
        for key, value in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                value.uniform_(-0.4, 0.4)
    tokens = torch.randint(0, config.vocab_size, (1, TOKENS), dtype=torch.int32)
    with torch.no_grad():
        logits = model(tokens.long()).logits
    model.save_pretrained(folder)
    save_file({"tokens": tokens[0], "logits": logits[0].contiguous()}, folder / "golden.safetensors")


GGUF_SIZES = SIZES | dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=64)
GGUF_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
VOCABULARY = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789Ġ.", "th", "the", "Ġthe"]
VOCABULARY += [f"<free{i}>" for i in range(GGUF_SIZES["vocab_size"] - len(VOCABULARY))]
# Types whose blocks are made up: nothing here quantises to them.
BLOCK_TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K"]
# Where their scales stand, numbers of f16; else at the beginning.
SCALES = {
    "Q6_K": [208],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_1": [0, 2],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
}


def gguf_name(name):
    """A tensor's name in a GGUF file."""
    for theirs, own in GGUF_NAMES.items():
        name = name.replace(theirs, own)
    return name.replace("model.layers.", "blk.")


def pairs_side_by_side(rows, heads):
    """Rows of q or k with the pairs that turn side by side, as llama.cpp's converter has them."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def byte_level(writer):
    """A vocabulary of letters."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3 if token.startswith("<") else 1 for token in VOCABULARY])
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


# What SentencePiece learns its pieces of, and texts that it cuts: letters that it has not seen, and spaces anywhere.
LEARNT = [
    "the cat sat on the mat and then the other cat thought of the weather",
    "a théâtre, 12 numbers and 21 more: another mother gathered the heather there",
    "he heard that these three were near the sea, eating hot ham at the theatre",
    "banana bandana, an ananas and a cabana; cannot stand on sand and handle a sandal",
]
TEXTS = [
    "the cat",
    "  then  the   other ",
    "théâtre and weather, 12",
    "Zebra? ünseen \u2603 \U0001f388!",
    "\n\ttabs\n",
    "tttthhhheeee",
    "another sand theatre: heathens stand at hand, banananas; the catheter",
    "tethered handsome mothers eat thesandthereafter",
    " ",
]
FREE = 8


def learnt_pieces():
    """A small vocabulary of pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNT * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=376,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<|user|>"],
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def pieces(learnt):
    """What writes its vocabulary, with tokens behind it that no text has."""

    def kind(i):
        if learnt.is_unknown(i):
            return gguf.TokenType.UNKNOWN
        if learnt.is_control(i):
            return gguf.TokenType.CONTROL
        if learnt.is_byte(i):
            return gguf.TokenType.BYTE
        return gguf.TokenType.USER_DEFINED if learnt.id_to_piece(i) == "<|user|>" else gguf.TokenType.NORMAL

    def write(writer):
        ids = range(learnt.get_piece_size())
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([learnt.id_to_piece(i) for i in ids] + [f"[PAD{i}]" for i in range(FREE)])
        writer.add_token_scores([learnt.get_score(i) for i in ids] + [-1000.0] * FREE)
        writer.add_token_types([kind(i) for i in ids] + [gguf.TokenType.UNUSED] * FREE)
        writer.add_bos_token_id(learnt.bos_id())
        writer.add_eos_token_id(learnt.eos_id())
        writer.add_unk_token_id(learnt.unk_id())

    return write


def begun(path, architecture, config, theta):
    """A writer that has the sizes of a model."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    return writer


def end(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path, model, own, qtype, vocabulary=byte_level, factors=None):
    """Writes a model in a type, and gives the values that it stands for."""
    config = model.config
    writer = begun(path, "llama", config, 10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    vocabulary(writer)
    writer.add_chat_template("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}<s>")
    stands_for = {}
    for name, value in own.items():
        part = name.split(".")[-2]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part)
        # Norms stay as they are.
        to = qtype if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quantize(value, to)
        rows = pairs_side_by_side(stored, heads) if heads else stored
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(rows), raw_dtype=to)
        stands_for[name] = torch.from_numpy(gguf.dequantize(stored, to).astype(np.float32))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    end(writer)
    return stands_for


# Names that two architectures have beside those of llama's.
OTHER_NAMES = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
OTHERS = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", dict(tie_word_embeddings=True)),
    # A window and a part of each head, and lists for short and for long sequences: all of it is in the file.
    "phi3": (
        "Phi3ForCausalLM",
        "Phi3Config",
        dict(
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=13,
            pad_token_id=0,
            original_max_position_embeddings=64,
            rope_parameters=dict(LONGROPE_OF_A_PART),
        ),
    ),
}


def write_other(path, name, model, qtype):
    """Writes a model of another architecture, and gives the values that it stands for. No rows are exchanged."""
    config = model.config
    writer = begun(path, name, config, config.rope_parameters["rope_theta"])
    if name == "phi3":
        writer.add_rope_dimension_count(12)
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_scaling_orig_ctx_len(64)
        # sqrt(1 + ln(256 / 64) / ln(64))
        writer.add_rope_scaling_attn_factors(1.1547005383792517)
        for kind in ["short", "long"]:
            factors = np.array(config.rope_parameters[f"{kind}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    byte_level(writer)
    stands_for = {}
    for tensor, value in model.state_dict().items():
        if tensor == "lm_head.weight" and config.tie_word_embeddings:
            continue
        to = qtype if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quantize(value.numpy(), to)
        stands_for[tensor] = torch.from_numpy(gguf.dequantize(stored, to).astype(np.float32))
        for theirs, own in OTHER_NAMES.items():
            tensor = tensor.replace(theirs, own)
        writer.add_tensor(gguf_name(tensor), stored, raw_dtype=to)
    if config.tie_word_embeddings:
        stands_for["lm_head.weight"] = stands_for["model.embed_tokens.weight"]
    end(writer)
    return stands_for


def logits(model, stands_for, tokens):
    """What the model computes with these values."""
    model.load_state_dict(stands_for)
    model.config.rms_norm_eps = 1e-5
    for norm in [m for m in model.modules() if hasattr(m, "variance_epsilon")]:
        norm.variance_epsilon = 1e-5
    with torch.no_grad():
        return model(tokens.long()).logits[0].contiguous()


def make_gguf(folder):
    """Writes one model in each type, the logits of the values that it stands for, and blocks with their values."""
    torch.manual_seed(77)
    config = transformers.LlamaConfig(**GGUF_SIZES)
    model = transformers.LlamaForCausalLM(config).eval()
    own = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    tokens = torch.randint(0, config.vocab_size, (1, TOKENS), dtype=torch.int32)
    golden = {"tokens": tokens[0]}
    for kind in GGUF_TYPES:
        stands_for = write_gguf(folder / f"llama.{kind}.gguf", model, own, gguf.GGMLQuantizationType[kind])
        golden[f"logits.{kind}"] = logits(model, stands_for, tokens)
    # Llama 3.1's scaling, as llama.cpp's converter writes it: the frequencies of training over the scaled ones.
    scaled = transformers.LlamaConfig(**GGUF_SIZES, rope_parameters=LLAMA3 | dict(rope_theta=10000.0))
    scaled = transformers.LlamaForCausalLM(scaled).eval()
    factors = (model.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq).numpy()
    kind = gguf.GGMLQuantizationType.F32
    stands_for = write_gguf(folder / "llama.factors.gguf", scaled, own, kind, factors=factors)
    golden["logits.factors"] = logits(scaled, stands_for, tokens)
    learnt = learnt_pieces()
    config = transformers.LlamaConfig(**GGUF_SIZES | dict(vocab_size=learnt.get_piece_size() + FREE))
    more = transformers.LlamaForCausalLM(config).eval()
    own = {name: value.numpy().copy() for name, value in more.state_dict().items()}
    write_gguf(folder / "llama.pieces.gguf", more, own, gguf.GGMLQuantizationType.Q8_0, vocabulary=pieces(learnt))
    cut = [dict(text=text, ids=learnt.encode(text), back=learnt.decode(learnt.encode(text))) for text in TEXTS]
    (folder / "pieces.json").write_text(json.dumps(cut, indent=1) + "\n")
    for name, (model_class, config_class, other) in OTHERS.items():
        config = getattr(transformers, config_class)(**GGUF_SIZES | other)
        model = getattr(transformers, model_class)(config).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                if key.endswith(".bias"):
                    value.uniform_(-1.0, 1.0)
        stands_for = write_other(folder / f"{name}.gguf", name, model, gguf.GGMLQuantizationType.Q8_0)
        golden[f"logits.{name}"] = logits(model, stands_for, tokens)
    save_file(golden, folder / "golden.safetensors")

    numbers = np.random.default_rng(5)
    blocks = {}
    for kind in BLOCK_TYPES:
        qtype = gguf.GGMLQuantizationType[kind]
        block = numbers.integers(0, 256, (3, gguf.GGML_QUANT_SIZES[qtype][1]), dtype=np.uint8)
        # Scales that are finite: exponents of f16 from 2^-8 to 2^-1.
        for at in SCALES.get(kind, [0]):
            block[:, at + 1] = numbers.integers(0x1C, 0x38, 3) | numbers.integers(0, 2, 3) << 7
        blocks[f"{kind}.bytes"] = torch.from_numpy(block)
        blocks[f"{kind}.values"] = torch.from_numpy(gguf.dequantize(block, qtype).astype(np.float32))
    save_file(blocks, folder / "blocks.safetensors")


def check_gguf():
    """Whether what lies there is what would be made."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_gguf(folder)
        for made in sorted(folder.iterdir()):
            kept = HERE.parent / "gguf" / made.name
            if made.suffix in [".gguf", ".json"]:
                assert made.read_bytes() == kept.read_bytes(), made.name
            else:
                made, kept = load_file(made), load_file(kept)
                assert made.keys() == kept.keys()
                for key in made:
                    assert torch.allclose(made[key], kept[key], rtol=1e-5, atol=1e-5), key


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
    checks = sys.argv[1:] == ["--check"]
    wanted = [*FAMILIES, "gguf"] if checks or not sys.argv[1:] else sys.argv[1:]
    for name in wanted:
        of_gguf = name == "gguf"
        folder = HERE.parent / name if of_gguf else HERE / name
        if checks:
            check_gguf() if of_gguf else check(name)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make_gguf(folder) if of_gguf else make(name, folder)
    print(f"{len(FAMILIES)} families, {len(GGUF_TYPES)} GGUF files")


main()
