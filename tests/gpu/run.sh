#!/usr/bin/env bash
# Runs on a machine with an H100 or H200 what build.sh made; needs CUDA's ptxas and compute-sanitizer, no Rust and
# no LLVM. Prints one table at the end; exit 1 where anything failed.
#
#   tests/gpu/run.sh [--skip PART]... [--only PART]... [--seed N] [FOLDER]
#
# Parts: kernels runtime parity smollm2 shapes long hang slices memcheck racecheck initcheck. FOLDER is target/gpu by default. Logs go
# to $OUT, or to FOLDER/logs. The part smollm2 needs the file of examples/smollm2.sh in FOLDER/smollm2.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
parts=(kernels runtime parity smollm2 shapes long hang slices memcheck racecheck initcheck)
folder=target/gpu
seed=$(date +%s)
only=()
while [ $# -gt 0 ]; do
  case $1 in
  --skip) mapfile -t parts < <(printf '%s\n' "${parts[@]}" | grep -vx "$2"); shift ;;
  --only) only+=("$2"); shift ;;
  --seed) seed=$2; shift ;;
  -*) echo "error: $1 is not known: see the head of $0" >&2; exit 2 ;;
  *) folder=$1 ;;
  esac
  shift
done
[ ${#only[@]} -eq 0 ] || parts=("${only[@]}")
logs=${OUT:-$folder/logs}
mkdir -p "$logs"
PATH=$PATH:/usr/local/cuda/bin
for packed in cases goldens families models tiny; do
  archive=$folder/$packed.tgz
  [ -f "$archive" ] || continue
  if [ ! -f "$archive.done" ] || [ "$archive.done" -ot "$archive" ]; then
    tar -C "$folder" -xzf "$archive" || exit 1
    touch "$archive.done"
  fi
done
check=("$folder/bin/gpu-check" "$folder/cases" --seed "$seed")

# A sanitizer's run of the small cases: one thread at a time on the GPU, and long waits are no hang. The driver
# assembles: compute-sanitizer follows every child, and 2025.3 dies of many ptxas that start at once.
sanitize() {
  local tool=$1
  shift
  compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 9 "${check[@]}" --small --jit --timeout 300 "$@"
}

# The decode of a model in slices, which are no cases of their own, under a sanitizer.
sliced() {
  local model=$1
  shift
  compute-sanitizer --tool "$@" --error-exitcode 9 "$folder/bin/gpu-parity" "$folder/models" --filter "$model"
}

# A pretrained model: its weights are put in here.
pretrained() {
  local at=$folder/smollm2 whole
  whole=$(mktemp -d)
  for type in f32 bf16; do
    "$folder/bin/hyc" add-weights -q "$at/$type.hyc" "$at/$type.toml" -o "$whole/smollm2-$type.hyc" || return 1
  done
  timeout 200 "$folder/bin/gpu-smollm2" "$whole"
  local status=$?
  rm -r "$whole"
  return $status
}

run() {
  case $1 in
  kernels) "${check[@]}" ;;
  # What would skip itself without a GPU fails instead.
  runtime) HYC_NEEDS_GPU=1 "$folder/bin/gpu-runtime" --nocapture ;;
  parity) timeout 400 "$folder/bin/gpu-parity" "$folder/models" ;;
  smollm2) pretrained ;;
  shapes) timeout 470 "$folder/bin/gpu-shapes" "$folder/shapes" --long 100 --endless 10000 ;;
  # The 80B in four bits, whole, and four layers of it beside the interpreter.
  long) timeout 300 "$folder/bin/gpu-long" "$folder/long" && timeout 170 "$folder/bin/gpu-parity" "$folder/cut" --random-weights 1 ;;
  # A process of its own: CUDA fails every later call of one in which a kernel failed.
  hang) timeout 120 "$folder/bin/gpu-hang" "$folder/models" ;;
  # Racecheck 2025.3 fails to handle an exception in `strips-*` and `tiled-all`, even where it looks at no kernel (`--kernel-name
  # kernel_substring=nothing`): that is not the slices' doing, and it says nothing of them.
  slices)
    for model in dense-bf16 strips-int4 strips-mixed sliced-moe sliced-strips-moe; do
      sliced "$model" memcheck && sliced "$model" initcheck || return 1
    done
    sliced dense-bf16 racecheck --kernel-name kernel_substring=slice
    ;;
  memcheck) sanitize memcheck ;;
  # A last page is cleared behind its newest token by a warp group, and the notes of shared pages are read by whole warps,
  # before one thread of each says that the stage is used up and may be written again. That all threads are through by then, a
  # barrier of theirs sees to (flash_prefill.rs, `clear`; shared_pages/visit.rs, `attend`); racecheck 2025.3 does not follow
  # an order through two barriers, and reports these.
  racecheck) sanitize racecheck --without 'by flash' --without 'by shared_pages' ;;
  # Scratch is set first, as the runtime does: the copy engine takes whole tiles, and what stands behind a step's last
  # row is what was there before. The other runs set it to NaN, so that no result can come from it.
  initcheck) sanitize initcheck ;;
  *) echo "error: $1 is no part"; return 2 ;;
  esac
}

status=0
table=
for part in "${parts[@]}"; do
  log=$logs/$part.log
  echo "== $part (seed $seed, $log)"
  start=$SECONDS
  if run "$part" >"$log" 2>&1; then verdict=pass; else verdict="FAIL ($?)"; status=1; fi
  # A sanitizer's exit code may be that of the process that started the one with the GPU.
  if grep -qE 'SUMMARY: [1-9]' "$log"; then verdict="FAIL"; status=1; fi
  # What failed, and the part's own table.
  grep -E '^FAIL|  FAIL|^error|ERROR SUMMARY|RACECHECK SUMMARY|========= (Invalid|Error|Uninit|Race|Program)' "$log" | sort | uniq -c | sort -rn | head -40
  sed -n '/^kernels  /,$p' "$log" | grep -v '^=' | head -40
  if [ "$part" = shapes ] || [ "$part" = long ]; then grep -E '  (pass|FAIL)  ' "$log"; fi
  table="$table$(printf '%-10s %-10s %5s s  %s' "$part" "$verdict" $((SECONDS - start)) "$(grep -E '^[0-9]+ (cases|checks),' "$log" | tail -1)")\n"
done
printf '\n%b' "$table"
exit $status
