#!/bin/sh
# Builds the real Consul that tests run Everring and our discovery beside, and prints the binary's path.
#
# It is built once a machine, outside the repository, from the go.mod and go.sum beside this script: Consul's own at the
# pinned version, so that the dependency versions are those that its authors tested; its replacements by folders are
# dropped, the same modules stand in the registry. About 400 CPU-seconds cold, 130 MB.
#
# usage: tests/tools/consul/build.sh    then    EVERRING_CONSUL_BIN=<the path> cargo test -p discovery
set -eu

version=1.20.6
here=$(cd "$(dirname "$0")" && pwd)
out_dir="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/consul-$version"
out="$out_dir/consul"

if [ -x "$out" ]; then
    echo "$out"
    exit 0
fi
if ! command -v go >/dev/null 2>&1; then
    echo "consul: building it needs Go 1.23.8 or newer; install it (https://go.dev/dl) and try again" >&2
    exit 2
fi

mkdir -p "$out_dir"
# Built under another name and renamed: an interrupted build never leaves a file that looks finished.
building="$out_dir/.consul.$$"
trap 'rm -f "$building"' EXIT
trap 'exit 130' INT TERM
echo "consul: building $version into $out_dir (some minutes, once)" >&2
cd "$here"
# GOTOOLCHAIN=local: the compiler that is here, never a download of another. One package at a time by default, since
# the linker and the largest packages together want more memory than a small machine has.
GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 \
    go build -mod=readonly -trimpath -buildvcs=false -ldflags='-s -w' -o "$building" github.com/hashicorp/consul >&2
mv "$building" "$out"
echo "$out"
