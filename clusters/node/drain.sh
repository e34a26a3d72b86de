#!/usr/bin/env bash
# Tells Ray that this node goes in SECONDS, so that runs hand its state over at their next step, and waits until nothing runs
# on it any more, or the time is up.
#   drain.sh SECONDS [MESSAGE]
set -euo pipefail

seconds=${1:?usage: drain.sh SECONDS [MESSAGE]}
message=${2:-the node goes}

# The raylet's command line says which node this is, at once; Ray's own ways to ask take seconds to import.
option() { { tr '\0' '\n' < "/proc/$raylet/cmdline"; } 2> /dev/null | sed -nE "s/^--$1=//p" | head -n 1; }
raylet=none
for comm in /proc/[0-9]*/comm; do
    if [[ $(cat "$comm" 2> /dev/null) == raylet ]]; then
        raylet=$(basename "$(dirname "$comm")")
    fi
done
node=$(option 'node[_-]id')
if [[ -z $node ]]; then
    echo "drain.sh: no raylet runs here" >&2
    exit 1
fi

ray drain-node --address "$(option 'gcs[_-]address')" --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "$message" --deadline-remaining-seconds "$seconds"

# A drained raylet ends by itself as soon as nothing runs on it.
while [[ -n $(option 'node[_-]id') ]] && ((SECONDS < seconds)); do
    sleep 0.5
done
