"""What bench/peers/queue.sh runs. Prints a line a figure, in ms: median, 10th and 90th percentile, and the median of what the
same processor did for it (user and system time of the command, without the time it waited for its turn).

All programs are measured in turns, one command each, so that whatever else the machine does meets them alike.
"""
import ctypes
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

build, jobs, repeats = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
assay = os.path.join(build, "bin", "assay")
lengths = [0, 100, 1000, 10000]
null = os.open(os.devnull, os.O_RDWR)


def command(words, env, cwd):
    """(seconds, processor seconds) of one command, from its start to its end."""
    os.chdir(cwd)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    pid = os.posix_spawn(words[0], words, env, file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    took = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        sys.exit(f"{' '.join(words)}: exit code {status}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def reaped_seconds():
    """Processor seconds of all that has ended below this process: detached daemons and supervisors become its children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def say(who, what, samples):
    seconds = sorted(took for took, _ in samples)
    own = statistics.median(cpu for _, cpu in samples)
    print(f"{who:13} {what:24} median {statistics.median(seconds) * 1e3:8.2f} ms   p10 {seconds[len(seconds) // 10] * 1e3:8.2f}   "
          f"p90 {seconds[int(len(seconds) * .9)] * 1e3:8.2f}   own processor time {own * 1e3:7.2f}   "
          f"load {os.getloadavg()[0]:.1f}", flush=True)


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Assay:
    name = "assay"
    longest = 10000   # the longest queue it is measured with

    def __init__(self, folder, slots):
        os.makedirs(folder + "/series")
        self.env = dict(os.environ, ASSAY_HOME=folder + "/home", ASSAY_SLOTS=str(slots), ASSAY_EXPERIMENTS=folder + "/series")
        self.folder = folder   # no repository here: what git costs depends on the repository
        self.gate = folder + "/go"
        self.series("one", "metric", 'printf \'{"step":1,"metrics":{"m":1}}\\n\' >> "$ASSAY_RUN_DIR/metrics.jsonl"')
        self.series("gate", "gate", f"while [ ! -e {self.gate} ]; do sleep 0.2; done; "
                                    'echo \'{"step":1,"metrics":{"m":1}}\' >> "$ASSAY_RUN_DIR/metrics.jsonl"')

    def series(self, series, run, script):
        with open(f"{self.folder}/series/{series}.toml", "w") as file:
            file.write(f'[series]\nid = "{series}"\n[base.trainer]\nkind = "command"\nargv = ["/bin/sh", "-c", {json.dumps(script)}]\n'
                       f'[[run]]\nid = "{run}"\n')

    def __call__(self, *words):
        done = subprocess.run([assay, *words], env=self.env, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"assay {' '.join(words)[:80]}: exit code {done.returncode}: {done.stderr}")
        return done.stdout

    def block(self):
        self("add", "gate")

    def fill(self, first, last):
        for begin in range(first, last, 1000):
            self("add", "one", "--seeds", ",".join(str(i) for i in range(begin, min(last, begin + 1000))))

    def add(self):
        return command([assay, "add", "one"], self.env, self.folder)

    def daemon(self):
        return json.loads(self("daemon", "status", "--json"))

    def wait(self):
        subprocess.run([assay, "wait"], env=self.env, cwd=self.folder, stdout=null, stderr=null)

    def stop(self):
        self("daemon", "stop", "--kill", "--grace", "0.1")


class TaskSpooler:
    name = "task-spooler"
    longest = 100   # each waiting job keeps a client connected, and below 1000 of them `tsp` waits for a free place for ever

    def __init__(self, folder, slots):
        self.tsp = shutil.which("tsp")
        os.makedirs(folder)
        self.folder = folder
        self.gate = folder + "/go"
        self.env = dict(os.environ, TS_SOCKET=folder + "/socket", TMPDIR=folder, TS_MAXFINISHED="10")
        self("-S", str(slots))

    def __call__(self, *words):
        subprocess.run([self.tsp, *words], env=self.env, cwd=self.folder, check=True, stdout=null)

    def block(self):
        self("sh", "-c", f"while [ ! -e {self.gate} ]; do sleep 0.2; done")

    def fill(self, first, last):
        for _ in range(first, last):
            command([self.tsp, "true"], self.env, self.folder)

    def add(self):
        return command([self.tsp, "true"], self.env, self.folder)

    def wait(self):
        self("-w")

    def stop(self):
        if not os.path.exists(self.gate):
            self("-k", "0")   # what waits for the gate: -K leaves it behind
        self("-K")


class Pueue:
    name = "pueue"
    longest = 1000   # filled one command at a time

    def __init__(self, folder, slots):
        os.makedirs(folder)
        self.folder = folder
        self.gate = folder + "/go"
        self.client = shutil.which("pueue")
        self.env = dict(os.environ, XDG_CONFIG_HOME=folder, XDG_DATA_HOME=folder, XDG_RUNTIME_DIR=folder, HOME=folder)
        self.server = subprocess.Popen([shutil.which("pueued")], env=self.env, cwd=folder, stdout=null, stderr=null)
        while subprocess.run([self.client, "status"], env=self.env, stdout=null, stderr=null).returncode != 0:
            time.sleep(.2)
        self("parallel", str(slots))

    def __call__(self, *words):
        subprocess.run([self.client, *words], env=self.env, cwd=self.folder, check=True, stdout=null)

    def block(self):
        self("add", f"while [ ! -e {self.gate} ]; do sleep 0.2; done")

    def fill(self, first, last):
        for _ in range(first, last):
            command([self.client, "add", "true"], self.env, self.folder)

    def add(self):
        return command([self.client, "add", "true"], self.env, self.folder)

    def wait(self):
        self("wait", "--all", "--quiet")

    def stop(self):
        self("reset", "--force")
        self("shutdown")
        self.server.wait(60)


def peers():
    found = [Assay]
    if shutil.which("tsp"):
        found.append(TaskSpooler)
    else:
        print("task-spooler: not installed (apt-get install task-spooler)")
    if shutil.which("pueue") and shutil.which("pueued"):
        found.append(Pueue)
    else:
        print("pueue: not installed (cargo install pueue)")
    return found


def adding(top):
    """Every slot is taken, so that the queue only grows."""
    queues = [peer(f"{top}/add-{peer.name}", 1) for peer in peers()]
    have = {queue.name: 0 for queue in queues}
    for queue in queues:
        queue.block()
    for length in lengths:
        for queue in queues:
            if length <= queue.longest:
                queue.fill(have[queue.name], length)
                have[queue.name] = max(have[queue.name], length)
        taking = [queue for queue in queues if queue.longest >= length]
        samples = {queue.name: [] for queue in taking}
        for _ in range(repeats):
            for queue in taking:
                samples[queue.name].append(queue.add())
                have[queue.name] += 1
        for queue in taking:
            say(queue.name, f"add, {length} queued", samples[queue.name])
    for queue in queues:
        queue.stop()


def draining(top):
    """Jobs wait behind a gate in every slot; the time from its opening until all have ended, a job. With a slot a processor,
    and with four: a job that waits for the disk leaves its processor to another."""
    for slots, peer in itertools.product((os.cpu_count(), 4 * os.cpu_count()), peers()):
        queue = peer(f"{top}/drain-{peer.name}-{slots}", slots)
        count = jobs if peer is Assay else min(jobs, 50 if peer is Pueue else 100)
        for _ in range(slots):
            queue.block()
        queue.fill(0, count)
        daemon = cpu_seconds(queue.daemon()["pid"]) if peer is Assay else 0
        others = reaped_seconds() if peer is Assay else 0
        begin = time.perf_counter()
        open(queue.gate, "w").close()
        queue.wait()
        took = time.perf_counter() - begin
        kept = "recorded durably" if peer is Assay else "in memory" if peer is TaskSpooler else "state file"
        own = ""
        if peer is Assay:
            others = reaped_seconds() - others
            own = (f"   processor time a job: daemon {(cpu_seconds(queue.daemon()['pid']) - daemon) / count * 1e3:.2f} ms, "
                   f"supervisor, trainer and `wait` {others / count * 1e3:.2f} ms")
        print(f"{peer.name:13} {f'{count} empty jobs drained ({kept})':44} {took / count * 1e3:8.2f} ms a job, {slots} slots{own}   "
              f"load {os.getloadavg()[0]:.1f}", flush=True)
        if peer is Assay and slots == os.cpu_count():
            pid = queue.daemon()["pid"]
            time.sleep(1)
            before = cpu_seconds(pid)
            time.sleep(10)
            print(f"{'assay':13} {'daemon idle':44} {(cpu_seconds(pid) - before) * 10:8.2f} % of a core, "
                  f"{queue.daemon()['memory_bytes'] / 2**20:.1f} MiB", flush=True)
        queue.stop()


def live_runs_of_assay(top):
    one = Assay(top + "/live", 64)
    for _ in range(64):
        one.block()
    while one.daemon()["active"] < 64:
        time.sleep(0.1)
    folders = [os.path.join(one.folder, "home/runs/gate", name) for name in os.listdir(one.folder + "/home/runs/gate")]
    files = [open(path + "/metrics.jsonl", "a", buffering=1) for path in folders]
    pid = one.daemon()["pid"]
    time.sleep(2)
    seconds, before, begin = 20, cpu_seconds(pid), time.perf_counter()
    for tick in range(seconds * 10):   # ten points ten times a second
        line = json.dumps({"step": tick, "time": time.time(), "metrics": {f"m/{k}": tick * .37 + k for k in range(10)}}) + "\n"
        for file in files:
            file.write(line)
        time.sleep(max(0, begin + (tick + 1) / 10 - time.perf_counter()))
    took = time.perf_counter() - begin
    print(f"{'assay':13} {'64 live runs, 100 points/s each':44} {(cpu_seconds(pid) - before) / took * 100:8.2f} % of a core, "
          f"{one.daemon()['memory_bytes'] / 2**20:.1f} MiB, in {took:.1f} s", flush=True)
    one.stop()


ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)   # PR_SET_CHILD_SUBREAPER
with tempfile.TemporaryDirectory(prefix="assay-bench-", dir=os.environ.get("TMPDIR", "/tmp")) as top:
    for measure in (adding, draining, live_runs_of_assay):
        if len(sys.argv) < 5 or measure.__name__ in sys.argv[4:]:
            measure(top)
        os.chdir("/")
