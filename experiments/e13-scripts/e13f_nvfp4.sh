#!/bin/bash
# E13f: weight blocks along the column, the wrapped base_layer left out.
. "$(dirname "$0")/common.sh"
train "$@" +quant.format=nvfp4 \
  +quant.hook=pre +quant.blocking=column +quant.ste=False '+quant.exclude=["^model\\.layers\\.(0|27)\\..*$","^.*\\.base_layer$"]'
