"""What TensorBoard and MLflow themselves make of our exports: event files read by the tensorboard package, runs logged
to a real MLflow server and read back by MLflow's own client.

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
                              stdout=log, stderr=log, cwd=root, start_new_session=True)
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
    refused = subprocess.run([program, "export", "mlflow", "1", "--to", "http://127.0.0.1:9"], env=env, capture_output=True, text=True)
    check("no server is said in a sentence", refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr)
finally:
    if server is not None and server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assay("daemon", "stop", check=False)

print("equal" if not failures else f"{len(failures)} DIFFERENT")
sys.exit(1 if failures else 0)
