#!/usr/bin/env bash
# Builds all that run.sh needs on a machine with a GPU but without Rust or LLVM, into a folder (target/gpu).
#
#   tests/gpu/build.sh [FOLDER]
#
# bin/       gpu-check, gpu-parity, gpu-shapes, gpu-long, gpu-hang, gpu-load, gpu-smollm2, gpu-runtime, hyc: stripped, no LLVM inside
# cases.tgz  PTX of all kernel cases
# goldens.tgz, families.tgz, models.tgz, tiny.tgz  GPU artefacts: the goldens, tests/families as imported, tests/gpu/models
#            with random weights, the trained tiny model; each is enough for run.sh, which checks those that came along
# shapes/    tests/gpu/shapes without weights: some MiB
# smollm2/   SmolLM2-135M-Instruct without weights, f32 and bf16, which run.sh puts in where the file is: examples/smollm2.sh
# long/      the whole 80B in four bits without weights, with full attention, too; cut/ its first four layers
# tune/      published shapes with code of all variants, for `hyc tune`
set -euo pipefail
cd "$(dirname "$0")/../.."
. ./setup.sh --llvm
out=${1:-target/gpu}
rm -rf "${out:?}"/{bin,cases,models,shapes,smollm2,tune,long,cut}
mkdir -p "$out"/{bin,models,shapes,smollm2,tune,long,cut}
# Packs all that is in models/ under a name of its own.
pack() {
  tar -C "$out" -czf "$out/$1.tgz" models
  rm -r "$out/models"
  mkdir "$out/models"
}

# What compiles kernels stays here; it need not be fast.
cargo build --locked -p hyc-kernel-tests -p hyc --features hyc-kernel-tests/llvm,hyc/llvm --bin gpu-cases --bin hyc
target/debug/gpu-cases --out "$out/cases" | tee "$out/cases.log"
tar -C "$out" -czf "$out/cases.tgz" cases
rm -r "$out/cases"

for model in tests/golden/*/model.toml; do
  name=$(basename "$(dirname "$model")")
  target/debug/hyc compile -q --target sm_90a "$model" -o "$out/models/$name.hyc"
  # Golden tensors of bf16 weights and float64 activations.
  case $name in exact* | moe-sigmoid) target/debug/hyc compile -q --target sm_90a --activations f32 "$model" \
    -o "$out/models/$name-f32.hyc" ;; esac
done
pack goldens
# Checkpoints as transformers writes them, whose logits it computes in f32.
for checkpoint in tests/families/*/; do
  name=$(basename "$checkpoint")
  args=()
  # Beyond the context that its factors were trained for, as its golden tensors are.
  [ "$name" != llama-longrope-long ] || args=(--context 256)
  target/debug/hyc import "$checkpoint" "${args[@]}" -o "$out/model.toml"
  target/debug/hyc compile -q --target sm_90a "$out/model.toml" -o "$out/models/$name.hyc"
done
rm "$out/model.toml"
pack families
for model in tests/gpu/models/*.toml; do
  target/debug/hyc compile -q --target sm_90a --random-weights 1 "$model" -o "$out/models/$(basename "$model" .toml).hyc"
done
pack models
target/debug/hyc compile -q --target sm_90a examples/tiny-hysparse/model.toml -o "$out/models/tiny-hysparse.hyc"
# The same with f32 activations, which gives the CPU's tokens.
target/debug/hyc compile -q --target sm_90a --activations f32 examples/tiny-hysparse/model.toml -o "$out/models/tiny-hysparse-f32.hyc"
pack tiny
rmdir "$out/models"
for model in tests/gpu/shapes/*.toml; do
  target/debug/hyc compile -q --no-weights "$model" -o "$out/shapes/$(basename "$model" .toml).hyc"
done
checkpoint=$(examples/smollm2.sh)
for type in f32 bf16; do
  model=$out/smollm2/$type.toml
  target/debug/hyc import "$checkpoint" --name smollm2 --dtype "$type" --context 128 --no-tokenizer -o "$model"
  printf 'max_batch = 16\nmax_outputs = 16\n' >>"$model"
  target/debug/hyc compile -q --no-weights --target sm_90a --activations "$type" "$model" -o "${model%.toml}.hyc"
  # The file is looked for beside the description.
  sed -i "s#^files = .*#files = [\"$(basename "$checkpoint")\"]#" "$model"
done
# A million tokens of one sequence, or eight of 131,072.
for model in examples/models/{hysparse-80b,hysparse-80b-qk192,full-80b}.toml; do
  sed 's/^max_batch.*/max_batch = 8/; s/^chunk.*/chunk = 2048/' "$model" >"$out/model.toml"
  target/debug/hyc compile -q --no-weights --quantise int4 --target sm_90a "$out/model.toml" \
    -o "$out/long/$(basename "$model" .toml).hyc"
done
# What the interpreter computes in minutes: four layers, fewer tokens, of which some are selected, and a small vocabulary.
sed 's/^layers.*/layers = 4/; s/^full = .*/full = [0, 3]/; s/^vocab.*/vocab = 4096/; s/^top_k.*/top_k = 64/
  s/^max_context.*/max_context = 128/; s/^max_batch.*/max_batch = 3/; s/^chunk.*/chunk = 128/
  s/^\[target\]/&\nmax_outputs = 128/' \
  examples/models/hysparse-80b.toml >"$out/model.toml"
target/debug/hyc compile -q --no-weights --quantise int4 --target sm_90a "$out/model.toml" -o "$out/cut/hysparse-80b-4.hyc"
rm "$out/model.toml"
# Decodes of up to 64 sequences, with every layer that has kernels of its own.
for model in examples/models/{hysparse,full,swa}-7b.toml tests/gpu/shapes/hysparse-80b-qk192-13.toml; do
  sed 's/^max_context.*/max_context = 16384/; s/^max_batch.*/max_batch = 64/; s/^chunk.*/chunk = 2048/
    s/^max_outputs.*//; s/^\[target\]/&\nmax_outputs = 64/' "$model" >"$out/tune/model.toml"
  target/debug/hyc compile -q --no-weights --all-variants --target sm_90a "$out/tune/model.toml" \
    -o "$out/tune/$(basename "$model" .toml).hyc"
done
rm "$out/tune/model.toml"

# What is carried there.
cargo build --locked --release -p hyc-kernel-tests -p hyc-tests -p hyc \
  --features hyc-kernel-tests/cuda,hyc-tests/cuda,hyc/cuda --bin gpu-check --bin gpu-parity --bin gpu-shapes --bin gpu-long --bin gpu-hang --bin gpu-load --bin gpu-smollm2 --bin hyc
for program in gpu-check gpu-parity gpu-shapes gpu-long gpu-hang gpu-load gpu-smollm2 hyc; do
  cp "target/release/$program" "$out/bin/"
  strip "$out/bin/$program"
done
# The runtime's own tests on a device are a test binary.
device=$(cargo test --locked --release -p hyc-runtime --features cuda --test device --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*device-[^"]*\)".*/\1/p')
cp "$device" "$out/bin/gpu-runtime"
strip "$out/bin/gpu-runtime"
du -ch --apparent-size "$out"/bin/* "$out"/*.tgz "$out"/shapes/*
