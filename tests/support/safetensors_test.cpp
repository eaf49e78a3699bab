#include "support/model_folder.h"

#include <cstring>
#include <fstream>
#include <random>

#include "catch.h"

namespace {

using namespace assay::support;
using assay::test::fresh_folder;

std::string file_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + data;
}

void put(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// The message with which a file is refused; empty when it is read. Every byte of every tensor is touched.
std::string refusal(const std::filesystem::path& file) {
  try {
    const auto opened = SafetensorsFile::open(file);
    unsigned sum = 0;
    for (const auto& [name, view] : opened.tensors()) {
      REQUIRE(view.bytes <= std::filesystem::file_size(file));
      for (std::size_t i = 0; i < view.bytes; ++i) sum += static_cast<unsigned>(view.data[i]);
    }
    volatile unsigned keep = sum;
    static_cast<void>(keep);
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

TensorView view_of(const std::vector<float>& values, std::vector<std::int64_t> shape) {
  return {"F32", std::move(shape), reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)};
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// By hand after https://github.com/huggingface/safetensors#format: two tensors, metadata, padding by spaces.
std::string small_file() {
  std::string data(16 + 3, '\0');
  const float values[] = {1.0f, -2.0f, 0.5f, 3.0f};
  std::memcpy(data.data(), values, 16);
  data[16] = 7;
  return file_bytes(R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                    R"("b":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}   )", data);
}

}  // namespace

TEST_CASE("a safetensors file is read as the format says") {
  const auto file = fresh_folder("safetensors-read") / "a.safetensors";
  put(file, small_file());
  auto opened = SafetensorsFile::open(file);
  const auto moved = std::move(opened);
  REQUIRE(moved.tensors().size() == 2);
  CHECK(moved.metadata().at("format") == "pt");
  const TensorView& w = moved.tensors().at("w");
  CHECK(w.dtype == "F32");
  CHECK(w.shape == std::vector<std::int64_t>{2, 2});
  float values[4];
  REQUIRE(w.bytes == 16);
  std::memcpy(values, w.data, 16);
  CHECK(values[1] == -2.0f);
  CHECK(moved.tensors().at("b").data[0] == std::byte{7});
}

TEST_CASE("what is written is read back, and the same input gives the same bytes") {
  const auto folder = fresh_folder("safetensors-write");
  const std::vector<float> a = {1, 2, 3, 4, 5, 6}, scalar = {7};
  const std::vector<std::uint8_t> odd = {1, 2, 3};
  std::map<std::string, TensorView> tensors;
  // The byte tensor comes first by name; were it first in the file, the floats would not be aligned.
  tensors["a.odd"] = {"U8", {3}, reinterpret_cast<const std::byte*>(odd.data()), 3};
  tensors["z"] = view_of(a, {2, 3});
  tensors["\u00e9 \"quoted\""] = view_of(scalar, {});
  tensors["empty"] = {"F32", {0, 4}, nullptr, 0};
  write_safetensors(folder / "one", tensors, {{"k", "v"}, {"a", "b"}});
  write_safetensors(folder / "two", tensors, {{"a", "b"}, {"k", "v"}});
  CHECK(assay::support::read_file(folder / "one") == assay::support::read_file(folder / "two"));

  const auto read = SafetensorsFile::open(folder / "one");
  REQUIRE(read.tensors().size() == 4);
  CHECK(read.metadata() == std::map<std::string, std::string>{{"a", "b"}, {"k", "v"}});
  for (const auto& [name, view] : tensors) {
    const TensorView& got = read.tensors().at(name);
    CHECK(got.dtype == view.dtype);
    CHECK(got.shape == view.shape);
    REQUIRE(got.bytes == view.bytes);
    if (view.bytes > 0) CHECK(std::memcmp(got.data, view.data, view.bytes) == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(got.data) % static_cast<std::uintptr_t>(dtype_bits(got.dtype) / 8) == 0);
  }
  // Nothing but the two files: no temporary is left behind.
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 2);

  tensors["z"].bytes -= 4;
  CHECK_THROWS_AS(write_safetensors(folder / "three", tensors), std::runtime_error);
  CHECK_THROWS_AS(write_safetensors(folder / "no-such" / "x", {}), std::runtime_error);
  CHECK_FALSE(std::filesystem::exists(folder / "three"));
}

TEST_CASE("written in pieces, in any order, a file has the bytes that it has when written at once") {
  const auto folder = fresh_folder("safetensors-pieces");
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> odd = {1, 2, 3};
  write_safetensors(folder / "once",
                    {{"a", {"U8", {3}, reinterpret_cast<const std::byte*>(odd.data()), 3}}, {"z", view_of(a, {2, 3})}},
                    {{"late", "6.00"}});
  {
    SafetensorsWriter writer(folder / "pieces", {{"a", {"U8", {3}}}, {"z", {"F32", {2, 3}}}}, {{"late", "0.00"}});
    writer.write("z", 8, a.data() + 2, 16);
    writer.write("a", 0, odd.data(), 3);
    writer.write("z", 0, a.data(), 8);
    writer.replace_metadata("late", "6.00");
    CHECK_FALSE(std::filesystem::exists(folder / "pieces"));
    writer.finish();
  }
  CHECK(assay::support::read_file(folder / "once") == assay::support::read_file(folder / "pieces"));
  { SafetensorsWriter unfinished(folder / "never", {{"a", {"U8", {3}}}}); }
  CHECK_THROWS_AS(SafetensorsWriter(folder / "never", {{"a", {"F4", {3}}}}), std::runtime_error);
  CHECK_THROWS_AS(SafetensorsWriter(folder / "never", {{"a", {"F31", {2}}}}), std::runtime_error);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 2);

  // Read in pieces; a file that is shortened meanwhile is an error.
  const auto file = SafetensorsFile::open(folder / "pieces");
  float two[2];
  file.read(file.tensors().at("z"), 12, two, 8);
  CHECK((two[0] == 4 && two[1] == 5));
  std::filesystem::resize_file(folder / "pieces", std::filesystem::file_size(folder / "pieces") - 20);
  CHECK_THROWS_WITH(file.read(file.tensors().at("z"), 12, two, 8), Catch::Contains("became shorter"));
}

