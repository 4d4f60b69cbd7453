#!/usr/bin/env bash
# Builds hyc, compiles the trained tiny model, and streams a continuation of the prompt.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh
cargo build --release --locked -p hyc
./target/release/hyc compile examples/tiny-hysparse/model.toml -o target/tiny-hysparse.hyc
./target/release/hyc run target/tiny-hysparse.hyc --prompt "${1:-The kernel}"
