#!/bin/bash
# E13g: the straight-through estimator is called.
. "$(dirname "$0")/common.sh"
train "$@" +quant.format=nvfp4 \
  +quant.hook=pre +quant.blocking=column +quant.ste=True '+quant.exclude=["^model\\.layers\\.(0|27)\\..*$","^.*\\.base_layer$"]'
