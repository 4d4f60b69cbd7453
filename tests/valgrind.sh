#!/usr/bin/env bash
# tests/valgrind.sh [ARGUMENTS OF hyc run]: the host's path under valgrind's memcheck: loading, threads, generated code and
# sampling on the tiny model, by `hyc run` and by the C program of `examples/c`. An error or a block that is lost ends it
# with exit code 1. Needs valgrind; takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is missing: install Debian's package of that name" >&2; exit 2; }
cargo build -q --locked -p hyc
hyc=target/debug/hyc
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$hyc" compile -q examples/tiny-hysparse/model.toml -o "$folder/tiny.hyc"
# Generated code has no debug information, and memory that a file is mapped to is no heap.
memcheck=(valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite
  --errors-for-leak-kinds=definite)
"${memcheck[@]}" "$hyc" run "$folder/tiny.hyc" --prompt "${PROMPT:-The kernel of the}" -n "${TOKENS:-2}" --threads 2 --temperature 0 "$@"
echo
runtime/capi/install.sh "$folder/c"
cc -std=c99 examples/c/generate.c -I"$folder/c/include" -L"$folder/c/lib" -lhyc -Wl,-rpath,"$folder/c/lib" \
  -o "$folder/generate"
"${memcheck[@]}" "$folder/generate" "$folder/tiny.hyc" "${PROMPT:-The kernel of the}"
