#!/usr/bin/env bash
# Sourced by the scripts beside it, or run: installs what a build needs beyond Rust, where it is missing.
# With --cxx also a C++ compiler, which the tests of hyc.h need; with --llvm also LLVM and MLIR 22, which the feature
# `llvm` (GPU targets) needs; with --lint what looks at Python and shell; with --browser Chromium, in which the page of
# `hyc view` is tried; with --pip what fetches Python packages.
if ! command -v cargo >/dev/null; then
  echo "error: cargo is missing: install Rust 1.95 (https://rustup.rs) first" >&2
  exit 1
fi
needed=() cxx='' llvm='' lint='' browser='' pip=''
for option; do
  case $option in --cxx) cxx=1 ;; --llvm) llvm=1 cxx=1 ;; --lint) lint=1 ;; --browser) browser=1 ;; --pip) pip=1 ;; esac
done
command -v cc >/dev/null || needed+=(gcc libc6-dev)
# What reads LLVM's tables is C++, too.
if [ "$cxx" ]; then command -v c++ >/dev/null || needed+=(g++); fi
if [ "$llvm" ]; then
  # libpolly and libclang-common are needed even where all is linked dynamically.
  for package in llvm-22-dev libmlir-22-dev libpolly-22-dev libclang1-22 libclang-common-22-dev \
    zlib1g-dev libzstd-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || needed+=("$package")
  done
fi
if [ "$lint" ]; then command -v shellcheck >/dev/null || needed+=(shellcheck); fi
if [ "$browser" ]; then command -v chromium >/dev/null || needed+=(chromium); fi
if [ "$llvm$lint$pip" ]; then
  # ptxas (tests/gpu/assemble.sh) and ruff (.ci/lint) come from Python packages; .ci/wheel installs one where it is new.
  python3 -m pip --version >/dev/null 2>&1 || needed+=(python3-pip)
fi
if [ "$lint" ]; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
fi
if [ ${#needed[@]} -gt 0 ]; then
  sudo=(); [ "$(id -u)" = 0 ] || sudo=(sudo)
  size=''
  case ${needed[*]} in *llvm-22*|*mlir-22*) size=' (LLVM and MLIR are 200 MB to download, 2 GB on disk)' ;; esac
  echo "installing Debian packages: ${needed[*]}$size"
  "${sudo[@]}" apt-get update -q
  for package in "${needed[@]}"; do
    if ! apt-cache show "$package" >/dev/null 2>&1; then
      echo "error: no apt source has the package $package." >&2
      echo "Debian 12 has LLVM 22 in its suite bookworm-security: add that to the apt sources and repeat." >&2
      exit 1
    fi
  done
  "${sudo[@]}" apt-get install -y -q --no-install-recommends "${needed[@]}"
fi
unset needed cxx llvm lint browser pip option size
