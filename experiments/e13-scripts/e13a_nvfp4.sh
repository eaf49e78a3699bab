#!/bin/bash
# E13a: first try, the output of each module is quantized, no gradient passes.
. "$(dirname "$0")/common.sh"
train "$@" +quant.format=nvfp4 \
  +quant.hook=post +quant.blocking=row +quant.ste=False '+quant.exclude=["^model\\.layers\\.(0|27)\\..*$"]'
