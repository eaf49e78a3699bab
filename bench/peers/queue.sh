#!/usr/bin/env bash
# The queue beside its peers, in one run: cost of adding a job to queues of 0 to 10,000, cost of an empty job, the daemon
# when idle and with 64 live runs. Peers are measured where they are installed: task-spooler (Debian: task-spooler, `tsp`)
# and pueue (`cargo install pueue`; pueued).
#   bench/peers/queue.sh [BUILD] [JOBS]     BUILD: build/default, JOBS to drain: 500
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 bench/peers/queue.py "${1:-build/default}" "${2:-500}"
