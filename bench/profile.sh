#!/bin/sh
# Shows where the processor time of Everring's services goes under the load of `bench/peers.sh`: builds a program that
# keeps its symbols (apart from the release build), samples it with Linux's `perf`, and prints for each phase and role
# how much is the kernel's, and the costliest functions. Needs `perf` and the right to sample (root, or
# kernel.perf_event_paranoid <= 1).
#
# usage: bench/profile.sh [flags of `peers run`]
# EVERRING_BIN     an `everring` that was built with its symbols; otherwise one is built
set -eu

cd "$(dirname "$0")/.."
if ! command -v perf >/dev/null 2>&1; then
    echo "profile: perf is missing; install it (Debian: apt-get install linux-perf) and try again" >&2
    exit 2
fi
cache="${XDG_CACHE_HOME:-$HOME/.cache}/everring"
if [ -z "${EVERRING_BIN:-}" ]; then
    CARGO_TARGET_DIR="$cache/profile" CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
        cargo build --release --locked -p everring
    EVERRING_BIN="$cache/profile/release/everring"
fi
samples=target/figures/perf
rm -rf "$samples"
EVERRING_BIN="$EVERRING_BIN" ETCD_BIN=none bench/peers.sh \
    --only everring-3 --rounds 1 --seconds 8 --perf "$samples" --out target/figures/profile.json "$@"

for data in "$samples"/*.data; do
    echo
    echo "== $(basename "$data" .data)"
    echo "-- by what is executed"
    perf report --input "$data" --stdio --sort dso --percent-limit 1 2>/dev/null | grep -E '^ +[0-9]' || true
    echo "-- by function, the costliest"
    perf report --input "$data" --stdio --sort dso,symbol --percent-limit 0.8 2>/dev/null |
        grep -E '^ +[0-9]' | head -n 40 || true
done
