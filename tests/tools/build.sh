#!/bin/sh
# Builds a tool that tests and figures run beside Everring, from its Go module, and prints a program's path.
#
# It is built once a machine, outside the repository, from the go.mod, go.sum and packages beside this script, in the
# folder of the tool's name. The go.mod files are the tools' own at the pinned versions, so that the dependencies are
# those that their authors tested; Consul's replacements by folders are dropped: the registry has the same modules.
# CPU-seconds cold: consul and jaeger 400, prometheus 300, etcd 100, kube-score 60. The modules lack the web pages'
# assets: use the APIs.
#
# usage: tests/tools/build.sh TOOL [PROGRAM]    consul, etcd server, jaeger, kube-score, prometheus [promtool]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tool=${1-}
program=${2:-$tool}
if [ ! -f "$here/$tool/packages" ]; then
    known=$(cd "$here" && echo */packages | sed 's|/packages||g')
    echo "usage: tests/tools/build.sh TOOL [PROGRAM]; the tools are $known" >&2
    exit 2
fi
cd "$here/$tool"
# Other pins, another folder: nothing is ever mixed.
key=$(cat go.mod go.sum packages | sha256sum | cut -c1-12)
out="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/$tool-$key"
if [ ! -d "$out" ]; then
    if ! command -v go >/dev/null 2>&1; then
        wanted=$(awk '$1 == "go" { print $2; exit }' go.mod)
        echo "$tool: building it needs Go $wanted or newer; install it (https://go.dev/dl) and try again" >&2
        exit 2
    fi
    mkdir -p "$(dirname "$out")"
    # Built under another name and renamed: an interrupted build never leaves anything that looks finished.
    building="$out.$$"
    trap 'rm -rf "$building"' EXIT
    trap 'exit 130' INT TERM
    mkdir "$building"
    echo "$tool: building it into $out (some minutes, once)" >&2
    # GOTOOLCHAIN=local: the compiler that is here, never a download of another. One package at a time by default, since
    # the linker and the largest packages together want more memory than a small machine has.
    while read -r package; do
        GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 \
            go build -mod=readonly -trimpath -buildvcs=false -gcflags=all=-dwarf=false -ldflags='-s -w' \
            -o "$building/" "$package" >&2 </dev/null
    done <packages
    # Another one that was building it may have been faster.
    [ -d "$out" ] || mv "$building" "$out"
fi
if [ ! -x "$out/$program" ]; then
    echo "$tool: there is no program $program in $out; remove that folder to build it anew" >&2
    exit 2
fi
echo "$out/$program"
