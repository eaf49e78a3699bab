#!/bin/bash
# E13d: the input of each module is quantized instead.
. "$(dirname "$0")/common.sh"
train "$@" +quant.format=nvfp4 \
  +quant.hook=pre +quant.blocking=row +quant.ste=False '+quant.exclude=["^model\\.layers\\.(0|27)\\..*$"]'
