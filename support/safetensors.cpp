#include "support/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "support/strict_json.h"

namespace assay::support {
namespace {

using Json = nlohmann::json;

// The safetensors package refuses longer headers too.
constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr const char* kDamaged = "; the file is damaged: copy or download it again";

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what, const char* advice = kDamaged) {
  throw std::runtime_error(file.string() + ": " + what + advice);
}

// Bytes of a tensor; nothing when the product overflows or the bits do not fill whole bytes.
std::optional<std::uint64_t> tensor_bytes(int bits, const std::vector<std::int64_t>& shape) {
  std::uint64_t total = static_cast<std::uint64_t>(bits);
  bool empty = false;
  for (const std::int64_t side : shape) {
    if (side < 0) return std::nullopt;
    empty |= side == 0;
    if (side != 0 && __builtin_mul_overflow(total, static_cast<std::uint64_t>(side), &total)) return std::nullopt;
  }
  if (empty) return 0;
  if (total % 8 != 0) return std::nullopt;
  return total / 8;
}

struct Range {
  std::uint64_t begin, end;
  const std::string* name;
};

std::uint64_t offset_of(const Json& value, const std::filesystem::path& file, const std::string& name) {
  if (!value.is_number_unsigned()) fail(file, "tensor '" + name + "' has offsets that are not whole numbers");
  return value.get<std::uint64_t>();
}

TensorView read_entry(const std::filesystem::path& file, const std::string& name, const Json& entry,
                      std::uint64_t data_size, const std::byte* data, std::vector<Range>& ranges) {
  const std::string tensor = "tensor '" + name + "'";
  if (!entry.is_object()) fail(file, tensor + " is not described by an object");
  for (const auto& [key, value] : entry.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets") fail(file, tensor + " has an unknown field '" + key + "'");
  if (!entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
    fail(file, tensor + " lacks dtype, shape or data_offsets");
  const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];

  TensorView view;
  if (!dtype.is_string()) fail(file, tensor + " has a dtype that is not a string");
  view.dtype = dtype.get<std::string>();
  const int bits = dtype_bits(view.dtype);
  if (bits == 0) fail(file, tensor + " has dtype '" + view.dtype + "', which safetensors does not have");

  if (!shape.is_array()) fail(file, tensor + " has a shape that is not a list");
  for (const Json& side : shape) {
    if (!side.is_number_unsigned() || side.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
      fail(file, tensor + " has a shape that is not made of whole numbers");
    view.shape.push_back(side.get<std::int64_t>());
  }

  if (!offsets.is_array() || offsets.size() != 2) fail(file, tensor + " has data_offsets that are not a pair");
  const std::uint64_t begin = offset_of(offsets[0], file, name), end = offset_of(offsets[1], file, name);
  if (begin > end || end > data_size)
    fail(file, tensor + " lies at bytes " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                   std::to_string(data_size) + " that the file has");
  const auto expected = tensor_bytes(bits, view.shape);
  if (!expected || *expected != end - begin)
    fail(file, tensor + " has " + std::to_string(end - begin) + " bytes, which its shape and dtype " + view.dtype +
                   " do not make");
  view.data = data + begin;
  view.bytes = end - begin;
  ranges.push_back({begin, end, &name});
  return view;
}

}  // namespace

int dtype_bits(const std::string& dtype) {
  static const std::map<std::string, int> kBits = {
      {"BOOL", 8}, {"F4", 4},       {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8},
      {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16}, {"BF16", 16}, {"I32", 32},
      {"U32", 32},  {"F32", 32},     {"C64", 64},    {"F64", 64},    {"I64", 64}, {"U64", 64}};
  const auto at = kBits.find(dtype);
  return at == kBits.end() ? 0 : at->second;
}

struct SafetensorsFile::Impl {
  std::filesystem::path file;
  Fd fd;
  void* map = MAP_FAILED;
  std::size_t size = 0;
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;

  ~Impl() {
    if (map != MAP_FAILED) ::munmap(map, size);
  }
};

SafetensorsFile::SafetensorsFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
const std::map<std::string, TensorView>& SafetensorsFile::tensors() const { return impl_->tensors; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return impl_->metadata; }

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& file) {
  auto impl = std::make_unique<Impl>();
  impl->file = file;
  impl->fd = Fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const Fd& fd = impl->fd;
  if (fd.get() < 0) fail(file, std::strerror(errno), "; give the path of a safetensors file that can be read");
  struct stat facts {};
  if (::fstat(fd.get(), &facts) != 0) fail(file, std::strerror(errno), "");
  if (!S_ISREG(facts.st_mode)) fail(file, "is not a file", "; give the path of a safetensors file");
  impl->size = static_cast<std::size_t>(facts.st_size);
  if (impl->size < 8) fail(file, "is truncated: " + std::to_string(impl->size) + " bytes are no safetensors file");
  impl->map = ::mmap(nullptr, impl->size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (impl->map == MAP_FAILED) fail(file, std::string("cannot be mapped: ") + std::strerror(errno), "");

  const auto* bytes = static_cast<const std::byte*>(impl->map);
  std::uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | static_cast<std::uint64_t>(bytes[i]);
  if (header_size > kMaxHeader)
    fail(file, "says that its header has " + std::to_string(header_size) + " bytes, so it is no safetensors file");
  if (header_size > impl->size - 8)
    fail(file, "is truncated: its header has " + std::to_string(header_size) + " bytes, the whole file " +
                   std::to_string(impl->size));
  const std::byte* data = bytes + 8 + header_size;
  const std::uint64_t data_size = impl->size - 8 - header_size;

  Json header;
  try {
    header = parse_strict_json({reinterpret_cast<const char*>(bytes) + 8, header_size});
  } catch (const std::runtime_error& error) {
    fail(file, std::string("has a header that is no JSON: ") + error.what());
  }
  if (!header.is_object()) fail(file, "has a header that is no JSON object");

  std::vector<Range> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail(file, "has __metadata__ that is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail(file, "has __metadata__ whose '" + key + "' is not a string");
        impl->metadata.emplace(key, value.get<std::string>());
      }
      continue;
    }
    const auto at = impl->tensors.emplace(name, TensorView{}).first;
    at->second = read_entry(file, at->first, entry, data_size, data, ranges);
  }

