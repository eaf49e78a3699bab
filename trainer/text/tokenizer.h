// Byte-level BPE from a Hugging Face folder's tokenizer.json. Same ids as the `tokenizers` library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace assay::train {

class Tokenizer {
 public:
  // Reads tokenizer.json. Throws std::runtime_error "FILE: WHAT" for anything it cannot follow exactly (a normalizer,
  // pre-tokenizer or model it does not have is named).
  static Tokenizer load(const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // Special and added tokens inside the text are recognised, as `tokenizers` does; no BOS is added
  // (add_special_tokens=False). Text must be UTF-8; broken bytes are replaced by U+FFFD first.
  std::vector<std::int32_t> encode(std::string_view text) const;
  // Bytes of the tokens put together; special tokens left out when asked.
  std::string decode(const std::vector<std::int32_t>& ids, bool skip_special = true) const;
  std::int32_t vocabulary_size() const;                         // highest id + 1
  std::int32_t id(std::string_view token) const;                // -1: there is none

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::train
