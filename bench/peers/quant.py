"""Fake quantization of 16 Mi elements by torchao (eager, and under torch.compile), compressed-tensors and assay: the same
data, one run, in turns; and how many times as fast assay is.

  .deps/parity/bin/python bench/peers/quant.py --build BUILD_DIR [--threads N] [--clock wall|cpu] [--rounds N]

assay's part is BUILD_DIR/bin/fake_quantize_bench (`ninja benches`), which reads the data from a file. Each figure is the
fastest call. --clock cpu takes processor time instead of the wall's, for a machine that others use; one thread only,
where the two mean the same. Peers give what they give: values of the input's type, from their own quantize and dequantize.
"""
import argparse
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import time

try:
    import compressed_tensors  # noqa: F401
    import torch
    import torchao  # noqa: F401
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "parity" / "quant"))
import cases  # noqa: E402

ROWS = COLS = 4096
# Mode of ours -> the peer's function of (x, axis) and its package.
PEERS = {
    "torchao": (lambda x, axis: cases.torchao("torchao", x, axis), "torchao"),
    "floor": (lambda x, axis: cases.torchao("floor", x, axis), "torchao"),
    "ct": (lambda x, axis: cases.compressed_tensors_package("ct", x, axis), "compressed-tensors"),
}
# No peer computes `te` on a CPU; it stands beside torchao's two-level mode, which does as much work.
BESIDE = {"torchao": ("torchao", "te"), "floor": ("floor",), "ct": ("ct", "te")}


def timed(function, clock):
    now = time.process_time if clock == "cpu" else time.perf_counter
    start = now()
    function()
    return now() - start


def ours(build, data, folder, modes, type, threads, clock):
    """Mode and axis -> seconds, and the share of a copy of the same bytes."""
    out = folder / "ours.json"
    names = f"/({'|'.join(modes)})/(rows|columns)/{type}/out-of-cache/(avx512|avx2|generic)/{threads}/"
    subprocess.run([build / "bin" / "fake_quantize_bench", f"--clock={clock}", f"--data={data}",
                    f"--benchmark_filter={names}", "--benchmark_repetitions=1", "--benchmark_min_time=0.1",
                    "--benchmark_report_aggregates_only=false", f"--benchmark_out={out}", "--benchmark_out_format=json"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    for run in json.loads(out.read_text())["benchmarks"]:
        _, mode, along, *_ = run["name"].split("/")
        key, new = (mode, 1 if along == "rows" else 0), (ROWS * COLS / run["elements/s"], run["of copy"])
        found[key] = min(found.get(key, new), new)  # the fastest path is the one that fake_quantize() takes
    return found


def compared(mode, axis, type, x, data, folder, options):
    function, package = PEERS[mode]
    torch._dynamo.reset()
    compiled = torch.compile(lambda t: function(t, axis))
    calls = {f"{package} eager": lambda: function(x, axis), f"{package} torch.compile": lambda: compiled(x)}
    for peer in list(calls):
        try:
            calls[peer]()  # compiles, and warms up
        except Exception as error:
            yield f"{type} {mode}, {peer}, axis {axis}: SKIPPED: {str(error).splitlines()[0]}"
            del calls[peer]
    best, own = {}, {}
    for _ in range(options.rounds):
        for peer, call in calls.items():
            best[peer] = min(best.get(peer, float("inf")), timed(call, options.clock))
        for key, new in ours(options.build, data, folder, BESIDE[mode], type, options.threads, options.clock).items():
            own[key] = min(own.get(key, new), new)
    n = ROWS * COLS * 1e-6
    for peer, seconds in best.items():
        for our_mode in BESIDE[mode]:
            t, share = own[our_mode, axis]
            what = f"{type} {'rows' if axis else 'columns'} {our_mode}, {peer}"
            yield f"{what:44}{n / seconds:9.1f}{n / t:9.0f}{seconds / t:8.1f}{share:9.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", default="fp32", help="of fp32,bf16")
    parser.add_argument("--axes", default="1,0", help="of 1 (rows), 0 (columns)")
    parser.add_argument("--modes", default=",".join(PEERS), help="the peers' modes")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu goes with one thread")
    if not (options.build / "bin" / "fake_quantize_bench").exists():
        print("SKIPPED: no fake_quantize_bench; `ninja benches` makes it")
        return 0
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    logging.getLogger("torch._inductor").setLevel(logging.CRITICAL + 1)  # it prints what it fails to compile
    modes = options.modes.split(",")
    versions = ", ".join(cases.version(p) for p in ("torch", "torchao", "compressed-tensors"))
    print(f"{ROWS}x{COLS}, {options.threads} threads, {options.clock} clock, fastest of {options.rounds}; {versions}\n"
          f"{'M elements/s':44}{'peer':>9}{'ours':>9}{'times':>8}{'of copy':>9}")
    x32 = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "data.bin"
        x32.numpy().tofile(data)
        for type in options.types.split(","):
            x = x32 if type == "fp32" else x32.bfloat16()
            for axis in map(int, options.axes.split(",")):
                for mode in modes:
                    for line in compared(mode, axis, type, x, data, folder, options):
                        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
