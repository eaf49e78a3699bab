"""Records beside MLflow, in one run.

    python3 -m venv V && V/bin/pip install mlflow        (a virtual environment of its own)
    V/bin/python bench/peers/tracking.py [BUILD] [PART…]     without MLflow its part is left out, and said so
                                                         PART: ingest, queries, follow; all if not given

Figures: points a second from run folders into the registry (wall clock, and the daemon's own processor time); MLflow's
log_batch into SQLite, a thousand a call; `assay status` and `assay compare` over 10,000 runs and 10^7 points; from the
write of a point until `assay follow` has told of it. On a busy machine the processor's own time is what can be compared.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/default")
assay = os.path.join(build, "bin", "assay")
runs, steps, keys = 10, 20_000, 30


def environment(folder):
    os.makedirs(folder + "/series", exist_ok=True)
    os.chdir(folder)
    return dict(os.environ, ASSAY_HOME=folder + "/home", ASSAY_SLOTS="64", ASSAY_EXPERIMENTS=folder + "/series")


def series(folder, name, script):
    with open(f"{folder}/series/{name}.toml", "w") as file:
        file.write(f'[series]\nid = "{name}"\n[base.trainer]\nkind = "command"\nargv = ["/bin/sh", "-c", {json.dumps(script)}]\n'
                   f'[[run]]\nid = "a"\n')


def call(env, *words):
    return subprocess.run([assay, *words], env=env, check=True, capture_output=True, text=True).stdout


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ingest(folder):
    env = environment(folder)
    with open(folder + "/lines", "w") as file:   # names and digits as a trainer of ours writes them
        for step in range(steps):
            file.write(json.dumps({"step": step, "time": 1.79e9 + step,
                                   "metrics": {f"actor/some_metric_{k}": (step * 31 + k * 17) % 1000 / 7 for k in range(keys)}}) + "\n")
    series(folder, "big", f"while [ ! -e {folder}/go ]; do sleep 0.05; done; cat {folder}/lines >> $ASSAY_RUN_DIR/metrics.jsonl")
    call(env, "add", "big", "--seeds", ",".join(str(i) for i in range(runs)))
    while json.loads(call(env, "daemon", "status", "--json"))["active"] < runs:
        time.sleep(0.1)
    call(env, "daemon", "stop")              # the runs end without it; what they wrote is taken in by the next one
    open(folder + "/go", "w").close()
    while sum(os.path.exists(f"{folder}/home/runs/big/{name}/exit.json") for name in os.listdir(folder + "/home/runs/big")) < runs:
        time.sleep(0.1)
    begin = time.perf_counter()
    subprocess.run([assay, "wait"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.perf_counter() - begin
    daemon = json.loads(call(env, "daemon", "status", "--json"))
    points, own = runs * steps * keys, cpu_seconds(daemon["pid"])
    print(f"assay   ingest of {points:,} points: {points / took:,.0f} points/s, {points / own:,.0f} a second "
          f"of processor time; load {os.getloadavg()[0]:.1f}; daemon {daemon['memory_bytes'] / 2**20:.1f} MiB, registry {daemon['registry_bytes'] / points:.1f} bytes a point",
          flush=True)
    call(env, "daemon", "stop")
    return points / took, points / own


def mlflow_batched(folder):
    try:
        import logging
        logging.disable(logging.WARNING)
        import mlflow
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient
    except ImportError:
        print("mlflow: not installed in this Python")
        return None
    os.makedirs(folder)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.sqlite")
    run = client.create_run(client.create_experiment("bench")).info.run_id
    count = 20_000
    begin, own = time.perf_counter(), time.process_time()
    for first in range(0, count, 1000):
        client.log_batch(run, [Metric(f"m{i % keys}", i * .37, 0, i // keys) for i in range(first, first + 1000)])
    took, own = time.perf_counter() - begin, time.process_time() - own
    print(f"mlflow  {mlflow.__version__}: log_batch of {count:,} points, 1000 a call: {count / took:,.0f} points/s, {count / own:,.0f} a second "
          f"of processor time; load {os.getloadavg()[0]:.1f}", flush=True)
    return count / took, count / own


def queries(folder):
    env = environment(folder)
    os.makedirs(folder + "/home")
    print(subprocess.run([os.path.join(build, "bin", "fill_registry"), folder + "/home/registry.sqlite", "10000", "100", "10"],
                         check=True, capture_output=True, text=True).stdout.strip())
    call(env, "status")
    for words in (["status"], ["compare", "bench"], ["status", "--all"]):
        times, own = [], []
        for _ in range(15):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begin = time.perf_counter()
            call(env, *words)
            times.append(time.perf_counter() - begin)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            own.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(f"assay   {' '.join(words):15} median {statistics.median(times) * 1e3:7.1f} ms, least {min(times) * 1e3:.1f}, own processor "
              f"time {statistics.median(own) * 1e3:.1f} ms; load {os.getloadavg()[0]:.1f}", flush=True)
    call(env, "daemon", "stop")


def follow(folder):
    env = environment(folder)
    series(folder, "slow", f"while [ ! -e {folder}/go ]; do sleep 0.05; done")
    call(env, "add", "slow")
    while json.loads(call(env, "status", "--json"))[0]["state"] != "running":
        time.sleep(0.05)
    run = folder + "/home/runs/slow/" + os.listdir(folder + "/home/runs/slow")[0]
    watcher = subprocess.Popen([assay, "follow", "1", "--json"], env=env, stdout=subprocess.PIPE, text=True)
    watcher.stdout.readline()
    delays = []
    with open(run + "/metrics.jsonl", "a", buffering=1) as file:
        for step in range(1, 101):
            time.sleep(0.05 + step % 7 / 100)
            begin = time.perf_counter()
            file.write(json.dumps({"step": step, "time": time.time(), "metrics": {"critic/score/mean": step / 7}}) + "\n")
            while f'"step":{step},' not in watcher.stdout.readline():
                pass
            delays.append(time.perf_counter() - begin)
    delays.sort()
    print(f"assay   from the write of a point to `assay follow`: median {statistics.median(delays) * 1e3:.0f} ms, "
          f"p10 {delays[10] * 1e3:.0f} ms, p99 {delays[98] * 1e3:.0f} ms; load {os.getloadavg()[0]:.1f}", flush=True)
    open(folder + "/go", "w").close()
    watcher.wait()
    call(env, "daemon", "stop")


parts = sys.argv[2:] or ["ingest", "queries", "follow"]
with tempfile.TemporaryDirectory(prefix="assay-bench-", dir=os.environ.get("TMPDIR", "/tmp")) as top:
    if "ingest" in parts:
        ours, ours_own = ingest(top + "/i")
        theirs = mlflow_batched(top + "/m")
        if theirs:
            print(f"        that is {ours / theirs[0]:.0f} times MLflow's; by processor time {ours_own / theirs[1]:.0f} times", flush=True)
    if "queries" in parts:
        queries(top + "/q")
    if "follow" in parts:
        follow(top + "/f")
    os.chdir("/")
