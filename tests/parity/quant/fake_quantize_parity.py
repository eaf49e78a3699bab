"""Fake quantization, bit by bit, against torchao, compressed-tensors, and transcribed formulas of TransformerEngine.

  python tests/parity/quant/fake_quantize_parity.py --build BUILD_DIR [--elements N] [--modes te,ct,...]
  python tests/parity/quant/fake_quantize_parity.py --write-golden     writes tests/golden/quant/MODE.json

TransformerEngine does not install without CUDA: `te` and `te46` are checked against a NumPy transcription of its
published formulas (cases.py), not against its code. Everything else is the package's own result wherever the package
gives one that means something; where not (below), the transcription stands in, and the count is printed:
  torchao, a tensor whose A / 2688 has no finite inverse   torchao gives NaN or saturates everything
  MXFP4, a block scale of 2^-127 over values that are not all 0   torchao divides by 2^-126 or 1 and multiplies by 2^-127
  any NVFP4 mode, where the plain formula gives Inf or NaN        A within a factor of 448 of float32's largest
  any NVFP4 mode, a block whose maximum is within 7 % of float32's largest   6 scales may be Inf there; we stay finite
"""
import argparse
import json
import sys
import unittest.mock

try:
    import compressed_tensors  # noqa: F401
    import ml_dtypes
    import numpy as np
    import torch
    import torchao  # noqa: F401
    import cases
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

# Kinds of data by the type they go in as.
KINDS = {"fp32": ("normal", "small", "log_uniform", "window", "all_exponents", "outlier", "ties", "tiny", "zeros", "all_zero"),
         "bf16": ("bf16", "bf16_ties"), "fp16": ("fp16",)}
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUMPY = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
TRANSCRIPTION = ("NumPy float32 transcription of docs/quantization.md (tests/parity/quant/cases.py), casts by " +
                 cases.version("ml_dtypes"))
TE = "TransformerEngine's published formulas (common/cast/nvfp4, 2026) in a " + TRANSCRIPTION


def narrowed(x, type):
    """float32 -> what the library takes and gives: float32, or the bits of 16."""
    with np.errstate(over="ignore"):
        return x if type == "fp32" else x.astype(NUMPY[type]).view(np.uint16)


def widened(x, type):
    return x if type == "fp32" else x.view(NUMPY[type]).astype(np.float32)


def exact_log2(function):
    """torchao's rceil takes ceil(log2(v)) in float32, where log2 of a number just above 2^k is k. On a GPU it uses the
    conversion instruction, which has no such error; so here log2 is taken in float64."""
    plain = torch.log2
    with unittest.mock.patch.object(torch, "log2", lambda t: plain(t.double())):
        return function()


def package(mode, x, axis, type):
    """The package's own result as narrowed() has it, or None, and its name."""
    if mode in ("te", "te46", "te46_mae"):
        return None, TE
    t = torch.from_numpy(x).to(TORCH[type])
    if mode in ("ct", "ct_bf16"):
        if mode == "ct_bf16" and type != "bf16":
            return None, TRANSCRIPTION  # maxima in bfloat16 are only had from bfloat16 data
        out, name = cases.compressed_tensors_package(mode, t, axis), cases.version("compressed-tensors")
    else:
        if type == "fp16":
            return None, TRANSCRIPTION  # torchao takes no float16
        run = lambda: cases.torchao(mode, t, axis)
        out, name = exact_log2(run) if mode == "rceil" else run(), cases.version("torchao")
    return (out.numpy() if type == "fp32" else out.view(torch.int16).numpy().view(np.uint16)), name


def comparable(mode, x, axis):
    """Where a package's result means something, for finite x."""
    if mode == "torchao":
        return np.full(x.shape, np.abs(x).max(initial=0) >= 2688 * 2.0**-128)
    if mode in cases.MXFP4:
        blocks, shape = cases.to_blocks(x, 32, axis)
        am = cases.block_maxima(blocks, False)
        good = (cases.mx_byte(mode, am) > 0) | (am == 0)
        return cases.from_blocks(np.broadcast_to(good, blocks.shape), shape)
    return np.ones(x.shape, bool)


