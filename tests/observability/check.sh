#!/usr/bin/env bash
# Each configuration of observability/ is loaded by the program that it is for, the alerts are tried, and every name in
# queries and runbooks exists. No cluster is needed: that the queries return data is looked at by the cluster test.
set -euo pipefail
cd "$(dirname "$0")/../.."

jaeger=$(tests/tools/build.sh jaeger)
promtool=$(tests/tools/build.sh prometheus promtool)
python="$(tests/kubernetes/python.sh)/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

holds() {
    local what="$1"
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n' "$what"
        tail -n 20 "$work/said"
    fi
}

# Jaeger's program has the collector's parts in it.
for config in collector/collector.yaml jaeger/local.yaml jaeger/cluster.yaml jaeger/production.yaml; do
    holds "$config is valid" "$jaeger" validate --config "observability/$config"
done
holds "prometheus.yaml is valid" "$promtool" check config --syntax-only observability/prometheus/prometheus.yaml
holds "the alerts are valid" "$promtool" check rules observability/alerts/everring.yaml
holds "each alert that is tried fires when it should" "$promtool" test rules observability/alerts/tests.yaml
holds "queries, alerts and runbooks name what exists" "$python" tests/observability/names.py "$promtool"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
