#!/bin/sh
# Measures the figures of the fleet: builds what is needed and runs `bench/figures`. The last line of its output is one
# line of JSON; the same object with its circumstances is left in target/figures/fleet.json. Exit status 1 when a figure
# misses its bar.
#
# usage: bench/figures-fleet.sh [flags of `figures`]        e.g. bench/figures-fleet.sh --only chaos --seed 7
# QUICK=1          30 s of chaos instead of 300, 300 simulated schedules instead of 10,000
# EVERRING_BIN     a built `everring`; otherwise the release build of this clone
set -eu

cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/everring/target}"

if [ -z "${EVERRING_BIN:-}" ]; then
    cargo build --release --locked -p everring
    EVERRING_BIN="$CARGO_TARGET_DIR/release/everring"
fi
cargo build --release --locked --manifest-path bench/Cargo.toml -p figures

everring=$EVERRING_BIN
unset EVERRING_BIN
exec "$CARGO_TARGET_DIR/release/figures" --everring "$everring" "$@"
