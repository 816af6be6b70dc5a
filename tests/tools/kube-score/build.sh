#!/bin/sh
# Builds kube-score, the linter of the manifests, and prints its path. Once a machine, outside the repository; a minute.
set -eu

version=1.20.0
here=$(cd "$(dirname "$0")" && pwd)
out_dir="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/kube-score-$version"
out="$out_dir/kube-score"
if [ -x "$out" ]; then
    echo "$out"
    exit 0
fi
if ! command -v go >/dev/null 2>&1; then
    echo "kube-score: building it needs Go; install it (https://go.dev/dl) and try again" >&2
    exit 2
fi
mkdir -p "$out_dir"
building="$out_dir/.kube-score.$$"
trap 'rm -f "$building"' EXIT
trap 'exit 130' INT TERM
cd "$here"
GOTOOLCHAIN=local GOFLAGS= CGO_ENABLED=0 \
    go build -mod=mod -trimpath -buildvcs=false -ldflags='-s -w' -o "$building" github.com/zegl/kube-score/cmd/kube-score >&2
mv "$building" "$out"
echo "$out"
