#!/usr/bin/env python3
"""The modules that are opened beside LibTorch's CUDA half, with their symbols left open until then, against the libraries of a full
torch: every symbol has to be found in them. Needs no GPU.

cuda_modules_parity.py --build DIR
"""
import argparse
import ctypes
import os
import pathlib
import sys

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
modules = [pathlib.Path(parser.parse_args().build, "bin", name) for name in ("libassay_train_cuda.so", "libassay_nccl.so")]
there = [module for module in modules if module.exists()]
if not there or torch.version.cuda is None:
    sys.exit(print("SKIPPED: " + ("this torch is one for CPUs only" if there else "the modules were not built")))

# As trainer/cuda/loader.cpp and trainer/nccl/loader.cpp open them.
for name in ("libc10.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10_cuda.so"):
    ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / name), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
nccl, version = ctypes.CDLL("libnccl.so.2", mode=os.RTLD_NOW | os.RTLD_GLOBAL), ctypes.c_int()
nccl.ncclGetVersion(ctypes.byref(version))
for module in there:
    ctypes.CDLL(str(module), mode=os.RTLD_NOW | os.RTLD_LOCAL)  # OSError names a symbol that is missing
    print(f"{module.name}: all symbols found in torch {torch.__version__}, NCCL {version.value}")
