#!/bin/sh
# Measures Everring beside etcd and beside a bare HTTP handler: builds what is needed, runs `bench/peers`, and leaves
# the result as JSON in target/figures/peers.json. The last line of its output is the same JSON.
#
# usage: bench/peers.sh [flags of `peers run`]        e.g. bench/peers.sh --rounds 1 --only everring-3,etcd-grpc
# QUICK=1          2 rounds of 2 s a phase instead of 5 of 5 s
# EVERRING_BIN     a built `everring`; otherwise the release build of this clone
# ETCD_BIN         a built `etcd`; otherwise tests/tools/etcd/build.sh gets one, or etcd is left out, loudly
set -eu

cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/everring/target}"
mkdir -p target/figures

if [ -z "${EVERRING_BIN:-}" ]; then
    cargo build --release --locked -p everring
    EVERRING_BIN="$CARGO_TARGET_DIR/release/everring"
fi
if [ -z "${ETCD_BIN:-}" ]; then
    ETCD_BIN=$(tests/tools/etcd/build.sh) || echo "peers: etcd cannot be had here: its rows are LEFT OUT" >&2
fi

# The etcd client's build wants a protocol buffer compiler; one comes from the package registry.
words=$(cargo run --quiet --release --locked --manifest-path bench/Cargo.toml -p protoc)
eval "$words"
cargo build --release --locked --manifest-path bench/Cargo.toml -p peers

set -- --everring "$EVERRING_BIN" --work target/figures --out target/figures/peers.json "$@"
if [ -n "${ETCD_BIN:-}" ]; then
    set -- --etcd "$ETCD_BIN" "$@"
fi
if [ "${QUICK:-}" = 1 ]; then
    # Before the flags given by hand, which win.
    set -- --rounds 2 --seconds 2 "$@"
fi
unset EVERRING_BIN ETCD_BIN
exec "$CARGO_TARGET_DIR/release/peers" run "$@"
