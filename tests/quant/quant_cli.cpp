// What the parity scripts (tests/parity/quant) call: raw fp32 in, raw results out.
//   quant_cli fake FORMAT MODE AXIS SCOPE PATH ROWS COLS IN OUT     PATH: best | reference | generic | avx2; OUT: fp32
//   quant_cli encode e2m1|e4m3 IN OUT                               OUT: one byte an element
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "quant/reference.h"

namespace {

using namespace assay::quant;

std::vector<float> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<float> values(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!file) throw std::runtime_error("cannot read " + path);
  return values;
}

void write(const std::string& path, const void* data, std::size_t bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 10 && arguments[0] == "fake") {
    Spec spec;
    const auto format = parse_format(arguments[1]);
    if (!format) throw std::runtime_error("unknown format " + arguments[1]);
    const auto mode = parse_mode(*format, arguments[2]);
    if (!mode) throw std::runtime_error("unknown mode " + arguments[2]);
    spec.format = *format;
    spec.mode = *mode;
    spec.scope = arguments[4] == "row" ? Scope::row : Scope::tensor;
    const auto path = arguments[5] == "best" ? best_path() : parse_path(arguments[5]);
    if (!path || !available(*path)) throw std::runtime_error("no path " + arguments[5] + " on this machine");
    const std::int64_t rows = std::stoll(arguments[6]), cols = std::stoll(arguments[7]);
    const std::vector<float> x = read(arguments[8]);
    std::vector<float> out(x.size());
    if (static_cast<std::int64_t>(x.size()) != rows * cols) throw std::runtime_error("shape and file size differ");
    const float tensor_max = finite_max(x.data(), rows * cols);
    fake_quantize_piece(spec, tensor_max, x.data(), out.data(), rows, cols, std::stoi(arguments[3]), nullptr, *path);
    write(arguments[9], out.data(), out.size() * sizeof(float));
    return 0;
  }
  if (arguments.size() == 4 && arguments[0] == "encode" && (arguments[1] == "e2m1" || arguments[1] == "e4m3")) {
    const std::vector<float> x = read(arguments[2]);
    std::vector<std::uint8_t> codes;
    for (float v : x) codes.push_back(arguments[1] == "e2m1" ? encode_e2m1(v) : encode_e4m3(v));
    write(arguments[3], codes.data(), codes.size());
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
