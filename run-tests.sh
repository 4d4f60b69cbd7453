#!/usr/bin/env bash
# Passes the tests. Those of a real checkpoint, which is fetched once where Python's pip is there, come last.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh --cxx
cargo test --workspace --locked
if python3 -m pip --version >/dev/null 2>&1 && examples/smollm2.sh >/dev/null; then
  cargo test --workspace --test smollm2 --locked -- --ignored --nocapture
else
  echo "SKIPPED: the tests of SmolLM2-135M-Instruct, which could not be fetched (it takes python3-pip and the network)"
fi
