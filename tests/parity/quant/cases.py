"""Inputs and transcribed formulas that the golden files and the parity scripts share.

The transcriptions are NumPy, float32 operation by operation, written from docs/quantization.md and not from the C++:
rounding to E2M1 and E4M3 is ml_dtypes' own cast.
"""
import os
import pathlib
import subprocess
import tempfile

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


# ---- the modes, on blocks [N, block] whose values are finite; a: A, float32 scalar or [N, 1] ---------------------
NVFP4 = ("te", "te46", "te46_mae", "torchao", "torchao_one_level", "ct", "ct_bf16")
MXFP4 = ("floor", "even", "rceil", "ceil")
MODES = NVFP4 + MXFP4


def block_of(mode):
    return 32 if mode in MXFP4 else 16


def bf16(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def te_encode_scale(top, a):
    s_enc = np.minimum(F(top) / a, FLT_MAX)
    return np.where((a == 0) | (s_enc == 0), F(1), s_enc).astype(np.float32)


def te_candidate(blocks, a, top, s):
    """Codes' values and dequantized values under the block scales s."""
    q = e2m1(blocks * np.minimum(F(1) / (s * (F(1) / te_encode_scale(top, a))), FLT_MAX))
    return q, q * ((s * a) * (F(1) / F(top)))


def te(blocks, a, am):
    s = e4m3(am * (te_encode_scale(2688, a) * SIXTH))
    return te_candidate(blocks, a, 2688, s)[1]


def te46(blocks, a, am, squared, tiles):
    """TransformerEngine's Four over Six, E = 256: map to 6, or to 4 where that has the smaller error."""
    top = 6 * 256
    base = (am / F(6)) * te_encode_scale(top, a)
    outs, errors = [], []
    for factor in (F(1), F(1.5)):
        s = e4m3(np.minimum(base * factor, F(448)))
        q, out = te_candidate(blocks, a, top, s)
        difference = ((q * s) * a) / F(top) - blocks
        term = difference * difference if squared else np.abs(difference)
        total = np.zeros((len(blocks), 1), np.float32)
        for i in range(16):
            total = total + term[:, i:i + 1]
        if tiles:  # 16 rows of one tile follow each other; halves are added until one is left
            rows = total.reshape(-1, 16)
            for half in (8, 4, 2, 1):
                rows = rows[:, :half] + rows[:, half:]
            total = np.repeat(rows, 16, axis=0)
        outs.append(out)
        errors.append(total)
    return np.where(errors[1] < errors[0], outs[1], outs[0])


def torchao_two_levels(blocks, a, am):
    p = a / F(2688)
    s = e4m3(np.clip((am / F(6)) / p, F(2.0**-6), F(448)))
    return e2m1(np.clip(blocks * ((F(1) / p) / s), F(-6), F(6))) * (p * s)


def one_level(blocks, am):
    s = e4m3(np.clip(am / F(6), F(2.0**-6), F(448)))
    return e2m1(blocks * (F(1) / s)) * s


def compressed_tensors(blocks, a, am, in_bf16):
    rounded = (lambda v: bf16(np.asarray(v, np.float32))) if in_bf16 else (lambda v: v)
    g = rounded(rounded(F(1) / np.maximum(a, np.finfo(np.float32).tiny)) * F(2688))
    sixth = rounded(am / F(6))
    g = np.where(np.isinf(g), F(1), g).astype(np.float32)
    s = e4m3(g * sixth)
    s = np.where(s == 0, F(0.125), s)
    return e2m1(np.clip(blocks / (s / g) + F(0), F(-6), F(6))) * (s / g)


def mx_byte(mode, am):
    """The block scale's E8M0 byte. float64, where all these powers of two are normal numbers."""
    bits = am.view(np.int32)
    floor_log2 = np.maximum(bits >> 23, 0) - 127  # -127 stands for what is below 2^-126
    if mode == "floor":
        exponent = floor_log2 - 2
    elif mode == "even":
        exponent = (((bits + (1 << 21)) & 0x7F800000) >> 23) - 127 - 2
    elif mode == "ceil":
        exponent = floor_log2 + ((bits & 0x7FFFFF) != 0) - 2
    else:  # rceil: the least power of two not below am * fl(1/6)
        mantissa, exponent = np.frexp((am * SIXTH).astype(np.float64))
        exponent = np.where(am == 0, -127, np.where(mantissa == 0.5, exponent - 1, exponent))
    return np.clip(exponent + 127, 0, 254)


def mx(mode, blocks, am):
    scale = np.ldexp(1.0, mx_byte(mode, am) - 127)
    y = (blocks.astype(np.float64) / scale).astype(np.float32)
    return (e2m1(y).astype(np.float64) * scale).astype(np.float32)


def to_blocks(x, block, axis, tiles=False):
    """[rows, cols] -> blocks [N, block] along axis, zero-padded, and what from_blocks needs. Tiles: 16 blocks each."""
    m = np.ascontiguousarray(x if axis == 1 else x.T)
    pad = -m.shape[1] % block
    padded = np.pad(m, ((0, -m.shape[0] % 16 if tiles else 0), (0, pad)))
    blocks = padded.reshape(-1, block)
    if tiles:
        blocks = padded.reshape(padded.shape[0] // 16, 16, -1, 16).transpose(0, 2, 1, 3).reshape(-1, 16)
    return np.ascontiguousarray(blocks), (m.shape, padded.shape, axis, tiles)


def from_blocks(blocks, shape):
    small, padded, axis, tiles = shape
    if tiles:
        blocks = blocks.reshape(padded[0] // 16, -1, 16, 16).transpose(0, 2, 1, 3)
    m = blocks.reshape(padded)[: small[0], : small[1]]
    return np.ascontiguousarray(m if axis == 1 else m.T)


def block_maxima(blocks, tiles):
    am = np.abs(blocks).max(axis=1, keepdims=True, initial=F(0))
    return np.repeat(am.reshape(-1, 16).max(axis=1, keepdims=True), 16, axis=0) if tiles else am


def transcribed(mode, x, axis, scope="tensor", tiles=False):
    blocks, shape = to_blocks(x, block_of(mode), axis, tiles)
    am = block_maxima(blocks, tiles)
    if scope == "tensor":
        a = F(np.abs(x).max(initial=F(0)))
    else:
        a = np.repeat(np.abs(x).max(axis=1), shape[1][1] // 16).reshape(-1, 1)
    with np.errstate(all="ignore"):
        if mode == "te":
            out = te(blocks, a, am)
        elif mode in ("te46", "te46_mae"):
            out = te46(blocks, a, am, mode == "te46", tiles)
        elif mode == "torchao":
            out = torchao_two_levels(blocks, a, am)
        elif mode == "torchao_one_level":
            out = one_level(blocks, am)
        elif mode in ("ct", "ct_bf16"):
            out = compressed_tensors(blocks, a, am, mode == "ct_bf16")
        else:
            out = mx(mode, blocks, am)
    assert out.dtype == np.float32
    return from_blocks(out, shape)


# ---- other people's code, on torch tensors of float32 or bfloat16 (compressed-tensors: float16 too) ---------------
def padded_rows(x, axis, block):
    import torch
    m = x if axis == 1 else x.t()
    return m, torch.nn.functional.pad(m, (0, -m.shape[1] % block)).contiguous()


def torchao(mode, x, axis):
    """torchao's own quantization and dequantization to x's type."""
    import torch
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    block = block_of(mode)
    m, padded = padded_rows(x, axis, block)
    if mode in MXFP4:
        q = MXTensor.to_mx(padded, torch.float4_e2m1fn_x2, block, ScaleCalculationMode(mode))
    elif mode == "torchao":
        q = NVFP4Tensor.to_nvfp4(padded, block, per_tensor_scale=per_tensor_amax_to_scale(x.abs().max()))
    else:
        q = NVFP4Tensor.to_nvfp4(padded, block)
    out = q.dequantize(x.dtype)[:, : m.shape[1]]
    return (out if axis == 1 else out.t()).contiguous()


def compressed_tensors_package(mode, x, axis):
    """compressed-tensors' own scales and fake quantization. ct: maxima in float32, ct_bf16: in bfloat16."""
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.quant_scheme import NVFP4 as SCHEME
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    args = SCHEME["weights"]
    m, padded = padded_rows(x, axis, 16)
    blocks = padded.unflatten(-1, (-1, 16)).to(torch.bfloat16 if mode == "ct_bf16" else torch.float32)
    low, high = blocks.amin(-1), blocks.amax(-1)
    g = generate_gparam(low.amin(), high.amax())
    scale, zero = calculate_qparams(low, high, args, global_scale=g)
    out = fake_quantize(padded, scale, zero, args, global_scale=g)[:, : m.shape[1]]
    return (out if axis == 1 else out.t()).contiguous()


# ---- inputs ------------------------------------------------------------------------------------------------------
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

    With a tensor scale the tensor's maximum is 21 p 2^k with p odd (Four over Six: 3 p 2^k). Then 2688/A is inexact,
    and yet the midpoints of both grids (448 am / A and 2688 x / (s A)) are exact float32 numbers.
    """
    block = block_of(mode)
    n = int(np.prod(shape)) // block
    mid = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    y = rng.choice(mid, (n, block)) * rng.choice([-1.0, 1.0], (n, block))
    if mode in MXFP4:
        y[:, 0] = rng.choice([3, 3.5, 4, 5, 6, 7, 7.5], n)  # beside every mode's border between two scales
        return nudge(rng, (y * np.exp2(rng.integers(-20, 20, (n, 1)))).astype(np.float32)).reshape(shape)
    grid = np.arange(8, 0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    scale_mid = rng.choice((grid[:-1] + grid[1:]) / 2, (n, 1))
    top, odd = (1536, 3.0) if mode in ("te46", "te46_mae") else (2688, 21.0)
    if mode == "torchao_one_level":
        a, unit = 2688.0, 1.0
    else:
        a = odd * (2 * int(rng.integers(1, 2**13)) + 1) * 2.0 ** int(rng.integers(-20, 20))
        unit = a / top
        scale_mid = np.minimum(scale_mid, top / 6)
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
    if kind == "fp16":
        return normal().astype(np.float16).astype(np.float32)
    if kind == "log_uniform":
        return log_uniform(rng, shape, -60, 60)
    if kind == "window":  # 40 octaves anywhere in float32's 277
        low = int(rng.integers(-149, 128 - 40 + 1))
        return log_uniform(rng, shape, low, low + 40)
    if kind == "all_exponents":
        return log_uniform(rng, shape, -149, 128)
    if kind == "outlier":
        return (normal() * np.where(rng.random(shape) < 0.02, F(3000), F(1))).astype(np.float32)
    if kind == "ties":
        return ties(rng, mode, shape)
    if kind == "bf16_ties":
        return bf16(ties(rng, mode, shape))
    if kind == "tiny":  # subnormals, zeros of both signs
        return np.where(rng.random(shape) < 0.1, F(-0.0), log_uniform(rng, shape, -149, -120)).astype(np.float32)
    if kind == "zeros":
        x = np.where(rng.random(shape) < 0.5, F(0.0), F(-0.0)).astype(np.float32)
        x[-1, -1] = 1.0
        return x
    if kind == "all_zero":
        return np.where(rng.random(shape) < 0.5, F(0.0), F(-0.0)).astype(np.float32)
    raise ValueError(kind)


# ---- the built library -------------------------------------------------------------------------------------------
class Library:
    def __init__(self, build):
        self.program = pathlib.Path(build) / "bin" / "quant_cli"
        self.folder = pathlib.Path(build) / "test-data" / "quant-parity"
        self.folder.mkdir(parents=True, exist_ok=True)

    def exists(self):
        return self.program.exists()

    def _run(self, arguments, x, dtype, options=()):
        source, target = self.folder / f"in-{os.getpid()}.bin", self.folder / f"out-{os.getpid()}.bin"
        np.ascontiguousarray(x).tofile(source)
        subprocess.run([self.program, *map(str, arguments), source, target, *options], check=True)
        out = np.fromfile(target, dtype=dtype)
        source.unlink()
        target.unlink()
        return out

    def fake(self, mode, x, axis, scope="tensor", path="best", **options):
        """x: float32, or with type="bf16"/"fp16" the bits as uint16; so is the result."""
        format = "mxfp4" if mode in MXFP4 else "nvfp4"
        words = [f"{key}={value}" for key, value in options.items()]
        out = self._run(["fake", format, mode, axis, scope, path, *x.shape], x, x.dtype, words)
        return out.reshape(x.shape)

    def paths(self):
        """Those of this machine, best first."""
        here = ["best"]
        for path in ("avx512", "avx2", "generic", "reference"):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                one = pathlib.Path(folder) / "one"
                np.ones(1, np.float32).tofile(one)
                run = subprocess.run([self.program, "fake", "nvfp4", "te", "1", "tensor", path, "1", "1", one, one],
                                     capture_output=True)
            if run.returncode == 0:
                here.append(path)
        return here

    def fp4(self, mode, x):
        """The bytes of x as an operand of native FP4 products: codes, then scales in tiles."""
        return self._run(["fp4", mode, *x.shape], x, np.uint8)

    def encode(self, codec, x):
        return self._run(["encode", codec], x, np.uint16 if codec in ("bf16", "fp16") else np.uint8)


def differing(a, b):
    """Where the bits of float32 or 16-bit elements differ; NaN equals NaN, whatever its bits."""
    if a.dtype == np.uint16:
        return a != b
    return (a.view(np.uint32) != b.view(np.uint32)) & ~(np.isnan(a) & np.isnan(b))
