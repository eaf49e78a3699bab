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
  // Reads tokenizer.json. Throws std::runtime_error "FILE: WHAT; WHAT TO DO" for anything it cannot follow exactly (a
  // normalizer, pre-tokenizer, decoder or model it does not have is named). Left aside, because they do nothing when
  // no special tokens are added and nothing is cut or padded: post_processor, truncation, padding.
  static Tokenizer load(const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // Special and added tokens inside the text are recognised, as `tokenizers` does; no BOS is added
  // (add_special_tokens=False). Text must be UTF-8; broken bytes are replaced by U+FFFD first. Words are cached; may be
  // called from several threads. A text without white space costs O(n log n) in its longest word.
  std::vector<std::int32_t> encode(std::string_view text) const;
  // Bytes of the tokens put together, broken UTF-8 replaced by U+FFFD; special tokens left out when asked. An id without
  // a token (models pad their vocabularies) adds nothing.
  std::string decode(const std::vector<std::int32_t>& ids, bool skip_special = true) const;
  std::int32_t vocabulary_size() const;                         // highest id + 1
  std::int32_t id(std::string_view token) const;                // -1: there is none
  bool contains(std::int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::train