  // The format has no holes: every byte belongs to exactly one tensor. (An empty tensor sorts before its neighbour.)
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  std::uint64_t reached = 0;
  for (const Range& range : ranges) {
    if (range.begin < reached) fail(file, "has tensor '" + *range.name + "' overlapping another one");
    if (range.begin > reached)
      fail(file, "has " + std::to_string(range.begin - reached) + " bytes before tensor '" + *range.name +
                     "' that belong to no tensor");
    reached = range.end;
  }
  if (reached != data_size)
    fail(file, "has " + std::to_string(data_size - reached) + " bytes at its end that belong to no tensor");
  return SafetensorsFile(std::move(impl));
}

void SafetensorsFile::read(const TensorView& view, std::size_t offset, void* out, std::size_t size) const {
  assert(offset <= view.bytes && size <= view.bytes - offset);
  auto at = static_cast<off_t>(view.data - static_cast<const std::byte*>(impl_->map) + static_cast<std::ptrdiff_t>(offset));
  for (char* to = static_cast<char*>(out); size > 0;) {
    const ssize_t n = ::pread(impl_->fd.get(), to, size, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(impl_->file, std::string("cannot be read: ") + std::strerror(errno), "");
    if (n == 0) fail(impl_->file, "became shorter while it was read", "; leave it alone and start again");
    to += n;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file, const std::map<std::string, TensorEntry>& tensors,
                                     std::map<std::string, std::string> metadata)
    : file_(file), metadata_(std::move(metadata)), out_(file) {
  for (const auto& [name, entry] : tensors) {
    const int bits = dtype_bits(entry.dtype);
    const auto bytes = bits == 0 ? std::nullopt : tensor_bytes(bits, entry.shape);
    if (!bytes) fail(file, "tensor '" + name + "' cannot be written: its shape and dtype '" + entry.dtype + "' make no bytes", "");
    places_.push_back({name, entry, 0, *bytes});
  }
  std::stable_sort(places_.begin(), places_.end(), [](const Place& a, const Place& b) {
    return dtype_bits(a.entry.dtype) > dtype_bits(b.entry.dtype);
  });
  std::uint64_t at = 0;
  for (Place& place : places_) {
    place.begin = at;
    at += place.bytes;
    index_[place.name] = static_cast<std::size_t>(&place - places_.data());
  }
  data_ = header().size();
}

void SafetensorsWriter::write(const std::string& name, std::uint64_t offset, const void* bytes, std::size_t size) {
  Place& place = places_.at(index_.at(name));
  assert(offset <= place.bytes && size <= place.bytes - offset);
  out_.write(data_ + place.begin + offset, {static_cast<const char*>(bytes), size});
  place.written += size;
}

void SafetensorsWriter::replace_metadata(const std::string& key, const std::string& value) {
  metadata_.at(key) = value;
  assert(header().size() == data_);
}

void SafetensorsWriter::finish() {
  for ([[maybe_unused]] const Place& place : places_) assert(place.written == place.bytes);
  out_.write(0, header());
  out_.commit();
}

std::string SafetensorsWriter::header() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata_.empty()) json["__metadata__"] = metadata_;
  for (const Place& place : places_) {
    json[place.name] = {{"dtype", place.entry.dtype},
                        {"shape", place.entry.shape},
                        {"data_offsets", {place.begin, place.begin + place.bytes}}};
  }
  std::string text;
  try {
    text = json.dump();
  } catch (const Json::exception&) {
    fail(file_, "a tensor name or the metadata is not UTF-8", "");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string size(8, '\0');
  for (int i = 0; i < 8; ++i) size[i] = static_cast<char>(text.size() >> (8 * i) & 255);
  return size + text;
}

void write_safetensors(const std::filesystem::path& file, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::map<std::string, TensorEntry> entries;
  for (const auto& [name, view] : tensors) {
    const int bits = dtype_bits(view.dtype);
    const auto expected = bits == 0 ? std::nullopt : tensor_bytes(bits, view.shape);
    if (!expected || *expected != view.bytes)
      fail(file, "tensor '" + name + "' cannot be written: " + std::to_string(view.bytes) +
                     " bytes are not what its shape and dtype '" + view.dtype + "' make", "");
    entries[name] = {view.dtype, view.shape};
  }
  SafetensorsWriter writer(file, entries, metadata);
  for (const auto& [name, view] : tensors) writer.write(name, 0, view.data, view.bytes);
  writer.finish();
}

}  // namespace assay::support
