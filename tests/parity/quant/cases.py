"""Inputs and transcribed formulas that the golden files and the parity scripts share.

The transcriptions are NumPy, float32 operation by operation, written from docs/quantization.md and not from the C++:
rounding to E2M1 and E4M3 is ml_dtypes' own cast.
"""
import pathlib
import subprocess

import ml_dtypes
import numpy as np

F = np.float32
FLT_MAX = np.finfo(np.float32).max
SIXTH = F(1) / F(6)
ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "quant"


def version(package):
    from importlib.metadata import version as of
    return f"{package} {of(package)}"


# ---- element and scale casts -------------------------------------------------------------------------------------
def e2m1(y):
    return np.clip(y, F(-6), F(6)).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)


def e4m3(v):
    return np.clip(v, F(-448), F(448)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


# ---- the modes, on blocks [N, block] whose values are finite -----------------------------------------------------
def te(blocks, a):
    """a: float32 scalar, or [N, 1] for a scale per row."""
    with np.errstate(all="ignore"):
        a = F(a) if np.isscalar(a) else a.astype(np.float32)
        s_enc = np.minimum(F(2688) / a, FLT_MAX)
        s_enc = np.where((a == 0) | (s_enc == 0), F(1), s_enc).astype(np.float32)
        am = np.abs(blocks).max(axis=1, keepdims=True)
        s = e4m3(am * (s_enc * SIXTH))
        q = e2m1(blocks * np.minimum(F(1) / (s * (F(1) / s_enc)), FLT_MAX))
        out = q * ((s * a) * (F(1) / F(2688)))
    assert out.dtype == np.float32
    return out


def one_level(blocks):
    with np.errstate(all="ignore"):
        am = np.abs(blocks).max(axis=1, keepdims=True)
        s = e4m3(np.clip(am / F(6), F(2.0**-6), F(448)))
        out = e2m1(blocks * (F(1) / s)) * s
    assert out.dtype == np.float32
    return out


def mx_floor(blocks):
    """OCP: block scale 2^(floor(log2 am) - 2), not below 2^-127. In float64, where every power of two is normal."""
    am = np.abs(blocks).max(axis=1, keepdims=True)
    exponent = np.maximum((am.view(np.int32) >> 23) - 127 - 2, -127)
    scale = np.ldexp(1.0, exponent)
    y = (blocks.astype(np.float64) / scale).astype(np.float32)
    return (e2m1(y).astype(np.float64) * scale).astype(np.float32)


def to_blocks(x, block, axis):
    """[rows, cols] -> blocks [N, block] along axis, zero-padded, and what from_blocks needs."""
    m = np.ascontiguousarray(x if axis == 1 else x.T)
    pad = -m.shape[1] % block
    padded = np.pad(m, ((0, 0), (0, pad)))
    return padded.reshape(-1, block), (m.shape, padded.shape, axis)


def from_blocks(blocks, shape):
    small, padded, axis = shape
    m = blocks.reshape(padded)[:, : small[1]]
    return np.ascontiguousarray(m if axis == 1 else m.T)


def transcribed(mode, x, axis, scope="tensor"):
    blocks, shape = to_blocks(x, 32 if mode == "floor" else 16, axis)
    if mode == "floor":
        out = mx_floor(blocks)
    elif mode == "torchao_one_level":
        out = one_level(blocks)
    elif scope == "tensor":
        out = te(blocks, np.abs(x).max(initial=F(0)))
    else:
        per_row = shape[1][1] // 16
        out = te(blocks, np.repeat(np.abs(x).max(axis=1), per_row).reshape(-1, 1))
    return from_blocks(out, shape)


def torchao(mode, x, axis):
    """torchao's own quantization and dequantization, on torch tensors; x is float32 or bfloat16."""
    import torch
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    block = 32 if mode == "floor" else 16
    m = x if axis == 1 else x.t()
    padded = torch.nn.functional.pad(m, (0, -m.shape[1] % block)).contiguous()
    if mode == "floor":
        q = MXTensor.to_mx(padded, torch.float4_e2m1fn_x2, block)
    else:
        q = NVFP4Tensor.to_nvfp4(padded, block)
    out = q.dequantize(torch.float32)[:, : m.shape[1]]
    return (out if axis == 1 else out.t()).contiguous().numpy()


# ---- inputs ------------------------------------------------------------------------------------------------------
def bf16(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def log_uniform(rng, shape, low, high):
    sign = rng.choice(np.array([-1, 1], np.float32), shape)
    with np.errstate(under="ignore"):
        return (sign * np.exp2(rng.uniform(low, high, shape))).astype(np.float32)


def nudge(rng, x):
    """Each value as it is, or one float32 up or down."""
    step = rng.integers(-1, 2, x.shape)
    return np.where(step == 0, x, np.where(step > 0, np.nextafter(x, F(np.inf)), np.nextafter(x, F(-np.inf))))


def nudge_some(rng, x, share):
    return np.where(rng.random(x.shape) < share, nudge(rng, x), x).astype(np.float32)


def ties(rng, mode, shape):
    """Blocks along rows whose elements, once scaled, fall on or one step beside the midpoints of E2M1, and for NVFP4
    whose maximum falls on or beside a midpoint of E4M3: where one bracketing of a formula rounds up another rounds down.

    For te the tensor's maximum is 21 p 2^k with p odd. Then 2688/A is inexact, and yet the midpoints of both grids
    (448 am / A and 2688 x / (s A)) are exact float32 numbers.
    """
    block = 32 if mode == "floor" else 16
    n = int(np.prod(shape)) // block
    mid = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    y = rng.choice(mid, (n, block)) * rng.choice([-1.0, 1.0], (n, block))
    if mode == "floor":
        y[:, 0] = rng.choice([4, 5, 6, 7, 7.5], n)
        return nudge(rng, (y * np.exp2(rng.integers(-20, 20, (n, 1)))).astype(np.float32)).reshape(shape)
    grid = np.arange(8, 0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    scale_mid = rng.choice((grid[:-1] + grid[1:]) / 2, (n, 1))
    if mode == "te":
        a = 21.0 * (2 * int(rng.integers(1, 2**13)) + 1) * 2.0 ** int(rng.integers(-20, 20))
        unit = a / 2688
    else:
        a, unit = 2688.0, 1.0
    am = nudge_some(rng, (6 * scale_mid * unit).astype(np.float32), 0.5)
    s = e4m3((am.astype(np.float64) / (6 * unit)).astype(np.float32)).astype(np.float64)
    x = nudge_some(rng, (y * s * unit).astype(np.float32), 0.5)
    x = np.clip(x, -am, am)
    x[:, :1] = am
    x[0, 0] = a
    return x.reshape(shape)


def make(kind, mode, shape, seed, axis=1):
    if axis == 0:
        return np.ascontiguousarray(make(kind, mode, shape[::-1], seed).T)
    rng = np.random.default_rng(seed)
    normal = lambda sigma=1.0: (rng.standard_normal(shape) * sigma).astype(np.float32)
    if kind == "normal":
        return normal()
    if kind == "small":
        return normal(0.02)
    if kind == "bf16":
        return bf16(normal())
    if kind == "log_uniform":  # where the plain formulas neither overflow nor leave the normal numbers
        return log_uniform(rng, shape, -60, 60)
    if kind == "outlier":
        return (normal() * np.where(rng.random(shape) < 0.02, F(3000), F(1))).astype(np.float32)
    if kind == "ties":
        return ties(rng, mode, shape)
    if kind == "tiny":  # subnormals, zeros of both signs
        return np.where(rng.random(shape) < 0.1, F(-0.0), log_uniform(rng, shape, -149, -120)).astype(np.float32)
    if kind == "zeros":
        x = np.where(rng.random(shape) < 0.5, F(0.0), F(-0.0)).astype(np.float32)
        x[-1, -1] = 1.0
        return x
    raise ValueError(kind)


# ---- the built library -------------------------------------------------------------------------------------------
class Library:
    def __init__(self, build):
        self.program = pathlib.Path(build) / "bin" / "quant_cli"
        self.folder = pathlib.Path(build) / "test-data" / "quant-parity"
        self.folder.mkdir(parents=True, exist_ok=True)

    def exists(self):
        return self.program.exists()

    def _run(self, arguments, x, dtype):
        source, target = self.folder / "in.bin", self.folder / "out.bin"
        np.ascontiguousarray(x, dtype=np.float32).tofile(source)
        subprocess.run([self.program, *map(str, arguments), source, target], check=True)
        return np.fromfile(target, dtype=dtype)

    def fake(self, mode, x, axis, scope="tensor", path="best"):
        format = "mxfp4" if mode == "floor" else "nvfp4"
        out = self._run(["fake", format, mode, axis, scope, path, *x.shape], x, np.float32)
        return out.reshape(x.shape)

    def encode(self, codec, x):
        return self._run(["encode", codec], x, np.uint8)


def differing(a, b):
    """Number of float32 elements whose bits differ."""
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())
