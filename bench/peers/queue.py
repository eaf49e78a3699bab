"""What bench/peers/queue.sh runs. Prints a line a figure: median and, for commands, the 90th percentile, in ms."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

build, jobs = os.path.abspath(sys.argv[1]), int(sys.argv[2])
assay = os.path.join(build, "bin", "assay")
lengths = [0, 100, 1000, 10000]
repeats = 100
null = os.open(os.devnull, os.O_RDWR)


def command(words, env):
    """Seconds that one command takes, from its start to its end."""
    begin = time.perf_counter()
    pid = os.posix_spawn(words[0], words, env, file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    took = time.perf_counter() - begin
    if status != 0:
        sys.exit(f"{' '.join(words)}: exit code {status}")
    return took


def say(who, what, seconds):
    seconds = sorted(seconds)
    print(f"{who:13} {what:42} {statistics.median(seconds) * 1e3:8.2f} ms   p90 {seconds[int(len(seconds) * .9)] * 1e3:8.2f} ms",
          flush=True)


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Assay:
    def __init__(self, folder, slots):
        os.makedirs(folder + "/series")
        self.env = dict(os.environ, ASSAY_HOME=folder + "/home", ASSAY_SLOTS=str(slots), ASSAY_EXPERIMENTS=folder + "/series")
        self.folder = folder
        os.chdir(folder)   # no repository here: what git costs depends on the repository
        self.series("one", "metric", 'printf \'{"step":1,"metrics":{"m":1}}\\n\' >> "$ASSAY_RUN_DIR/metrics.jsonl"')
        self.series("gate", "gate", f"while [ ! -e {folder}/go ]; do sleep 0.2; done")

    def series(self, series, run, script):
        with open(f"{self.folder}/series/{series}.toml", "w") as file:
            file.write(f'[series]\nid = "{series}"\n[base.trainer]\nkind = "command"\nargv = ["/bin/sh", "-c", {json.dumps(script)}]\n'
                       f'[[run]]\nid = "{run}"\n')

    def __call__(self, *words):
        return subprocess.run([assay, *words], env=self.env, check=True, capture_output=True, text=True).stdout

    def daemon(self):
        return json.loads(self("daemon", "status", "--json"))

    def stop(self):
        self("daemon", "stop", "--kill", "--grace", "0.1")


def queue_of_assay(folder):
    one = Assay(folder, 1)
    one("add", "gate")
    have = 0
    for length in lengths:
        if length > have:
            one("add", "one", "--seeds", ",".join(str(i) for i in range(have, length)))
        have = length + repeats
        say("assay", f"add, {length} queued", [command([assay, "add", "one"], one.env) for _ in range(repeats)])
    one.stop()


def drain_of_assay(folder):
    one = Assay(folder, os.cpu_count())
    for _ in range(os.cpu_count()):
        one("add", "gate")
    one("add", "one", "--seeds", ",".join(str(i) for i in range(jobs)))
    begin = time.perf_counter()
    open(folder + "/go", "w").close()
    subprocess.run([assay, "wait"], env=one.env, stdout=null, stderr=null)
    print(f"{'assay':13} {'an empty job, drained and recorded durably':42} {(time.perf_counter() - begin) / jobs * 1e3:8.2f} ms")
    daemon = one.daemon()
    before = cpu_seconds(daemon["pid"])
    time.sleep(10)
    print(f"{'assay':13} {'daemon idle':42} {(cpu_seconds(daemon['pid']) - before) * 10:8.2f} % of a core, "
          f"{one.daemon()['memory_bytes'] / 2**20:.1f} MiB", flush=True)
    one.stop()


def live_runs_of_assay(folder):
    one = Assay(folder, 64)
    for _ in range(64):
        one("add", "gate")
    while json.loads(one("daemon", "status", "--json"))["active"] < 64:
        time.sleep(0.1)
    folders = [os.path.join(folder, "home/runs/gate", name) for name in os.listdir(folder + "/home/runs/gate")]
    files = [open(path + "/metrics.jsonl", "a", buffering=1) for path in folders]
    daemon = one.daemon()
    time.sleep(2)
    seconds, before, begin = 20, cpu_seconds(daemon["pid"]), time.perf_counter()
    for tick in range(seconds * 10):   # ten points ten times a second
        line = json.dumps({"step": tick, "time": time.time(), "metrics": {f"m/{k}": tick * .37 + k for k in range(10)}}) + "\n"
        for file in files:
            file.write(line)
        time.sleep(max(0, begin + (tick + 1) / 10 - time.perf_counter()))
    took = time.perf_counter() - begin
    print(f"{'assay':13} {'64 live runs, 100 points/s each':42} {(cpu_seconds(daemon['pid']) - before) / took * 100:8.2f} % of a core, "
          f"{one.daemon()['memory_bytes'] / 2**20:.1f} MiB", flush=True)
    one.stop()


def task_spooler(folder):
    tsp = shutil.which("tsp")
    if not tsp:
        return print("task-spooler: not installed (apt-get install task-spooler)")
    os.makedirs(folder)
    os.chdir(folder)
    env = dict(os.environ, TS_SOCKET=folder + "/socket", TMPDIR=folder, TS_MAXFINISHED="10")
    subprocess.run([tsp, "sh", "-c", f"while [ ! -e {folder}/go ]; do sleep 0.2; done"], env=env, check=True, stdout=null)
    have = 1
    for length in lengths[:3]:   # it keeps a finished list of its own and slows down beyond
        for _ in range(have, length):
            command([tsp, "true"], env)
        have = max(have, length) + repeats
        say("task-spooler", f"add, {length} queued", [command([tsp, "true"], env) for _ in range(repeats)])
    subprocess.run([tsp, "-K"], env=env)
    env["TS_SOCKET"] += "2"
    subprocess.run([tsp, "-S", str(os.cpu_count())], env=env, check=True)
    for _ in range(os.cpu_count()):
        subprocess.run([tsp, "sh", "-c", f"while [ ! -e {folder}/go ]; do sleep 0.2; done"], env=env, stdout=null)
    for _ in range(jobs):
        subprocess.run([tsp, "true"], env=env, stdout=null)
    begin = time.perf_counter()
    open(folder + "/go", "w").close()
    subprocess.run([tsp, "-w"], env=env, stdout=null)
    print(f"{'task-spooler':13} {'an empty job, drained (in memory only)':42} {(time.perf_counter() - begin) / jobs * 1e3:8.2f} ms", flush=True)
    subprocess.run([tsp, "-K"], env=env)


def pueue(folder):
    client, daemon = shutil.which("pueue"), shutil.which("pueued")
    if not client or not daemon:
        return print("pueue: not installed (cargo install pueue)")
    os.makedirs(folder)
    os.chdir(folder)
    env = dict(os.environ, XDG_CONFIG_HOME=folder, XDG_DATA_HOME=folder, XDG_RUNTIME_DIR=folder, HOME=folder)
    server = subprocess.Popen([daemon], env=env, stdout=null, stderr=null)
    time.sleep(1)
    subprocess.run([client, "pause"], env=env, check=True, stdout=null)
    have = 0
    for length in lengths[:3]:
        for _ in range(have, length):
            command([client, "add", "true"], env)
        have = max(have, length) + repeats
        say("pueue", f"add, {length} queued", [command([client, "add", "true"], env) for _ in range(repeats)])
    subprocess.run([client, "reset", "--force"], env=env, stdout=null)
    subprocess.run([client, "shutdown"], env=env, stdout=null)
    server.wait(30)


with tempfile.TemporaryDirectory(prefix="assay-bench-", dir=build) as top:
    for measure in (queue_of_assay, drain_of_assay, live_runs_of_assay, task_spooler, pueue):
        measure(os.path.join(top, measure.__name__[:5]) + str(id(measure)))
        os.chdir("/")
