#!/usr/bin/env bash
# Builds hyc with its GPU target, and compiles the kernels of a 7B model to PTX as proof. Needs no GPU.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh --llvm
cargo build --release --locked -p hyc --features llvm,cuda
./target/release/hyc compile --plan-only --emit ptx --target sm_90a examples/models/hysparse-7b.toml \
  -o target/hysparse-7b.ptx
echo "target/hysparse-7b.ptx: $(grep -c '^\.visible \.entry' target/hysparse-7b.ptx) kernels"
