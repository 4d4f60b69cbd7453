#!/usr/bin/env bash
# Passes the tests.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh --cxx
cargo test --workspace --locked
