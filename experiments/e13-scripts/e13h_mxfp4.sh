#!/bin/bash
# E13h: the same on MXFP4.
. "$(dirname "$0")/common.sh"
train "$@" +quant.format=mxfp4 \
  +quant.hook=pre +quant.blocking=column +quant.ste=True '+quant.exclude=["^model\\.layers\\.(0|27)\\..*$","^.*\\.base_layer$"]'