def theirs(mode, x, axis, type, scope="tensor", tiles=False):
    """(expected as narrowed() has it, where it binds, where a package says so, sources)"""
    expected = cases.transcribed(mode, x, axis, scope, tiles)
    if mode in cases.NVFP4 and not x.any():
        expected = x * cases.F(0) + (cases.F(0) if mode.startswith("ct") else cases.F(-0.0))
    binds = np.isfinite(expected) | (mode in cases.MXFP4)
    if mode == "torchao" and x.any():
        binds &= comparable(mode, x, axis)
    if mode in cases.NVFP4:
        blocks, shape = cases.to_blocks(x, 16, axis, tiles)
        near = cases.block_maxima(blocks, tiles) > cases.F(0.93) * cases.FLT_MAX
        binds &= ~cases.from_blocks(np.broadcast_to(near, blocks.shape), shape)
    expected, by_package = narrowed(expected, type), np.zeros(x.shape, bool)
    source = TE if mode.startswith("te") else TRANSCRIPTION
    if scope == "tensor" and not tiles:
        values, name = package(mode, x, axis, type)
        if values is not None:
            by_package = comparable(mode, x, axis) & np.isfinite(cases.transcribed(mode, x, axis)) | \
                (comparable(mode, x, axis) & (mode in cases.MXFP4))
            by_package &= x.any()
            expected, source = np.where(by_package, values, expected), name
    return expected, binds, by_package, source


def write_golden():
    def rows(x):
        return ["".join(f"{v:08x}" for v in row) for row in x.view(np.uint32)]

    made_for = [(k, 1) for k in ("normal", "small", "log_uniform", "outlier", "ties", "tiny", "zeros", "bf16", "bf16_ties", "fp16")]
    for mode in cases.MODES:
        made = []
        for index, (kind, axis) in enumerate(made_for + [("ties", 0), ("ties", 1), ("ties", 1)]):
            # 80 columns: whole NVFP4 blocks, a partial MXFP4 one. The second shape has partial blocks both ways.
            shape = (6, 80) if kind in ("normal", "zeros", "outlier") else (19, 23)
            if "ties" in kind:
                shape = (5, 96) if axis == 1 else (96, 5)
            type = next(t for t, kinds in KINDS.items() if kind in kinds)
            x = cases.make(kind, mode, shape, 100 + index, axis)
            if kind == "tiny" and mode == "torchao":
                x[0, 0] = 1  # or torchao gives nothing to compare with
            case = {"kind": kind, "type": type, "rows": shape[0], "cols": shape[1], "in": rows(x)}
            for along in (1, 0):
                expected, binds, _, source = theirs(mode, x, along, type)
                assert binds.all()
                case[f"axis{along}"] = rows(widened(expected, type))
            case["source"] = source
            if mode in cases.NVFP4 and mode != "torchao_one_level" and kind == "normal":
                case["axis1_scope_row"] = rows(theirs(mode, x, 1, type, scope="row")[0])
            if mode in cases.NVFP4 and kind == "normal":
                case["axis1_tiles"] = rows(theirs(mode, x, 1, type, tiles=True)[0])
            made.append(case)
        golden = {
            "mode": mode,
            "made_by": "tests/parity/quant/fake_quantize_parity.py --write-golden",
            "form": "rows of float32 bits in hex, 8 digits an element (`type` is what goes in and comes out); `source` says "
                    "where axis0 and axis1 come from, the other forms are transcriptions of the same formulas",
            "cases": made,
        }
        text = json.dumps(golden, separators=(",", ":"))
        text = text.replace('","', '",\n"').replace('"],"', '"],\n"').replace("},{", "},\n{")
        (cases.GOLDEN / f"{mode}.json").write_text(text + "\n")


