#!/usr/bin/env python3
"""What runs with train.device = "cuda" ask of a device, written down by the tests that have a stand-in for one, against the
operators of a full torch: each has to have a kernel for CUDA there. Needs no GPU.

cuda_operations_parity.py --build DIR
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
program = pathlib.Path(parser.parse_args().build, "bin", "gpu_stand_in_tests")
if torch.version.cuda is None:
    sys.exit(print("SKIPPED: this torch is one for CPUs only"))

with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "operations.txt")
    subprocess.run([program, "~[cpu]~[stand-in]"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, "ASSAY_STAND_IN_OPERATIONS": str(file)})
    operations = sorted(file.read_text().split())
missing = [op for op in operations if not torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA")
           and not torch._C._dispatch_has_computed_kernel_for_dispatch_key(op, "CUDA")]
if missing:
    sys.exit(f"torch {torch.__version__} has no CUDA kernel for {', '.join(missing)}")
print(f"{len(operations)} operators: torch {torch.__version__} has a CUDA kernel for each")
