#!/usr/bin/env bash
# Builds hyc, fetches SmolLM2-135M-Instruct, imports and compiles it, and talks with it.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh --pip
file=$(examples/smollm2.sh)
cargo build --release --locked -p hyc
if [ ! -f target/smollm2.hyc ]; then
  ./target/release/hyc import "$file" --name smollm2 --context 8192 -o target/smollm2.toml
  ./target/release/hyc compile target/smollm2.toml -o target/smollm2.hyc
fi
./target/release/hyc chat target/smollm2.hyc "$@"
