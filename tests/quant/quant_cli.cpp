// What the parity scripts (tests/parity/quant) call: raw numbers in, raw results out.
//   quant_cli fake FORMAT MODE AXIS SCOPE PATH ROWS COLS IN OUT [KEY=VALUE ...]
//     PATH: best | reference | generic | avx2 | avx512; keys: type=fp32|bf16|fp16 of IN and OUT, tiles=1, static=MAXIMUM,
//     policy=propagate|hw_saturate, rounding=nearest_even|stochastic, seed=N
//   quant_cli fp4 MODE ROWS COLS IN OUT              IN: fp32; OUT: bytes, as quant/product/fp4_layout.h says
//   quant_cli encode e2m1|e4m3|bf16|fp16 IN OUT      IN: fp32; OUT: one byte an element, or two
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "quant/fake_quantize.h"
#include "quant/product/fp4_layout.h"
#include "quant/reference.h"

namespace {

using namespace assay::quant;

template <class T>
std::vector<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<T> values(static_cast<std::size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  if (!file) throw std::runtime_error("cannot read " + path);
  return values;
}

void write(const std::string& path, const void* data, std::size_t bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

template <class T>
T known(std::optional<T> value, const std::string& word) {
  if (!value) throw std::runtime_error("unknown word " + word);
  return *value;
}

template <class T>
void fake(const Spec& spec, Type type, int axis, Path path, std::int64_t rows, std::int64_t cols, const std::string& in,
          const std::string& out) {
  std::vector<T> x = read<T>(in);
  if (static_cast<std::int64_t>(x.size()) != rows * cols) throw std::runtime_error("shape and file size differ");
  const ConstView from{x.data(), type, rows, cols, cols, 1};
  const float tensor_max = needs_tensor_max(spec) ? finite_max(from) : 0;
  fake_quantize_piece(spec, tensor_max, from, {x.data(), type, rows, cols, cols, 1}, axis, 0, nullptr, path);
  write(out, x.data(), x.size() * sizeof(T));
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() >= 10 && arguments[0] == "fake") {
    Spec spec;
    Type type = Type::fp32;
    spec.format = known(parse_format(arguments[1]), arguments[1]);
    spec.mode = known(parse_mode(spec.format, arguments[2]), arguments[2]);
    spec.scope = known(parse_scope(arguments[4]), arguments[4]);
    for (std::size_t i = 10; i < arguments.size(); ++i) {
      const std::string &word = arguments[i], key = word.substr(0, word.find('=')), value = word.substr(word.find('=') + 1);
      if (key == "type") type = known(parse_type(value), word);
      else if (key == "tiles") spec.tiles = value == "1";
      else if (key == "static") spec.static_max = std::stof(value);
      else if (key == "policy") spec.non_finite = known(parse_non_finite(value), word);
      else if (key == "rounding") spec.rounding = known(parse_rounding(value), word);
      else if (key == "seed") spec.seed = std::stoull(value);
      else throw std::runtime_error("unknown word " + word);
    }
    const int axis = std::stoi(arguments[3]);
    if (const auto why = objection(spec, axis); !why.empty()) throw std::runtime_error(std::string(why));
    const Path path = arguments[5] == "best" ? best_path() : known(parse_path(arguments[5]), arguments[5]);
    if (!available(path)) throw std::runtime_error("no path " + arguments[5] + " on this machine");
    const std::int64_t rows = std::stoll(arguments[6]), cols = std::stoll(arguments[7]);
    if (type == Type::fp32) fake<float>(spec, type, axis, path, rows, cols, arguments[8], arguments[9]);
    else fake<std::uint16_t>(spec, type, axis, path, rows, cols, arguments[8], arguments[9]);
    return 0;
  }
  if (arguments.size() == 6 && arguments[0] == "fp4") {
    const Spec spec{.mode = known(parse_mode(Format::nvfp4, arguments[1]), arguments[1])};
    const std::int64_t rows = std::stoll(arguments[2]), cols = std::stoll(arguments[3]);
    const std::vector<float> x = read<float>(arguments[4]);
    if (static_cast<std::int64_t>(x.size()) != rows * cols) throw std::runtime_error("shape and file size differ");
    const float a = needs_tensor_max(spec) ? finite_max(x.data(), rows * cols) : 0;
    std::vector<std::uint8_t> bytes;
    std::vector<double> factor;
    product::quantize_fp4(spec, a, x.data(), rows, cols, 0, bytes, factor);
    write(arguments[5], bytes.data(), bytes.size());
    return 0;
  }
  if (arguments.size() == 4 && arguments[0] == "encode") {
    const std::vector<float> x = read<float>(arguments[2]);
    const auto encode = [&](auto codec) {
      std::vector<decltype(codec(0.0f))> codes;
      for (float v : x) codes.push_back(codec(v));
      write(arguments[3], codes.data(), codes.size() * sizeof(codes[0]));
    };
    if (arguments[1] == "e2m1") encode(encode_e2m1);
    else if (arguments[1] == "e4m3") encode(encode_e4m3);
    else if (arguments[1] == "bf16") encode(encode_bf16);
    else if (arguments[1] == "fp16") encode(encode_fp16);
    else throw std::runtime_error("unknown codec " + arguments[1]);
    return 0;
  }
  std::fprintf(stderr, "quant_cli: see the head of quant_cli.cpp for its arguments\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quant_cli: %s\n", error.what());
    return 1;
  }
}
