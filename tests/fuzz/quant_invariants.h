// What every FP4 mode must do with any tensor, as one function: libFuzzer drives it (quant_fuzz.cpp, `make fuzz`), and a
// deterministic stand-in does in `make test` (quant_fuzz_test.cpp).
//
// A case is run under every mode, with what the case draws besides as far as the mode has it. For each:
//   codecs       decode(encode(x)) is the nearest number of the grid and stays; block.h and half.h agree with formats.h
//   grid         every output is a number of E2M1 times its block's decode, the block scale is one of its format, and no
//                other number of that grid is nearer (where the fp32 scales neither underflow nor overflow)
//   stochastic   instead of nearest: a neighbour of it
//   paths        every path writes the oracle's bits, whatever the strides; nothing beside the elements is written
//   in place, pieces, transposed, padded     give the same bits
//   packed       packing and unpacking gives them too, every path the same bytes
//   sign         quantizing -x gives the negative
//   order        within a block a larger input never gives the smaller output (rounding to nearest)
//   idempotence  quantizing twice changes nothing, where that holds: see idempotence() in the .cpp
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace assay::fuzz {

// The first broken promise, in words; empty when all are kept.
std::string quant_finding(const std::uint8_t* data, std::size_t size);

}  // namespace assay::fuzz
