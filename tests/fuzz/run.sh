#!/usr/bin/env bash
# tests/fuzz/run.sh [SECONDS [TARGET...]]: fuzzes each target for so long (default: 600) with libFuzzer.
# Needs a C++ compiler beside Rust. A finding ends it with exit code 1 and a file to reproduce it.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-600}
shift || true
targets=${*:-model_toml text_ir artefact tokenizer checkpoint packing blocks}
root=$PWD/../..
. "$root/setup.sh"
cargo build --release --locked -p hyc --manifest-path "$root/Cargo.toml"
hyc=$root/target/release/hyc

# Coverage counters as cargo-fuzz sets them, without its nightly compiler and its sanitizer.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$host"
bin=$PWD/target/$host/release

seeds=target/seeds
rm -rf $seeds
mkdir -p $seeds/model_toml $seeds/text_ir $seeds/artefact $seeds/tokenizer $seeds/checkpoint $seeds/packing $seeds/blocks
cp "$root"/tests/configs/*/*.toml "$root"/tests/golden/*/model.toml $seeds/model_toml --backup=numbered
cp "$root"/tests/families/*/config.json "$root"/tests/gguf/{llama.Q*,qwen2,phi3}.gguf $seeds/checkpoint --backup=numbered
find "$root/tests/filetests" "$root/ir/graph/src" -name '*.hyir' -exec cp --backup=numbered {} $seeds/text_ir \;
i=0
for model in "$root"/tests/golden/*/model.toml; do
  "$hyc" compile --random-weights 1 "$model" -o "$seeds/artefact/$((i++))" >/dev/null 2>&1
done
HYC_SEEDS=$seeds/artefact "$bin/artefact"
HYC_SEEDS=$seeds/tokenizer "$bin/tokenizer"

for target in $targets; do
  mkdir -p "target/corpus/$target"
  longest=65536
  if [ "$target" = tokenizer ]; then longest=524288; fi
  "$bin/$target" -max_total_time="$seconds" -max_len="$longest" -timeout=20 -rss_limit_mb=4096 \
    -artifact_prefix="target/$target-" -print_final_stats=1 "target/corpus/$target" "$seeds/$target"
done
