#!/bin/sh
# Runs other people's Consul clients, by their documented calls, against a discovery (or a real Consul) that is up.
#
# Each client is obtained by its package's name from its registry, and kept outside the repository; one that cannot be
# had is skipped with a loud line. The last line says how many passed, as JSON. The exit status is 1 if one failed.
# usage: tests/clients/consul/run.sh HOST:PORT [CLIENT...]    (go python node rust prometheus consul-template)
set -u

address=$1
shift
host=${address%:*}
port=${address##*:}
here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/everring/clients"
scratch=$(mktemp -d)
started=
trap 'for pid in $started; do kill "$pid" 2>/dev/null; done; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0
mkdir -p "$cache"

skip() {
    echo "!!! SKIPPED: $1: $2" >&2
    skipped=$((skipped + 1))
}

# The name, then the command; what it prints last is how many things it looked at.
attempt() {
    name=$1
    shift
    if "$@" >"$scratch/out" 2>"$scratch/err"; then
        echo "$name: passed, $(tail -n 1 "$scratch/out") things looked at"
        passed=$((passed + 1))
    else
        echo "$name: FAILED" >&2
        tail -n 20 "$scratch/out" "$scratch/err" >&2
        failed=$((failed + 1))
    fi
}

have() { command -v "$1" >/dev/null 2>&1; }

put() { curl -fsS -X PUT --data-binary "$2" "http://$address/v1/$1" >/dev/null; }

# Tries a command ten times a second for half a minute.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || return 1
        sleep 0.1
    done
}

run_go() {
    have go || { skip "go" "there is no Go here (https://go.dev/dl)"; return; }
    (cd "$here/go" && GOTOOLCHAIN=local go build -mod=readonly -trimpath -buildvcs=false -o "$scratch/go-client" . >&2) ||
        { skip "go" "github.com/hashicorp/consul/api cannot be had"; return; }
    attempt "Go api 1.31.2" "$scratch/go-client" "$address"
}

run_python() {
    env="$cache/py-consul-1.8.0"
    # An environment cannot be moved, so a mark says that it is whole.
    if ! [ -e "$env/whole" ]; then
        have python3 || { skip "python" "there is no Python here"; return; }
        rm -rf "$env"
        { python3 -m venv "$env" && "$env/bin/pip" -q install py-consul==1.8.0 >&2 && touch "$env/whole"; } ||
            { rm -rf "$env"; skip "python" "py-consul cannot be had"; return; }
    fi
    attempt "py-consul 1.8.0" "$env/bin/python" "$here/python/client.py" "$host" "$port"
}

run_node() {
    dir="$cache/npm-consul-2.0.1"
    if ! [ -d "$dir/node_modules/consul" ]; then
        have npm || { skip "node" "there is no npm here"; return; }
        npm install --silent --no-audit --no-fund --prefix "$dir" consul@2.0.1 >&2 ||
            { rm -rf "$dir"; skip "node" "the package consul cannot be had"; return; }
    fi
    attempt "npm consul 2.0.1" env NODE_PATH="$dir/node_modules" node "$here/node/client.js" "$host" "$port"
}

run_rust() {
    have cargo || { skip "rust" "there is no cargo here"; return; }
    target="$cache/rust-target"
    cargo fetch -q --locked --manifest-path "$here/rust/Cargo.toml" >&2 ||
        { skip "rust" "rs-consul cannot be had"; return; }
    if ! cargo build -q --locked --manifest-path "$here/rust/Cargo.toml" --target-dir "$target" >&2; then
        echo "rs-consul 0.15.0: FAILED to build" >&2
        failed=$((failed + 1))
        return
    fi
    attempt "rs-consul 0.15.0" "$target/debug/consul-rust-client" "http://$address"
}

target_is_seen() {
    seen=$(curl -fsS "http://127.0.0.1:$1/api/v1/targets") || return 1
    case $seen in *'"seen":"prometheus-target;a;dc1"'*'"tags":",v1,"'*) ;; *) return 1 ;; esac
}

no_target_is_seen() {
    seen=$(curl -fsS "http://127.0.0.1:$1/api/v1/targets") || return 1
    case $seen in *'"seen":"prometheus-target'*) return 1 ;; esac
}

prometheus_finds() {
    free=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || return 1
    put agent/service/register '{"ID":"prometheus-target-1","Name":"prometheus-target","Address":"127.0.0.1","Port":9,
        "Tags":["v1"],"Meta":{"zone":"a"}}' || return 1
    sed "s/@ADDRESS@/$address/" "$here/prometheus/prometheus.yml.in" >"$scratch/prometheus.yml"
    "$1" --config.file="$scratch/prometheus.yml" --storage.tsdb.path="$scratch/prometheus" \
        --web.listen-address="127.0.0.1:$free" >"$scratch/prometheus.log" 2>&1 &
    started="$started $!"
    until_true target_is_seen "$free" || { tail -n 20 "$scratch/prometheus.log"; return 1; }
    put agent/service/deregister/prometheus-target-1 '' || return 1
    until_true no_target_is_seen "$free" || return 1
    echo 2
}

# Debian's own package will not do: it was built without the discovery by Consul's API.
run_prometheus() {
    have go || { skip "prometheus" "there is no Go here (https://go.dev/dl)"; return; }
    prometheus=$("$here/../../tools/build.sh" prometheus) || { skip "prometheus" "it cannot be had or built"; return; }
    attempt "Prometheus 3.5.0 consul_sd" prometheus_finds "$prometheus"
}

rendered() { grep -q "$1" "$scratch/rendered"; }

template_renders() {
    put agent/service/register '{"ID":"template-1","Name":"template-web","Address":"10.0.0.7","Port":80,
        "Check":{"TTL":"5m","Status":"passing"}}' || return 1
    put kv/template/key first || return 1
    "$1" -consul-addr "$address" -template "$here/template/services.tpl:$scratch/rendered" >"$scratch/template.log" 2>&1 &
    started="$started $!"
    until_true rendered '^instance template-1 10.0.0.7:80 passing' || { cat "$scratch/template.log"; return 1; }
    rendered '^service template-web' && until_true rendered '^key first' || return 1
    put kv/template/key second && until_true rendered '^key second' || return 1
    put agent/service/deregister/template-1 '' || return 1
    until_true sh -c "! grep -q '^instance' '$scratch/rendered'" || return 1
    echo 5
}

run_consul_template() {
    binary="$cache/consul-template-0.41.1"
    if ! [ -x "$binary" ]; then
        have go || { skip "consul-template" "there is no Go here (https://go.dev/dl)"; return; }
        (cd "$here/template" && GOTOOLCHAIN=local CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
            -ldflags='-s -w' -o "$binary" github.com/hashicorp/consul-template >&2) ||
            { skip "consul-template" "it cannot be had or built"; return; }
    fi
    attempt "consul-template 0.41.1" template_renders "$binary"
}

[ $# -gt 0 ] || set -- go python node rust prometheus consul-template
for client in "$@"; do
    case $client in
    go | python | node | rust | prometheus) "run_$client" ;;
    consul-template) run_consul_template ;;
    *) echo "no such client: $client" >&2; exit 2 ;;
    esac
done
printf '{"clients_passed":%d,"clients_total":%d,"clients_skipped":%d}\n' "$passed" $((passed + failed)) "$skipped"
[ "$failed" -eq 0 ]
