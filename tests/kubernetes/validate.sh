#!/usr/bin/env bash
# Holds the manifests against the schemas of Kubernetes, against a policy linter, and against what they must always be.
# Needs no cluster. What cannot be had here (Python with venv, the package index, Go) is said loudly, and its part skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The oldest version that is supported, and the one that the cluster test runs.
versions="1.33 1.35"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
checked=0

skip() {
    printf '\n!!! SKIPPED: %s\n\n' "$1"
}

if ! tools=$(tests/kubernetes/python.sh 2>"$work/pip"); then
    skip "the manifests are not validated: $(tail -n 1 "$work/pip")"
    exit 0
fi

overlays="deploy/k8s deploy/k8s/overlays/production tests/kubernetes/overlay"
for overlay in $overlays; do
    file="$work/$(echo "$overlay" | tr / -).yaml"
    "$tools/kubectl" kustomize "$overlay" >"$file"
    for version in $versions; do
        checked=$((checked + 1))
        if ! "$tools/kubernetes-validate" -k "$version" --strict --quiet "$file"; then
            printf 'FAILED  %s is not valid for Kubernetes %s\n' "$overlay" "$version"
            failed=$((failed + 1))
        fi
    done
    checked=$((checked + 1))
    "$tools/python" tests/kubernetes/policy.py "$overlay" "$file" || failed=$((failed + 1))
done

if kube_score=$(tests/tools/build.sh kube-score 2>"$work/score"); then
    for overlay in deploy/k8s deploy/k8s/overlays/production; do
        checked=$((checked + 1))
        # A limit on processor time would make a node slow when the others most need it; images are named by version or
        # digest, so they need not be pulled again.
        if ! "$kube_score" score "$work/$(echo "$overlay" | tr / -).yaml" --output-format ci \
            --ignore-container-cpu-limit --ignore-test container-image-pull-policy >"$work/found"; then
            printf 'FAILED  %s, by the policy linter:\n' "$overlay"
            grep CRITICAL "$work/found" || true
            failed=$((failed + 1))
        fi
    done
else
    skip "the policy linter could not be built: $(tail -n 1 "$work/score")"
fi
printf '%d passed, %d failed\n' $((checked - failed)) "$failed"
[ "$failed" -eq 0 ]
