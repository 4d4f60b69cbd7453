#!/usr/bin/env bash
# Every GPU kernel of every published configuration, of goldens and of the tiny model through ptxas, without a
# GPU: a table of what each takes, and failures on spills, local memory, serialised wgmma and the like.
#
#   tests/gpu/assemble.sh [--quiet] [MODEL.toml]...
set -euo pipefail
cd "$(dirname "$0")/../.."
. ./setup.sh --llvm
flags=
if [ "${1:-}" = --quiet ]; then flags=--quiet; shift; fi
models=("$@")
[ $# -gt 0 ] || models=(examples/models/*.toml examples/tiny-hysparse/model.toml tests/gpu/models/*.toml
  tests/golden/{block64,dense,dense-bf16,full,moe,moe-bf16,moe-sigmoid,no-window,own,shared-both,swa,wide,group-17}/model.toml)
tools=target/nvidia-tools
bin=$tools/nvidia/cu13/bin
if [ ! -x "$bin/ptxas" ] || [ ! -x "$bin/nvdisasm" ]; then
  python3 -m pip install -q --no-deps --target "$tools" nvidia-cuda-nvcc==13.0.88 nvidia-cuda-nvdisasm==13.4.92
  # pip leaves programs without the right to run.
  chmod +x "$bin"/*
fi
cargo build -q --locked -p hyc-tests --features llvm --bin gpu-assemble
target/debug/gpu-assemble $flags --ptxas "$bin/ptxas" --nvdisasm "$bin/nvdisasm" "${models[@]}"
