#!/bin/sh
# Builds the programs of a real, single-node Kubernetes from their Go modules, and prints their folder.
#
# Upstream's own API server, controllers, scheduler, kubelet, proxy and kubectl, etcd, CoreDNS; versions in go.mod and
# go.sum beside this script. Once a machine, outside the repository: about 550 CPU-seconds from nothing, 0.5 GiB.
#
# usage: tests/tools/kubernetes/build.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
if ! command -v go >/dev/null 2>&1; then
    echo "kubernetes: building it needs Go; install it (https://go.dev/dl), or name a cluster with KUBECONFIG" >&2
    exit 2
fi
# Another version, another folder: nothing is ever mixed.
key=$(cat go.mod go.sum dns/main.go pause/main.go build.sh | sha256sum | cut -c1-12)
out="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/kubernetes-$key"
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi
echo "kubernetes: building it into $out (5 to 15 minutes, once)" >&2
rm -rf "$out"
mkdir -p "$out"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=$(echo "$version" | cut -d. -f2)
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
done
# Linking one after the other: two of these at a time want more memory than a small machine has.
for program in \
    k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager \
    k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kubelet k8s.io/kubernetes/cmd/kube-proxy \
    k8s.io/kubernetes/cmd/kubectl go.etcd.io/etcd/server/v3 ./dns ./pause; do
    name=$(basename "$program")
    if [ "$program" = go.etcd.io/etcd/server/v3 ]; then name=etcd; fi
    go build -trimpath -gcflags=all=-dwarf=false -ldflags "$flags" -o "$out/$name" "$program" >&2
done
touch "$out/complete"
echo "$out"
