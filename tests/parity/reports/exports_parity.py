"""What TensorBoard and MLflow themselves make of our exports: event files read by the tensorboard package, runs logged
to a real MLflow server, read back by MLflow's own client, and imported again, beside runs that MLflow's client logged.

python tests/parity/reports/exports_parity.py --build BUILD_DIR     (needs the target assay)
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True, type=pathlib.Path)
args = parser.parse_args()
program = (args.build / "bin" / "assay").resolve()
if not program.exists():
    print(f"SKIPPED: {program} is not built")
    sys.exit(0)
try:
    import mlflow
    import tensorboard
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

root = (args.build / "test-data" / "exports-parity").resolve()
shutil.rmtree(root, ignore_errors=True)
(root / "series").mkdir(parents=True)
env = {**os.environ, "ASSAY_HOME": str(root / "home"), "ASSAY_EXPERIMENTS": str(root / "series"), "ASSAY_SLOTS": "2"}
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
    env.pop(name, None)

script = root / "train.sh"
script.write_text(r"""cd "$ASSAY_RUN_DIR"; mkdir -p eval
for step in $(seq 1 1200); do
  echo '{"step": '$step', "time": '$((1790000000 + step))'.25, "metrics": {"critic/score/mean": 0.'$(printf %04d $step)', "odd@name": '$step', "loss": '$([ $step = 7 ] && echo '"nan"' || [ $step = 8 ] && echo '"inf"' || echo -1.5e-7)'}}'
