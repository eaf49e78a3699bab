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
  std::string_view bytes(std::int32_t id, bool skip_special) const;  // of one token; empty where decode() adds nothing
  std::int32_t vocabulary_size() const;                         // highest id + 1
  std::int32_t id(std::string_view token) const;                // -1: there is none
  bool contains(std::int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Text of ids as they come, in whole characters: all pieces one after another are what decode() makes of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false) : tokenizer_(tokenizer), skip_special_(skip_special) {}
  std::string add(std::int32_t id);  // what is certain now; often empty where a character takes several tokens
  std::string finish();              // what no further id completed, as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string held_;  // bytes of an unfinished character
};

}  // namespace assay::train
