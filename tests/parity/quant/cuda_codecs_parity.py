"""The codecs against the host code of CUDA's own headers (cuda_fp4.h, cuda_fp8.h, cuda_fp16.h, cuda_bf16.h): 1e8 values, a
third each of any bits, the range of the codes, and ties. The comparison itself is tests/quant/cuda_codecs_test.cpp.

  python tests/parity/quant/cuda_codecs_parity.py --build BUILD_DIR
"""
import argparse
import pathlib
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    program = pathlib.Path(parser.parse_args().build) / "bin" / "quant_cuda_codecs_test"
    if not program.exists():
        print(f"SKIPPED: {program} is not built, since there is no nvcc (`make setup` brings it)")
        return 0
    return subprocess.run([program, "[.parity]"]).returncode


if __name__ == "__main__":
    sys.exit(main())
