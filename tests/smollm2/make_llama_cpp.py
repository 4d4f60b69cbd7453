"""What llama.cpp computes of the pieces of golden.safetensors (`make.py`): the likeliest token at each place, the next
likely one, and the logits of both, teacher-forced, on the file's numbers dequantised to f32, with KV caches of f32.

`python make_llama_cpp.py FILE.gguf` writes llama_cpp.safetensors anew; with --check it compares what is there. Needs
llama-cpp-python 0.3.36, which pip builds from its source, gguf 0.19 and safetensors. On processors with AMX build it
with CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON": its kernels for AMX crash on Q4_1 when GCC 12 compiled them.
"""

import pathlib
import sys
import tempfile

import gguf
import llama_cpp
import numpy
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "llama_cpp.safetensors"
F32 = 0  # GGML_TYPE_F32
# Of the writer itself: it counts tensors and keys, and writes its own version.
OWN = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type"}


def dequantised(file, to):
    """The same model, each block as the numbers that it stands for."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, field in reader.fields.items():
        if name not in OWN:
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in tensor.shape[::-1]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def computed(file, pieces):
    """Logits and ids of the two likeliest tokens at each place of each piece."""
    model = llama_cpp.Llama(
        str(file),
        n_ctx=pieces.shape[1],
        n_batch=pieces.shape[1],
        logits_all=True,
        type_k=F32,
        type_v=F32,
        flash_attn=False,
        verbose=False,
    )
    logits, best = [], []
    for piece in pieces:
        model.reset()
        model.eval(piece.tolist())
        rows = model.scores[: len(piece)]
        ids = numpy.argsort(-rows, axis=1, kind="stable")[:, :2]
        best.append(ids.astype(numpy.int32))
        logits.append(numpy.take_along_axis(rows, ids, axis=1).astype(numpy.float32))
    return {"best": numpy.stack(best), "logits": numpy.stack(logits)}


def main():
    pieces = load_file(HERE / "golden.safetensors")["tokens"]
    with tempfile.TemporaryDirectory() as folder:
        plain = pathlib.Path(folder) / "f32.gguf"
        dequantised(sys.argv[1], plain)
        made = computed(plain, pieces)
    if sys.argv[2:] == ["--check"]:
        assert numpy.allclose(made["logits"], load_file(GOLDEN)["logits"], rtol=1e-4, atol=1e-3)
    else:
        save_file(made, GOLDEN)
    print(f"{len(pieces)} pieces of {pieces.shape[1]} tokens")


main()
