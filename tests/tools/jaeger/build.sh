#!/bin/sh
# Builds the real Jaeger (v2) that one test runs the trace query client against, and prints the binary's path.
#
# It is built once a machine, outside the repository, from the go.mod and go.sum beside this script: these are Jaeger's
# own at the pinned version, so that the dependency versions are those
# that its authors tested. About 400 CPU-seconds cold. The module lacks the web page's assets: use its API.
#
# usage: tests/tools/jaeger/build.sh    then    EVERRING_JAEGER_BIN=<the path> cargo test -p telemetry --test jaeger
set -eu

version=1.76.0
here=$(cd "$(dirname "$0")" && pwd)
out_dir="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/jaeger-$version"
out="$out_dir/jaeger"

if [ -x "$out" ]; then
    echo "$out"
    exit 0
fi
if ! command -v go >/dev/null 2>&1; then
    echo "jaeger: building it needs Go 1.24.6 or newer; install it (https://go.dev/dl) and try again" >&2
    exit 2
fi

mkdir -p "$out_dir"
# Built under another name and renamed: an interrupted build never leaves a file that looks finished.
building="$out_dir/.jaeger.$$"
trap 'rm -f "$building"' EXIT
trap 'exit 130' INT TERM
echo "jaeger: building $version into $out_dir (some minutes, once)" >&2
cd "$here"
# GOTOOLCHAIN=local: the compiler that is here, never a download of another. One package at a time by default, since
# the linker and the largest packages together want more memory than a small machine has.
GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 \
    go build -mod=readonly -trimpath -buildvcs=false -ldflags='-s -w' -o "$building" \
    github.com/jaegertracing/jaeger/cmd/jaeger >&2
mv "$building" "$out"
echo "$out"
