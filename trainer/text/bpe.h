// Byte-pair merging over the byte alphabet: one pre-token (its bytes) in, token ids out.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace assay::train {

// The byte alphabet of GPT-2: every byte as a printable character; bytes of a token written in it, or nothing
// (`whole` false) when a character is not of the alphabet.
std::string bytes_of_token(std::string_view token, bool& whole);

class Bpe {
 public:
  // `model` is tokenizer.json's "model". Throws std::runtime_error saying what cannot be followed.
  explicit Bpe(const nlohmann::json& model);

  // Merges as `tokenizers` does: the pair of lowest rank first, the leftmost of equals. O(n log n) in the bytes. A byte
  // that the vocabulary lacks becomes the unknown token, or nothing where there is none.
  void encode(std::string_view bytes, std::vector<std::int32_t>& ids) const;

  const std::unordered_map<std::string, std::int32_t>& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  const Merge* find(std::int32_t left, std::int32_t right) const;

  std::unordered_map<std::string, std::int32_t> vocabulary_;  // as written in the file
  std::unordered_map<std::string, std::int32_t> by_bytes_;    // only with ignore_merges
  std::unordered_map<std::uint64_t, Merge> merges_;           // left << 32 | right
  std::array<std::int32_t, 256> byte_ids_{};                  // -1: the vocabulary has no such token
  std::int32_t unknown_ = -1;
  bool fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace assay::train
