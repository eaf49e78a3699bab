"""Fake quantization, bit by bit, against torchao (NVFP4 one level, MXFP4 floor) and transcribed formulas (te).

  python tests/parity/quant/fake_quantize_parity.py --build BUILD_DIR [--elements N]
  python tests/parity/quant/fake_quantize_parity.py --write-golden     writes tests/golden/quant/{te,torchao_one_level,floor}.json

TransformerEngine does not install without CUDA: `te` is checked against a NumPy transcription of its published
formula (cases.py), not against its code.
"""
import argparse
import json
import sys

try:
    import numpy as np
    import torch
    import torchao  # noqa: F401
    import cases
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

MODES = ("te", "torchao_one_level", "floor")
KINDS = ("normal", "small", "bf16", "log_uniform", "outlier", "ties", "tiny", "zeros")


def theirs(mode, kind, x, axis, scope="tensor"):
    """(expected values, where they come from)."""
    transcription = "NumPy float32 transcription of docs/quantization.md (tests/parity/quant/cases.py), casts by " + \
        cases.version("ml_dtypes")
    if mode == "te":
        return cases.transcribed(mode, x, axis, scope), transcription
    if mode == "floor" and kind == "tiny":
        # Below 2^-124 torchao 0.18 divides by 2^-126 and multiplies back with 2^-127, which halves the values. The OCP
        # specification, and assay, use one scale, 2^-127.
        return cases.transcribed(mode, x, axis), transcription
    # bf16 goes in as bf16: what torchao does with it is part of the comparison.
    t = torch.from_numpy(x)
    return cases.torchao(mode, t.to(torch.bfloat16) if kind == "bf16" else t, axis), cases.version("torchao")


def write_golden():
    def rows(x):
        return ["".join(f"{v:08x}" for v in row) for row in x.view(np.uint32)]

    for mode in MODES:
        made = []
        for index, (kind, made_for) in enumerate([(k, 1) for k in KINDS] + [("ties", 0)] + [("ties", 1)] * 4):
            # 80 columns: whole NVFP4 blocks, a partial MXFP4 one. The second shape has partial blocks both ways.
            shape = (6, 80) if kind in ("normal", "zeros", "outlier") else (19, 23)
            if kind == "ties":
                shape = (5, 96) if made_for == 1 else (96, 5)
            x = cases.make(kind, mode, shape, 100 + index, made_for)
            case = {"kind": kind, "rows": shape[0], "cols": shape[1], "in": rows(x)}
            for axis in (1, 0):
                out, source = theirs(mode, kind, x, axis)
                case[f"axis{axis}"] = rows(out)
            case["source"] = source
            if mode == "te":
                case["axis1_scope_row"] = rows(theirs(mode, kind, x, 1, "row")[0])
            made.append(case)
        golden = {
            "mode": mode,
            "made_by": "tests/parity/quant/fake_quantize_parity.py --write-golden",
            "form": "rows of float32 bits in hex, 8 digits an element; `source` says where the expected values come from",
            "cases": made,
        }
        text = json.dumps(golden, separators=(",", ":"))
        text = text.replace('","', '",\n"').replace('"],"', '"],\n"').replace("},{", "},\n{")
        (cases.GOLDEN / f"{mode}.json").write_text(text + "\n")


def compare(library, elements):
    wrong = 0
    for mode in MODES:
        total, worst = 0, 0
        sources = set()
        jobs = []
        for index, kind in enumerate(KINDS):
            for axis, cols in ((1, 240), (0, 1024), (1, 77), (0, 77)):
                rows = max(1, elements // (len(KINDS) * 4 * cols))
                if kind == "ties":  # made of whole blocks
                    rows, cols = -(-rows // 32) * 32, -(-cols // 32) * 32
                jobs.append((kind, (rows, cols), 7000 + 10 * index + axis, axis))
        # Each tensor has one maximum: ties under many of them.
        for seed in range(60):
            jobs.append(("ties", (32, 64), seed, seed % 2))
        for kind, shape, seed, axis in jobs:
            for scope in ("tensor", "row") if mode == "te" and axis == 1 else ("tensor",):
                x = cases.make(kind, mode, shape, seed, axis)
                expected, source = theirs(mode, kind, x, axis, scope)
                sources.add(source)
                for path in ("best", "generic", "reference"):
                    bad = cases.differing(library.fake(mode, x, axis, scope, path), expected)
                    if bad:
                        print(f"  {mode} {kind} {x.shape} axis {axis} scope {scope} path {path}: {bad} differ")
                    worst += bad
                total += x.size
        wrong += worst
        print(f"{mode}: {total} elements, {len(KINDS)} kinds of data, both axes, three code paths: {worst} differing bits, "
              f"against {' and '.join(sorted(sources))}")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
    parser.add_argument("--elements", type=int, default=4_000_000, help="about how many for each mode")
    parser.add_argument("--write-golden", action="store_true")
    options = parser.parse_args()
    if options.write_golden:
        write_golden()
        return 0
    if not options.build:
        parser.error("--build BUILD_DIR or --write-golden")
    library = cases.Library(options.build)
    if not library.exists():
        print(f"SKIPPED: {library.program} is not built")
        return 0
    torch.set_num_threads(1)
    return 1 if compare(library, options.elements) else 0


if __name__ == "__main__":
    sys.exit(main())
