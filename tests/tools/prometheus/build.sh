#!/bin/sh
# Builds the real Prometheus (3.5, the version that the manifests pin) and its promtool, and prints their folder.
#
# Built once a machine, outside the repository, from the go.mod and go.sum beside this script: these are Prometheus's own
# at the pinned version. The module lacks the web page's assets: use its API. Debian's package will not do, since it
# was built without the discovery by Consul's API.
#
# usage: "$(tests/tools/prometheus/build.sh)/promtool" check config observability/prometheus/prometheus.yaml
set -eu

version=3.5.0
here=$(cd "$(dirname "$0")" && pwd)
out="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/prometheus-$version"

if [ -x "$out/prometheus" ] && [ -x "$out/promtool" ]; then
    echo "$out"
    exit 0
fi
if ! command -v go >/dev/null 2>&1; then
    echo "prometheus: building it needs Go 1.23 or newer; install it (https://go.dev/dl) and try again" >&2
    exit 2
fi

mkdir -p "$out"
building="$out/.building.$$"
trap 'rm -rf "$building"' EXIT
trap 'exit 130' INT TERM
mkdir "$building"
echo "prometheus: building $version into $out (some minutes, once)" >&2
cd "$here"
GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:--p=2}" CGO_ENABLED=0 \
    go build -mod=mod -trimpath -buildvcs=false -gcflags=all=-dwarf=false -ldflags='-s -w' -o "$building/" \
    github.com/prometheus/prometheus/cmd/promtool github.com/prometheus/prometheus/cmd/prometheus >&2
# Renamed when finished: an interrupted build never leaves a file that looks finished.
mv "$building/promtool" "$building/prometheus" "$out/"
echo "$out"