done >> metrics.jsonl
echo '{"step":0,"problems":4,"correct":1,"quant":"none","trained_quant":"none","data_sha256":"d"}' > eval/step-000000.json
echo '{"step":1200,"problems":4,"correct":3,"quant":"none","trained_quant":"none","data_sha256":"d"}' > eval/step-001200.json
[ "$ASSAY_SEED" = 1 ]
""")
(root / "series" / "export.toml").write_text(f"""
[series]
id = "export"
[base.trainer]
kind = "command"
argv = ["/bin/sh", "{script}"]
[base.train]
steps = 1200
[[run]]
id = "good"
title = "A title"
hypothesis = "Exports lose nothing | not even bars."
""")


def assay(*words, check=True):
    done = subprocess.run([program, *words], env=env, capture_output=True, text=True, cwd=root)
    if check and done.returncode != 0:
        raise SystemExit(f"assay {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


failures = []


def check(what, holds, seen=""):
    if not holds:
        failures.append(what)
        print(f"DIFFERENT: {what} {seen}")


server = None
try:
    assay("run", "export", "--seeds", "1,2", check=False)       # the second one fails, as it should
    runs = [json.loads(line) for line in assay("export", "jsonl", "1", "2").splitlines()]
    check("two runs", [run["state"] for run in runs] == ["succeeded", "failed"], runs and [run["state"] for run in runs])

    # ---- TensorBoard -----------------------------------------------------------------------------------------------
    files = json.loads(assay("export", "tensorboard", "1", "2", "--out", str(root / "tb"), "--json"))
    values = 0
    for run, made in zip(runs, files):
        events = EventAccumulator(str(pathlib.Path(made["file"]).parent), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        wanted = {}
        for line in run["metrics"]:
            for key, value in line["metrics"].items():
                wanted.setdefault(key, []).append((line["step"], line["time"], float(value)))
        check("tags", set(events.Tags()["scalars"]) == set(wanted) | {"eval/accuracy"}, events.Tags()["scalars"])
        for key, points in wanted.items():
            got = [(event.step, event.wall_time, event.value) for event in events.Scalars(key)]
            single = [(step, when, struct.unpack("f", struct.pack("f", value))[0]) for step, when, value in points]
            values += len(got)
            check(f"scalars of {key}", len(got) == len(single) and all(
                a[:2] == b[:2] and (a[2] == b[2] or math.isnan(a[2]) and math.isnan(b[2])) for a, b in zip(got, single)), got[:3])
        check("accuracy", [(event.step, event.value) for event in events.Scalars("eval/accuracy")] == [(0, 0.25), (1200, 0.75)])
        texts = {tag: tensor_util.make_ndarray(events.Tensors(tag)[0].tensor_proto)[0].decode() for tag in events.Tags()["tensors"]}
        check("texts", "train.steps" in texts.get("configuration", "") and texts.get("hypothesis") == run["hypothesis"], texts)
    print(f"tensorboard {tensorboard.__version__}: {values} scalars of {len(files)} runs read back, equal in single precision; "
          "texts equal")

    # ---- MLflow ----------------------------------------------------------------------------------------------------
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = open(root / "mlflow.log", "w")
    server = subprocess.Popen([sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                               "--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")],
                              stdout=log, stderr=log, cwd=root, start_new_session=True,
                              env=dict(os.environ, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"))  # eight processes of no use here
    deadline = time.time() + 300
    while True:
        try:
            urllib.request.urlopen(address + "/health", timeout=5).read()
            break
        except OSError:
            if time.time() > deadline or server.poll() is not None:
                raise SystemExit("the MLflow server did not come up: " + (root / "mlflow.log").read_text()[-2000:])
            time.sleep(0.5)
    first = json.loads(assay("export", "mlflow", "1", "2", "--to", address, "--json"))
    again = json.loads(assay("export", "mlflow", "1", "2", "--to", address, "--json"))
    check("a second export finds the runs of the first", [r["mlflow"] for r in first] == [r["mlflow"] for r in again]
          and all(r["again"] for r in again) and not any(r["again"] for r in first))
    client = MlflowClient(address)
    values = 0
    for run, made in zip(runs, first):
        found = client.get_run(made["mlflow"])
        check("status", found.info.status == {"succeeded": "FINISHED", "failed": "FAILED"}[run["state"]], found.info.status)
        check("name", found.info.run_name == f"good s{run['seed']}", found.info.run_name)
        check("parameters", found.data.params["train.steps"] == "1200" and found.data.params["train.seed"] == str(run["seed"])
              and len(found.data.params) == len(run["config"]), found.data.params)
        check("tags", found.data.tags["assay.config_sha256"] == run["config_sha256"] and found.data.tags["assay.number"] == str(run["run"]))
        for key in ("critic/score/mean", "odd@name", "loss"):
            got = client.get_metric_history(made["mlflow"], key.replace("@", "_"))
            want = [(line["step"], round(line["time"] * 1000), float(line["metrics"][key])) for line in run["metrics"]]
            got = sorted((m.step, m.timestamp, m.value) for m in got)
            values += len(got)
            # MLflow's SQL store has no infinity: it keeps the largest double.
            same = len(got) == len(want) and all(a[:2] == b[:2] and (a[2] == b[2] or math.isnan(a[2]) and math.isnan(b[2])
                                                 or math.isinf(b[2]) and a[2] > 1e300) for a, b in zip(got, want))
            check(f"history of {key}", same, [(a, b) for a, b in zip(got, want) if a != b][:3] or (len(got), len(want)))
        accuracy = sorted((m.step, m.value) for m in client.get_metric_history(made["mlflow"], "eval/accuracy"))
        check("accuracy", accuracy == [(0, 0.25), (1200, 0.75)], accuracy)
    print(f"mlflow {mlflow.__version__}: {values} values of {len(first)} runs read back equal, after two exports")
    # ---- and back: what we logged, and what somebody else did --------------------------------------------------------
    back = json.loads(assay("import", "mlflow", "export", "--from", address, "--series", "back", "--json"))["runs"]
    check("both runs come back", sorted((r["run"], r["seed"], r["present"]) for r in back) == [("good", 1, False), ("good", 2, False)], back)
    ours = {(run["id"], run["seed"]): run for run in runs}
    values = 0
    for made in back:
        want = ours[made["run"], made["seed"]]
        [got] = [json.loads(line) for line in assay("export", "jsonl", str(made["number"])).splitlines()]
        check("state", got["state"] == want["state"], got["state"])
        check("configuration", {k: v for k, v in got["config"].items() if not k.startswith("trainer.")}
              == {k: v for k, v in want["config"].items() if not k.startswith("trainer.")}, got["config"])
        bare = lambda run: [{k: e[k] for k in ("step", "problems", "correct", "quant", "trained_quant", "data_sha256")} for e in run["evaluations"]]
        check("evaluations", bare(got) == bare(want), bare(got))
        for key in ("critic/score/mean", "odd@name", "loss"):
            a = {line["step"]: float(line["metrics"][key.replace("@", "_")]) for line in got["metrics"] if key.replace("@", "_") in line["metrics"]}
            b = {line["step"]: float(line["metrics"][key]) for line in want["metrics"]}
            values += len(a)
            check(f"imported history of {key}", a.keys() == b.keys() and all(
                a[s] == b[s] or math.isnan(a[s]) and math.isnan(b[s]) or math.isinf(b[s]) and a[s] > 1e300 for s in b),
                [(s, a.get(s), b[s]) for s in b if a.get(s) != b[s]][:3])
    again = json.loads(assay("import", "mlflow", "export", "--from", address, "--series", "back", "--json"))["runs"]
    check("a second import finds them", [(r["number"], r["present"]) for r in again] == [(r["number"], True) for r in back], again)

    theirs = client.create_experiment("Their Baseline!")
    test = root / "test.jsonl"
    test.write_text("{}\n" * 8)
    for seed, (name, ends) in enumerate([("plain", "FINISHED"), ("plain", "FINISHED"), ("broken", "FAILED"), ("going", None)], 1):
        run = client.create_run(theirs, run_name=name)
        client.log_param(run.info.run_id, "seed", 7)
        client.log_param(run.info.run_id, "optimizer.lr", "0.0003")
        client.log_param(run.info.run_id, "batch/size", "many")
        for step in range(0, 30, 10):
            client.log_metric(run.info.run_id, "test_acc", (seed + step / 10) / 8, step=step)
        if ends:
            client.set_terminated(run.info.run_id, ends)
    words = ["import", "mlflow", "Their Baseline!", "--from", address, "--accuracy", "test_acc", "--test", str(test), "--json"]
    taken = json.loads(assay(*words))["runs"]
    check("one that has not ended is left out and named", [r["name"] for r in taken if r["left_out"]] == ["going"], taken)
    taken = [r for r in taken if not r["left_out"]]
    check("runs of one name and seed are told apart", len({(r["run"], r["seed"]) for r in taken}) == 3 and {r["seed"] for r in taken} == {7}
          and "broken" in {r["run"] for r in taken}, taken)
    check("idempotent", all(r["present"] for r in json.loads(assay(*words))["runs"] if not r["left_out"]))
    table = json.loads(assay("compare", "their-baseline", "--baseline", "broken", "--json"))["rows"]
    plain = sorted((r["last"]["correct"], r["last"]["problems"], r["difference"]) for r in table if r["id"] != "broken")
    check("they are compared", plain == [(3, 8, -25.0), (4, 8, -12.5)], plain)
    check("states", sorted(r["state"] for r in table) == ["failed", "succeeded", "succeeded"], table)
    check("their learning rate is the configuration", json.loads(assay("export", "json", str(taken[0]["number"])))[0]["config"]["optimizer.lr"] == 0.0003)
    check("the registry is well", subprocess.run([program, "fsck", "--deep"], env=env, capture_output=True).returncode == 0)
    wrong = subprocess.run([program, *words[:5], "--accuracy", "test_acc", "--problems", "7"], env=env, capture_output=True, text=True)
    check("a wrong number of problems is refused", wrong.returncode == 3 and "no share of 7 problems" in wrong.stderr, wrong.stderr)
    wrong = subprocess.run([program, "import", "mlflow", "none", "--from", address], env=env, capture_output=True, text=True)
    check("an unknown experiment names those there are", wrong.returncode == 3 and "Their Baseline!" in wrong.stderr, wrong.stderr)
    print(f"import mlflow: {len(back) + len(taken)} runs, {values} values of ours equal after there and back")
    refused = subprocess.run([program, "export", "mlflow", "1", "--to", "http://127.0.0.1:9"], env=env, capture_output=True, text=True)
    check("no server is said in a sentence", refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr)
finally:
    if server is not None and server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assay("daemon", "stop", check=False)

print("equal" if not failures else f"{len(failures)} DIFFERENT")
sys.exit(1 if failures else 0)
