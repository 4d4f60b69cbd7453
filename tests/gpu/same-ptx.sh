#!/usr/bin/env bash
# Whether two checkouts make the same PTX, byte by byte: what a change that must not move an instruction is held against.
#
#   tests/gpu/same-ptx.sh OLD_TREE NEW_TREE
#
# All kernel cases, and every kernel of examples/models, of the tiny model and of tests/gpu/models, with bf16 and with
# f32 activations, of the first also with weights in int4, int8 and fp8, the last with rows in fp8; the descriptions are
# those of NEW_TREE. Prints a line for each function that differs or that one of
# the trees does not have, and fails where there is one. Both trees are built in their own target folders; what was
# compared stays in NEW_TREE/target/same-ptx, a file per function.
set -euo pipefail
if [ $# != 2 ]; then
  sed -n 's/^#   //p' "$0" >&2
  exit 2
fi
old=$(cd "$1" && pwd)
new=$(cd "$2" && pwd)
out=$new/target/same-ptx
rm -rf "$out"
mkdir -p "$out"

# split PTX FOLDER: a file per function, and `head` for what stands between them.
split() {
  mkdir -p "$2"
  awk -v folder="$2" '
    /^\.visible \.entry / { name = $3; sub(/\(.*/, "", name) }
    { file = folder "/" (name == "" ? "head" : name); print >> file }
    /^}/ { if (name != "") close(file); name = "" }' "$1"
}

# ptx_of TREE FOLDER: the PTX that a tree makes.
ptx_of() (
  tree=$1 folder=$2
  cd "$tree"
  . ./setup.sh --llvm
  cargo build -q --locked -p hyc-kernel-tests -p hyc --features hyc-kernel-tests/llvm,hyc/llvm --bin gpu-cases --bin hyc
  target/debug/gpu-cases --out "$folder/cases"
  for model in "$new"/examples/models/*.toml "$new/examples/tiny-hysparse/model.toml" "$new"/tests/gpu/models/*.toml; do
    name=$(basename "$model" .toml)
    if [ "$name" = model ]; then name=$(basename "$(dirname "$model")"); fi
    forms=("bf16" "f32")
    case $model in */examples/models/*) forms+=("bf16 int4" "bf16 int8" "fp8 fp8") ;; esac
    for form in "${forms[@]}"; do
      read -r activations format <<<"$form"
      ptx=$folder/$name-${form/ /-}.ptx
      target/debug/hyc compile -q --no-weights --target sm_90a --activations "$activations" ${format:+--quantise "$format"} \
        --emit ptx "$model" -o "$ptx"
      split "$ptx" "${ptx%.ptx}"
      rm "$ptx"
    done
  done
)

ptx_of "$old" "$out/old"
ptx_of "$new" "$out/new"

same=0 other=0
while read -r file; do
  if [ ! -e "$out/old/$file" ]; then
    echo "$file: the old tree has none"
  elif [ ! -e "$out/new/$file" ]; then
    echo "$file: the new tree has none"
  elif ! cmp -s "$out/old/$file" "$out/new/$file"; then
    echo "$file differs"
  else
    same=$((same + 1))
    continue
  fi
  other=$((other + 1))
done < <(cd "$out" && find old new -type f | sed 's,^[a-z]*/,,' | sort -u)
echo "$same the same, $other not"
[ "$other" = 0 ]
