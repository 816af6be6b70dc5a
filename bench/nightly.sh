#!/bin/sh
# Simulated schedules of all three contracts, one slice after the other, from seeds that no run before had; until it is
# stopped or the time is over. Each seed that breaks something is told at once, with the command that shows it again.
# The last line says how many schedules ran. Exit status 1 if some broke something.
#
# usage: bench/nightly.sh [TIME]       e.g. bench/nightly.sh 8h; without a time: until SIGINT or SIGTERM
# EVERRING_BIN     a built `everring`
# SLICE            how long one contract is run before the next, in seconds; 300
# FIRST            the first seed; the present second of the epoch, times a million
set -u

everring=${EVERRING_BIN:-everring}
slice=${SLICE:-300}
first=${FIRST:-$(date +%s)000000}
case ${1:-} in
'') seconds='' ;;
*h) seconds=$((${1%h} * 3600)) ;;
*m) seconds=$((${1%m} * 60)) ;;
*s) seconds=${1%s} ;;
*) echo "nightly: \`$1\` is no time; write one such as 90s, 30m or 8h" >&2 && exit 2 ;;
esac
began=$(date +%s)
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT

# A signal ends the slice, too, which then tells how far it came.
stopped='' child=''
trap 'stopped=1; [ -z "$child" ] || kill -INT "$child" 2>/dev/null' INT TERM HUP

field() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$log" | head -n 1; }

# The next seed of each contract: they are different fleets, and may have the same seeds.
ordered=$first available=$first both=$first
schedules=0 broken=0
echo "nightly: from seed $first on, slices of $slice s"
while [ -z "$stopped" ]; do
    for contract in ordered available both; do
        [ -z "$stopped" ] || break
        left=$slice
        if [ -n "$seconds" ]; then
            left=$((began + seconds - $(date +%s)))
            [ "$left" -gt 0 ] || { stopped=1 && break; }
            [ "$left" -lt "$slice" ] || left=$slice
        fi
        eval "seed=\$$contract"
        "$everring" sim run --contract "$contract" --first "$seed" --for "${left}s" --output json >"$log" &
        child=$!
        # A signal interrupts the wait, and not what is waited for.
        status=129
        while [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
            wait "$child"
            status=$?
        done
        child=''
        ran=$(field schedules)
        schedules=$((schedules + ${ran:-0}))
        if [ -z "$ran" ]; then
            # It ended without a summary: by an assertion, whose seed it has told.
            echo "nightly: contract $contract ended with status $status after seed $seed; going on beyond" >&2
            broken=$((broken + 1))
            seed=$((seed + 1000000))
        else
            broken=$((broken + $(field violations)))
            seed=$(field next)
        fi
        eval "$contract=$seed"
        echo "nightly: $contract: ${ran:-?} schedules, next seed $seed; $schedules in all, $broken violations"
    done
done
echo "nightly: $schedules schedules, $broken violations, $(($(date +%s) - began)) s"
[ "$broken" -eq 0 ]
