# Sourced by the scripts beside it: installs what a build needs beyond Rust, where it is missing.
if ! command -v cargo >/dev/null; then
  echo "error: cargo is missing: install Rust 1.95 (https://rustup.rs) first" >&2
  exit 1
fi
if ! command -v cc >/dev/null; then
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -q && $sudo apt-get install -y -q gcc libc6-dev
fi