TEST_CASE("a file may be written over the one it was read from") {
  const auto file = fresh_folder("safetensors-over") / "a.safetensors";
  const std::vector<float> a = {1, 2};
  write_safetensors(file, {{"a", view_of(a, {2})}});
  const auto opened = SafetensorsFile::open(file);
  write_safetensors(file, {{"b", opened.tensors().at("a")}});
  CHECK(std::memcmp(SafetensorsFile::open(file).tensors().at("b").data, a.data(), 8) == 0);
}

TEST_CASE("lies in a header are refused with the file's name and what is wrong") {
  const auto file = fresh_folder("safetensors-lies") / "lie.safetensors";
  const std::string data(16, 'x');
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const std::string half = entry("F32", "[2]", "[0,8]"), rest = entry("F32", "[2]", "[8,16]");
  struct Lie {
    std::string header, word;
  };
  const Lie lies[] = {
      {"", "no JSON"},
      {"[]", "no JSON object"},
      {"{", "no JSON"},
      {"{\"a\":" + half + ",\"b\":" + rest + "} x", "no JSON"},
      {"{\"a\":3}", "not described"},
      {"{\"a\":{}}", "lacks"},
      {"{\"a\":" + entry("F31", "[4]", "[0,16]") + "}", "F31"},
      {R"({"a":{"dtype":3,"shape":[4],"data_offsets":[0,16]}})", "dtype"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"more":1}})", "'more'"},
      {"{\"a\":" + entry("F32", "[-4]", "[0,16]") + "}", "whole numbers"},
      {"{\"a\":" + entry("F32", "[4.0]", "[0,16]") + "}", "whole numbers"},
      {"{\"a\":" + entry("F32", "[18446744073709551615]", "[0,16]") + "}", "whole numbers"},
      {"{\"a\":" + entry("F32", "[4611686018427387908]", "[0,16]") + "}", "do not make"},      // 2^62 + 4: × 4 wraps to 16
      {"{\"a\":" + entry("F32", "[4294967296,4294967296,4]", "[0,16]") + "}", "do not make"},
      {"{\"a\":" + entry("F32", "4", "[0,16]") + "}", "not a list"},
      {"{\"a\":" + entry("F32", "[4]", "[0]") + "}", "pair"},
      {"{\"a\":" + entry("F32", "[4]", "[0,\"16\"]") + "}", "whole numbers"},
      {"{\"a\":" + entry("F32", "[4]", "[-16,0]") + "}", "whole numbers"},
      {"{\"a\":" + entry("F32", "[4]", "[16,0]") + "}", "lies at"},
      {"{\"a\":" + entry("F32", "[5]", "[0,20]") + "}", "lies at"},
      {"{\"a\":" + entry("F32", "[2]", "[8,16]") + "}", "before tensor 'a'"},
      {"{\"a\":" + half + "}", "at its end"},
      {"{}", "at its end"},
      {"{\"a\":" + entry("F32", "[3]", "[0,16]") + "}", "do not make"},
      {"{\"a\":" + entry("F4", "[3]", "[0,16]") + "}", "do not make"},
      {"{\"a\":" + half + ",\"b\":" + entry("F32", "[3]", "[4,16]") + "}", "overlapping"},
      {"{\"a\":" + half + ",\"a\":" + rest + "}", "'a' comes twice"},
      {R"({"__metadata__":{"a":"1","a":"2"},"b":)" + entry("F32", "[4]", "[0,16]") + "}", "comes twice"},
      {R"({"__metadata__":{"a":1},"b":)" + entry("F32", "[4]", "[0,16]") + "}", "not a string"},
      {R"({"__metadata__":[],"b":)" + entry("F32", "[4]", "[0,16]") + "}", "__metadata__"},
      {"{\"\xff\":" + entry("F32", "[4]", "[0,16]") + "}", "no JSON"},
      {"{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}", "nested too deeply"},
  };
  for (const Lie& lie : lies) {
    put(file, file_bytes(lie.header, data));
    const std::string message = refusal(file);
    INFO(lie.header.substr(0, 200) << "\n" << message);
    CHECK(has(message, lie.word));
    CHECK(message.rfind(file.string() + ": ", 0) == 0);
    CHECK(has(message, "; "));
    CHECK_FALSE(has(message, "\n"));
  }
  put(file, file_bytes("{\"a\":" + half + ",\"b\":" + rest + "}", data));
  CHECK(refusal(file).empty());

  put(file, std::string(8, '\xff') + "{}");
  CHECK(has(refusal(file), "no safetensors file"));
  put(file, std::string("\x03\0\0\0\0\0\0\0{}", 10));
  CHECK(has(refusal(file), "truncated"));
  CHECK(has(refusal(file.parent_path()), "not a file"));
  CHECK(has(refusal(file.parent_path() / "none"), "No such file"));
}

