#!/usr/bin/env bash
# Starts N workers of one program on this machine, on free ports of the loopback interface, and prefixes their output.
# If one fails, the others are stopped too and its exit code is returned. Ctrl-C and SIGTERM reach all of them.
# usage: scripts/launch_local.sh N -- python -m experiments.train --strategy=multiworker ...
set -euo pipefail
if [ $# -lt 3 ] || [ "$2" != "--" ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
count="$1"; shift 2
addresses=$(python3 - "$count" <<'PORTS'
import json, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]  # held at the same time, so all differ
print(json.dumps([f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]))
PORTS
)
pids=()
for index in $(seq 0 $((count - 1))); do
    TF_CONFIG="{\"cluster\": {\"worker\": $addresses}, \"task\": {\"type\": \"worker\", \"index\": $index}}" \
        "$@" > >(sed -u "s/^/[worker $index] /") 2> >(sed -u "s/^/[worker $index] /" >&2) &
    pids+=($!)
done
trap 'echo "Stopping all workers." >&2; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

code=0 deadline=
while [ "${#pids[@]}" -gt 0 ]; do
    running=()
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then running+=("$pid"); continue; fi
        ended=0; wait "$pid" || ended=$?
        if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
            code=$ended deadline=$((SECONDS + ${GRACE:-30}))
            echo "A worker ended with exit code $code. Stopping the others; after ${GRACE:-30} s they are killed." >&2
            kill -TERM "${pids[@]}" 2>/dev/null || true
        fi
    done
    [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || kill -KILL "${running[@]}" 2>/dev/null || true
    pids=("${running[@]}")
    sleep 0.2 || true
done
exit "$code"
