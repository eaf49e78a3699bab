"""E2M1, E4M3, bf16 and fp16 encoding and E2M1, E4M3, E8M0 decoding against ml_dtypes and NumPy (CUDA: cuda_codecs_parity.py).

  python tests/parity/quant/codecs_parity.py --build BUILD_DIR     all 2^16 bf16 encodings and fp32 neighbours of every midpoint
  python tests/parity/quant/codecs_parity.py --write-golden        writes tests/golden/quant/codecs.json
"""
import argparse
import json
import sys

try:
    import ml_dtypes
    import numpy as np
    import cases
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

TYPES = {"e2m1": ml_dtypes.float4_e2m1fn, "e4m3": ml_dtypes.float8_e4m3fn}


def all_bf16():
    return np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)


def near_midpoints(dtype, codes):
    grid = np.arange(codes, dtype=np.uint8).view(dtype).astype(np.float32)
    mid = (grid[:-1] + grid[1:]) / np.float32(2)
    near = np.concatenate([np.nextafter(mid, np.float32(0)), mid, np.nextafter(mid, np.float32(np.inf))])
    return np.concatenate([near, -near])


def encode(name, x):
    with np.errstate(all="ignore"):
        return x.astype(TYPES[name]).view(np.uint8)


def runs(codes):
    """[[first bf16 encoding, code], ...]: exact, since every encoding belongs to the run that began last."""
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return [[int(i), int(codes[i])] for i in starts]


def hexes(x):
    return " ".join(f"{v:08x}" for v in x.view(np.uint32))


def write_golden():
    x = all_bf16()
    golden = {
        "source": f"{cases.version('ml_dtypes')} (float4_e2m1fn, float8_e4m3fn, float8_e8m0fnu)",
        "made_by": "tests/parity/quant/codecs_parity.py --write-golden",
        "form": "bf16: runs [first encoding, code] over all 65536 bf16 encodings in order; near: float32 bits at and one "
                "step beside every midpoint, with their codes; decode: float32 bits by code",
    }
    for name, codes in (("e2m1", 8), ("e4m3", 0x7F)):
        near = near_midpoints(TYPES[name], codes)
        decode = np.arange(16 if name == "e2m1" else 256, dtype=np.uint8).view(TYPES[name]).astype(np.float32)
        golden[name] = {"bf16": runs(encode(name, x)), "near": hexes(near), "near_codes": encode(name, near).tolist(),
                        "decode": hexes(decode)}
    e8m0 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    golden["e8m0"] = {"decode": hexes(e8m0)}
    text = json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"').replace('","', '",\n"')
    (cases.GOLDEN / "codecs.json").write_text(text + "\n")


def compare(library):
    worst = 0
    for name, codes, top in (("e2m1", 8, 6), ("e4m3", 0x7F, 448)):
        x = np.concatenate([all_bf16(), near_midpoints(TYPES[name], codes)])
        ours, theirs = library.encode(name, x), encode(name, x)
        # Beyond its range ml_dtypes' E4M3 gives NaN where ours saturates: compare against its cast of the clipped value.
        clipped = encode(name, np.where(np.isnan(x), x, np.clip(x, -top, top)))
        known = ~np.isnan(x) if name == "e2m1" else np.ones(x.shape, bool)  # E2M1 has no NaN
        wrong = int((ours != clipped)[known].sum())
        beyond = int((theirs != clipped)[known].sum())
        worst += wrong
        print(f"{name}: {int(known.sum())} inputs against {cases.version('ml_dtypes')}: {wrong} differing codes "
              f"({beyond} inputs beyond the range, where ml_dtypes does not saturate, compared after clipping)")
    return worst


def compare_16(library):
    """bf16 against ml_dtypes and fp16 against NumPy: every number, its neighbours and the midpoints between them."""
    worst = 0
    for name, dtype, source in (("bf16", ml_dtypes.bfloat16, cases.version("ml_dtypes")), ("fp16", np.float16, cases.version("numpy"))):
        with np.errstate(all="ignore"):
            grid = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
            mid = (grid[:-1].astype(np.float64) + grid[1:]) / 2
            x = np.concatenate([grid, mid, np.nextafter(mid.astype(np.float32), np.float32(0)),
                                np.nextafter(mid.astype(np.float32), np.float32(np.inf)), np.nextafter(grid, np.float32(np.inf)),
                                np.float32([65519.996, 65520, 1e30, 3.4e38])]).astype(np.float32)
            ours, theirs = library.encode(name, x), x.astype(dtype).view(np.uint16)
        known = ~np.isnan(x)
        wrong = int((ours != theirs)[known].sum()) + int((~np.isnan(ours.view(dtype).astype(np.float32)))[~known].sum())
        worst += wrong
        print(f"{name}: {x.size} inputs against {source}: {wrong} differing")
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
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
    return 1 if compare(library) + compare_16(library) else 0


if __name__ == "__main__":
    sys.exit(main())
