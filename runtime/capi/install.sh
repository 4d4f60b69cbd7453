#!/usr/bin/env bash
# runtime/capi/install.sh [PREFIX]: builds libhyc and installs it with hyc.h and hyc.pc, in /usr/local without PREFIX.
# FEATURES=cuda builds it for GPUs, too.
set -euo pipefail
prefix=$(realpath -m "${1:-/usr/local}")
cd "$(dirname "$0")/../.."
. ./setup.sh
cargo build --release --locked -p hyc-capi ${FEATURES:+--features "$FEATURES"}
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
release=${CARGO_TARGET_DIR:-target}/release
install -d "$prefix/lib/pkgconfig" "$prefix/include"
install -m 644 runtime/capi/include/hyc.h "$prefix/include/"
install -m 644 "$release/libhyc_c.a" "$prefix/lib/libhyc.a"
install -m 755 "$release/libhyc_c.so" "$prefix/lib/libhyc.so"
cat > "$prefix/lib/pkgconfig/hyc.pc" <<END
prefix=$prefix
Name: hyc
Description: Runs compiled HySparse language models
Version: $version
Cflags: -I\${prefix}/include
Libs: -L\${prefix}/lib -lhyc
Libs.private: -lpthread -lm -ldl
END
echo "libhyc $version is in $prefix"
