#!/bin/sh
# Prints the path of an etcd server, the peer that `make bench-peers` measures beside Everring.
#
# In this order: one that was obtained before; Debian's package (3.4.23 on bookworm), unpacked into the cache and not
# installed, so that no service is started and no root is needed; built by Go from the go.mod and go.sum beside this
# script (3.6.8, about 100 CPU-seconds cold). What is obtained is kept outside the repository. ETCD_FROM=debian or
# ETCD_FROM=go asks for one of them.
#
# usage: ETCD_BIN=$(tests/tools/etcd/build.sh)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools"
from=${ETCD_FROM:-any}

# What is unfinished has another name: an interrupted run never leaves something that looks finished.
scratch="$tools/.etcd.$$"
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

by_debian() {
    out_dir="$tools/etcd-debian"
    if [ ! -x "$out_dir/usr/bin/etcd" ]; then
        command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 1
        echo "etcd: unpacking Debian's etcd-server into $out_dir" >&2
        mkdir -p "$scratch/package" "$scratch/tree" || return 1
        (cd "$scratch/package" && apt-get download etcd-server >&2) || return 1
        dpkg-deb --extract "$scratch"/package/etcd-server_*.deb "$scratch/tree" || return 1
        "$scratch/tree/usr/bin/etcd" --version >&2 || return 1
        mv "$scratch/tree" "$out_dir" || return 1
    fi
    echo "$out_dir/usr/bin/etcd"
}

by_go() {
    "$here/../build.sh" etcd server
}

case $from in
any) by_debian || by_go ;;
debian) by_debian ;;
go) by_go ;;
*) false ;;
esac || {
    echo "etcd: none could be had (ETCD_FROM=$from): it takes Debian's apt-get or Go, and their package registry" >&2
    exit 2
}
