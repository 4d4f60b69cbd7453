#!/usr/bin/env bash
# What threads cost beyond the cores that are free: HYC=target/release/hyc tests/pool/oversubscribed.sh [MODEL]
# On a quiet machine. Decodes on one core with 1 to 16 threads, then on all cores with 1, all and 8 times as many; the
# aim is under 1.5 times the time of as many threads as cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
hyc=${HYC:-target/release/hyc}
model=${1:-}
if [ -z "$model" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  model=$folder/tiny.hyc
  "$hyc" compile examples/tiny-hysparse/model.toml -q -o "$model"
fi
decode() { # CORES THREADS
  taskset -c "$1" "$hyc" bench "$model" --context 512 --prefill 64 --steps 64 --threads "$2" --json |
    python3 -c 'import json, sys; print("%.3f ms per step" % (1e3 * json.load(sys.stdin)["decode"][0]["seconds"]))'
}
cores=$(nproc)
for threads in 1 2 4 8 16; do echo "one core, $threads threads: $(decode 0 "$threads")"; done
for threads in 1 "$cores" $((8 * cores)); do
  echo "$cores cores, $threads threads: $(decode "0-$((cores - 1))" "$threads")"
done
