#!/usr/bin/env bash
# The queue beside its peers, in one run: cost of adding a job to queues of 0 to 10,000, cost of an empty job, the daemon
# when idle and with 64 live runs. Peers are measured where they are installed: task-spooler (Debian: task-spooler, `tsp`)
# and pueue (`cargo install pueue`; pueued).
#   bench/peers/queue.sh [BUILD] [JOBS] [REPEATS] [PART…]
#                        BUILD: build/default, JOBS to drain: 500, adds of each length: 100,
#                        PART: adding, draining, live_runs_of_assay; all of them if not given
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 bench/peers/job_queue.py "${1:-build/default}" "${2:-500}" "${3:-100}" "${@:4}"
