"""The operands of native FP4 products (quant/product/fp4_layout.h), byte by byte, against torchao.

  python tests/parity/quant/fp4_operand_parity.py --build BUILD_DIR

Codes: those of nvfp4_quantize(), two a byte. Block scales: its own, put in tiles of 128 rows x 4 blocks by to_blocked(). Only
blocks along K that are whole: torchao takes no others. What we fill up with, beyond torchao's bytes, must be 0.
"""
import argparse
import sys

try:
    import numpy as np
    import torch
    import torchao
    import cases
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale
    from torchao.prototype.mx_formats.utils import to_blocked
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

SHAPES = ((1, 16), (31, 528), (33, 32), (128, 64), (200, 96), (257, 1040), (512, 576))
KINDS = ("normal", "outlier", "window")


def up(n, to):
    return (n + to - 1) // to * to


def split(matrix, rows, cols):
    """The first rows and columns, and how many bytes outside them are not 0."""
    inside = matrix[:rows, :cols]
    return inside, int(np.count_nonzero(matrix)) - int(np.count_nonzero(inside))


def operand(library, mode, x):
    rows, cols = x.shape
    data = library.fp4(mode, x)
    codes = up(rows, 32) * up(cols, 32) // 2
    assert data.size == codes + up(rows, 128) * up(up(cols, 32) // 16, 4), data.size
    return data[:codes].reshape(up(rows, 32), -1), data[codes:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    library = cases.Library(parser.parse_args().build)
    if not library.exists():
        print(f"SKIPPED: not built: {library.program}")
        return 0
    torch.set_num_threads(1)
    total = 0
    for mode in ("torchao", "torchao_one_level"):
        compared = wrong = 0
        for shape in SHAPES:
            for kind in KINDS:
                x = cases.make(kind, mode, shape, len(kind))
                there = torch.from_numpy(x)
                above = per_tensor_amax_to_scale(there.abs().max()) if mode == "torchao" else None
                scales, packed = nvfp4_quantize(there, 16, above)
                packed = packed.view(torch.uint8).reshape(shape[0], -1).numpy()
                tiles = to_blocked(scales.reshape(shape[0], -1)).view(torch.uint8).flatten().numpy()
                codes, ours = operand(library, mode, x)
                codes, beyond = split(codes, *packed.shape)
                assert ours.size == tiles.size, (ours.size, tiles.size)
                wrong += beyond + int((codes != packed).sum()) + int((ours != tiles).sum())
                compared += packed.size + tiles.size
        print(f"{mode}: {compared} bytes of codes and scales, {wrong} differ")
        total += wrong
    print(f"against torchao {torchao.__version__}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
