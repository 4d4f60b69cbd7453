#!/usr/bin/env bash
# What a program takes that is linked with the tiny model, with text and without: crates, seconds to build the runtime
# from nothing, bytes of the stripped program, and milliseconds from its start to its first token (of 30 starts the
# median; files are in the page cache, the processor's caches are not warm). Its weights lie beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# first_token PROGRAM: microseconds until it prints. What else it prints is read, too.
first_token() {
  local begin=$EPOCHREALTIME end output
  exec {output}< <("$@")
  read -r -N 1 -u "$output"
  end=$EPOCHREALTIME
  cat <&"$output" >/dev/null
  exec {output}<&-
  echo "$((${end/./} - ${begin/./}))"
}

printf '%-14s %7s %9s %12s %16s\n' runtime crates 'build, s' 'program, MB' 'first token, ms'
for features in --features=text --no-default-features; do
  crates=$(cargo tree -q --locked -p hyc-runtime $features -e normal --prefix none | awk '{ print $1, $2 }' | sort -u | wc -l)
  begin=$SECONDS
  cargo build -q --release --locked -p hyc-runtime $features --target-dir "$work/$features"
  seconds=$((SECONDS - begin))
  cargo build -q --release --locked -p hyc-examples --bin linked $features
  strip -o "$work/linked" target/release/linked
  prompt='The kernel'
  [ "$features" = --features=text ] || prompt=17,4
  times=$(for _ in {1..30}; do first_token "$work/linked" "$prompt"; done | sort -n | sed -n 15p)
  printf '%-14s %7d %9d %12s %16s\n' "${features#--}" "$crates" "$seconds" \
    "$(stat -c %s "$work/linked" | awk '{ printf "%.2f", $1 / 1e6 }')" "$(awk "BEGIN { printf \"%.1f\", $times / 1e3 }")"
done
