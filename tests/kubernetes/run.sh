#!/usr/bin/env bash
# The cluster test. On the cluster that KUBECONFIG names; where none is named, on a real one of a single node that it
# puts up for the time of the test, without an image registry and without a way out.
#
# usage: tests/kubernetes/run.sh [--quick] [--figures FILE]      (make k8s-test, make figures-kubernetes)
# Exit status 77 where this machine cannot run a cluster and none is named; standard error says why.
set -euo pipefail
cd "$(dirname "$0")/../.."

target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
images="$target_dir/images"
triple="${EVERRING_IMAGE_TARGET:-$(rustc -vV | awk '/^host:/ { print $2 }')}"
program="$target_dir/image/$triple/release/everring"

if [ -n "${KUBECONFIG:-}" ]; then
    built=$(deploy/image/build.sh)
    # The cluster's own registry has the images; EVERRING_IMAGE and EVERRING_NEXT_IMAGE name them where they differ.
    exec python3 tests/kubernetes/fleet_test.py --everring "$program" --built "$built" --image "${EVERRING_IMAGE:-everring:dev}" \
        --next-image "${EVERRING_NEXT_IMAGE:-everring:next}" "$@"
fi

cluster() {
    python3 tests/kubernetes/cluster.py "$@"
}
cannot() {
    printf 'k8s-test: no cluster is named by KUBECONFIG, and none can be put up here: %s\n' "$1" >&2
    exit 77
}

[ "$(id -u)" = 0 ] || cannot "that needs root"
command -v go >/dev/null 2>&1 || cannot "Kubernetes is built from its Go modules, and there is no Go (https://go.dev/dl)"
wanted=$(awk '$1 == "go" { print $2; exit }' tests/tools/kubernetes/go.mod)
has=$(go env GOVERSION | sed 's/^go//')
[ "$(printf '%s\n%s\n' "$wanted" "$has" | sort -V | head -n 1)" = "$wanted" ] || cannot "Go $has is older than $wanted"
if ! why=$(tests/kubernetes/packages.sh 2>&1); then
    cannot "its packages cannot be installed: $(printf '%s' "$why" | tail -n 1)"
fi
if ! why=$(cluster why-not 2>&1); then
    cannot "$why"
fi

began=$SECONDS
tools=$(tests/tools/kubernetes/build.sh) || cannot "Kubernetes could not be built"
jaeger=$(tests/tools/build.sh jaeger) || cannot "Jaeger could not be built"
prometheus=$(tests/tools/build.sh prometheus) || cannot "Prometheus could not be built"
export EVERRING_K8S_TOOLS="$tools"
printf 'tools: %d s\n' $((SECONDS - began))

image() {
    python3 deploy/image/image.py "$images/$1.tar" "$2" --file "$3" --entrypoint "${3%%=*}" "${@:4}" >/dev/null
}
built=$(deploy/image/build.sh)
printf '%s\n' "$built"
# The same program by another name is all that a rolling upgrade needs; a label makes it another image.
image next everring:next "/everring=$program" --label org.opencontainers.image.version=next
image jaeger everring.test/jaeger:1 "/jaeger=$jaeger"
image prometheus everring.test/prometheus:1 "/bin/prometheus=$prometheus"
printf 'images: %d s\n' $((SECONDS - began))

cluster down
trap 'cluster down' EXIT
cluster up "$images"/{everring,next,jaeger,prometheus}.tar
printf 'cluster: %d s\n' $((SECONDS - began))
cluster exec python3 tests/kubernetes/fleet_test.py --everring "$program" --built "$built" --overlay tests/kubernetes/overlay "$@"
