// What ranks tell each other about rows: bytes in one order, for processes of one build.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/grpo/reward.h"

namespace assay::train {

class PartWriter {
 public:
  void number(std::int64_t value) { raw(&value, sizeof value); }
  void real(double value) { raw(&value, sizeof value); }
  void text(std::string_view value) {
    number(static_cast<std::int64_t>(value.size()));
    raw(value.data(), value.size());
  }
  template <class T>
  void values(const std::vector<T>& list) {
    text({reinterpret_cast<const char*>(list.data()), list.size() * sizeof(T)});
  }
  void score(const Score& value) {
    real(value.score);
    number(static_cast<std::int64_t>(value.outcome));
    number((value.format_right ? 1 : 0) + (value.arithmetic_right ? 2 : 0));
    text(value.answer);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void raw(const void* data, std::size_t size) { bytes_.append(static_cast<const char*>(data), size); }
  std::string bytes_;
};

class PartReader {
 public:
  explicit PartReader(std::string_view bytes) : rest_(bytes) {}
  bool at_end() const { return rest_.empty(); }
  std::int64_t number() { return raw<std::int64_t>(); }
  double real() { return raw<double>(); }
  std::string text() {
    const auto size = static_cast<std::size_t>(number());
    assert(size <= rest_.size());
    std::string value(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return value;
  }
  template <class T>
  std::vector<T> values() {
    const std::string bytes = text();
    std::vector<T> list(bytes.size() / sizeof(T));
    if (!list.empty()) std::memcpy(list.data(), bytes.data(), bytes.size());
    return list;
  }
  Score score() {
    Score value;
    value.score = real();
    value.outcome = static_cast<Outcome>(number());
    const std::int64_t right = number();
    value.format_right = (right & 1) != 0;
    value.arithmetic_right = (right & 2) != 0;
    value.answer = text();
    return value;
  }

 private:
  template <class T>
  T raw() {
    assert(sizeof(T) <= rest_.size());
    T value;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  std::string_view rest_;
};

}  // namespace assay::train