def jobs_of(mode, elements):
    """(kind, type, shape, seed, axis, whether on all paths)"""
    kinds = [(kind, type) for type, kinds in KINDS.items() for kind in kinds]
    for index, (kind, type) in enumerate(kinds):
        for axis, cols in ((1, 240), (0, 1024), (1, 77), (0, 77)):
            rows = max(1, elements // (len(kinds) * 4 * cols))
            if "ties" in kind:  # made of whole blocks
                rows, cols = -(-rows // 32) * 32, -(-cols // 32) * 32
            yield kind, type, (rows, cols), 7000 + 10 * index + axis, axis, True
    # Each tensor has one maximum: ties and windows under many of them.
    for seed in range(24):
        for kind, type in (("ties", "fp32"), ("bf16_ties", "bf16"), ("window", "fp32")):
            yield kind, type, (32, 64), seed, seed % 2, False


def compare(library, elements, modes):
    paths = library.paths()
    wrong = everything = 0
    for mode in modes:
        total = packaged = unbound = worst = 0
        sources = set()
        for kind, type, shape, seed, axis, all_paths in jobs_of(mode, elements // len(modes)):
            x = cases.make(kind, mode, shape, seed, axis)
            forms = [("tensor", False)]
            if mode in cases.NVFP4 and kind in ("normal", "bf16", "ties") and axis == 1:
                forms += [("tensor", True)] + ([("row", False)] if mode != "torchao_one_level" else [])
            for scope, tiles in forms:
                expected, binds, by_package, source = theirs(mode, x, axis, type, scope, tiles)
                sources.add(source)
                for path in paths if all_paths else paths[:1]:
                    ours = library.fake(mode, narrowed(x, type), axis, scope, path, type=type, tiles=int(tiles))
                    bad = int((cases.differing(ours, expected) & binds).sum())
                    if bad:
                        where = np.argwhere(cases.differing(ours, expected) & binds)[0]
                        print(f"  {mode} {kind} {type} {x.shape} axis {axis} scope {scope} tiles {tiles} path {path}: {bad} differ, "
                              f"first at {tuple(where)}: {x[tuple(where)]!r} -> {ours[tuple(where)]!r}, not {expected[tuple(where)]!r}")
                    worst += bad
                total += x.size
                packaged += int(by_package.sum())
                unbound += int((~binds).sum())
        wrong += worst
        everything += total
        print(f"{mode}: {total} elements, {sum(map(len, KINDS.values()))} kinds of data, both axes, paths {', '.join(paths[1:])}: "
              f"{worst} differing bits; {packaged} of the elements compared with a package's own result, {unbound} left out; sources: {'; '.join(sorted(sources))}",
              flush=True)
    print(f"all modes: {everything} elements, {wrong} differing bits")
    return wrong


def log2_note():
    """How often torchao's eager rceil is off for its float32 log2: information, not a test of ours."""
    near = np.exp2(np.arange(-100, 100).repeat(32)).astype(np.float32).reshape(-1, 32)
    near[:, 0] = np.nextafter(near[:, 0] * cases.F(6), cases.F(np.inf))
    near[:, 1:] *= cases.F(0.6)
    x = cases.make("window", "rceil", (4096, 256), 1)
    changed = []
    for data in (x, near):
        run = lambda: cases.torchao("rceil", torch.from_numpy(data), 1)
        changed.append(int((run() != exact_log2(run)).any(dim=1).sum()))
    print(f"rceil: torchao's eager float32 log2 changes {changed[0]} of {len(x)} rows of log-uniform data, and {changed[1]} of "
          f"{len(near)} blocks whose maximum is the float after 6 * 2^k")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
    parser.add_argument("--elements", type=int, default=6_000_000, help="about how many, all modes together")
    parser.add_argument("--modes", default=",".join(cases.MODES))
    parser.add_argument("--write-golden", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.write_golden:
        write_golden()
        return 0
    if not options.build:
        parser.error("--build BUILD_DIR or --write-golden")
    library = cases.Library(options.build)
    if not library.exists():
        print(f"SKIPPED: {library.program} is not built")
        return 0
    wrong = compare(library, options.elements, options.modes.split(","))
    log2_note()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
