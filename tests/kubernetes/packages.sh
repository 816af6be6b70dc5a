#!/bin/sh
# Installs what the single-node cluster needs beside Kubernetes itself, on Debian and its like. Does nothing if it is there.
set -eu
wanted="containerd runc containernetworking-plugins nftables iptables conntrack openssl iproute2 procps"
missing=""
for package in $wanted; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
apt-get update -qq
# shellcheck disable=SC2086  # several packages
apt-get install -y -qq --no-install-recommends $missing >/dev/null