TEST_CASE("every truncation of a file is refused") {
  const auto file = fresh_folder("safetensors-truncated") / "t.safetensors";
  const std::string whole = small_file();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put(file, whole.substr(0, size));
    INFO(size << " bytes of " << whole.size());
    CHECK_FALSE(refusal(file).empty());
  }
  put(file, whole + "x");
  CHECK_FALSE(refusal(file).empty());
  put(file, whole);
  CHECK(refusal(file).empty());
}

TEST_CASE("damaged headers end in an error or a correct read, never a crash") {
  const auto file = fresh_folder("safetensors-fuzz") / "f.safetensors";
  const std::string whole = small_file();
  const std::size_t header_end = whole.size() - 19;
  std::mt19937_64 random(20261123);
  int refused = 0, read = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string bytes = whole;
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < flips; ++i) {
      const std::size_t at = random() % header_end;
      // A flipped bit, any byte, or a character that means something in a header.
      switch (random() % 3) {
        case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8)); break;
        case 1: bytes[at] = static_cast<char>(random()); break;
        default: bytes[at] = "{}[]\",:0123456789-eE. "[random() % 22]; break;
      }
    }
    if (random() % 8 == 0) bytes.erase(random() % header_end, 1 + random() % 8);
    put(file, bytes);
    refusal(file).empty() ? ++read : ++refused;
  }
  // Most damage is fatal; some (a letter of a name, the metadata) is not.
  CHECK(refused > 3000);
  CHECK(read > 20);
}

TEST_CASE("a checkpoint is one file or the shards of an index") {
  const auto folder = fresh_folder("checkpoint");
  const auto message = [&] {
    try {
      ModelFolder::open(folder);
      return std::string();
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
  };
  CHECK(has(message(), "has neither model.safetensors"));
  const std::vector<float> a = {1, 2}, b = {3};
  const auto index = folder / "model.safetensors.index.json";
  write_safetensors(folder / "m-1.safetensors", {{"a", view_of(a, {2})}, {"c", view_of(b, {1})}});
  write_safetensors(folder / "m-2.safetensors", {{"b", view_of(b, {1})}});
  put(index, R"({"metadata":{"total_size":16},"weight_map":{"a":"m-1.safetensors","c":"m-1.safetensors","b":"m-2.safetensors"}})");
  {
    auto opened = ModelFolder::open(folder);
    const ModelFolder checkpoint = std::move(opened);
    CHECK(checkpoint.names() == std::vector<std::string>{"a", "b", "c"});
    REQUIRE(checkpoint.find("b") != nullptr);
    CHECK(std::memcmp(checkpoint.find("b")->data, b.data(), 4) == 0);
    CHECK(checkpoint.find("d") == nullptr);
  }
  put(index, R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  CHECK(has(message(), "'c' that the index does not place there"));
  put(index, R"({"weight_map":{"a":"m-1.safetensors","c":"m-1.safetensors","d":"m-2.safetensors"}})");
  CHECK(has(message(), "no tensor 'd'"));
  put(index, R"({"weight_map":{"a":"m-3.safetensors"}})");
  CHECK(has(message(), "names it as a shard"));
  put(index, R"({"weight_map":{"a":"../checkpoint/m-1.safetensors"}})");
  CHECK(has(message(), "not a file of the same folder"));
  put(index, R"({"weight_map":{"a":3}})");
  CHECK(has(message(), "not a file name"));
  put(index, "{\"weight_map\":");
  CHECK(has(message(), "no JSON"));
  put(index, "[]");
  CHECK(has(message(), "no weight_map"));
  // The single file wins over the index.
  write_safetensors(folder / "model.safetensors", {{"z", view_of(a, {2})}});
  CHECK(ModelFolder::open(folder).names() == std::vector<std::string>{"z"});
}
