#include "trainer/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <unordered_map>

#include "support/files.h"
#include "support/strict_json.h"
#include "trainer/text/added_tokens.h"
#include "trainer/text/bpe.h"
#include "trainer/text/pattern.h"
#include "trainer/text/unicode.h"

namespace assay::train {
namespace {

using Json = nlohmann::json;
using Pieces = std::vector<std::string_view>;

// What ByteLevel's use_regex stands for (GPT-2's pattern).
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Words longer than this are not worth keeping, and the cache stops growing at so many.
constexpr std::size_t kMaxCachedBytes = 256, kMaxCachedWords = 1 << 16;

// One step of cutting a text into words.
struct Step {
  enum class Kind { split, digits, digit_runs, prefix_space } kind;
  std::optional<Pattern> pattern;
};

void split_digits(std::string_view text, bool single, Pieces& pieces) {
  std::size_t start = 0;
  bool in_number = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t before = at;
    const bool number = is_number(next_code_point(text, at));
    if (before > start && (number != in_number || (number && single))) {
      pieces.push_back(text.substr(start, before - start));
      start = before;
    }
    in_number = number;
  }
  if (start < text.size()) pieces.push_back(text.substr(start));
}

std::string type_of(const Json& part) {
  const auto type = part.is_object() ? part.find("type") : part.end();
  if (!part.is_object() || type == part.end() || !type->is_string()) return part.dump();
  return type->get<std::string>();
}

bool flag(const Json& part, const char* key, bool otherwise) {
  const auto at = part.find(key);
  if (at == part.end()) return otherwise;
  if (!at->is_boolean()) throw std::runtime_error("its " + type_of(part) + " has a " + key + " that is neither true nor false");
  return at->get<bool>();
}

bool normalizer_is_nfc(const Json& normalizer) {
  if (normalizer.is_null()) return false;
  if (type_of(normalizer) == "NFC") return true;
  if (type_of(normalizer) == "Sequence" && normalizer.contains("normalizers") && normalizer["normalizers"].is_array()) {
    bool any = false;
    for (const Json& part : normalizer["normalizers"]) any |= normalizer_is_nfc(part);
    return any;
  }
  throw std::runtime_error("its normalizer is " + type_of(normalizer) + ", only NFC or none is supported");
}

// Appends the steps of a pre-tokenizer. ByteLevel has to be the last one: behind it the text is no text any more.
void read_steps(const Json& part, std::vector<Step>& steps, bool& byte_level) {
  const std::string type = type_of(part);
  if (byte_level) throw std::runtime_error("its pre-tokenizer has " + type + " behind ByteLevel, which is not supported");
  if (type == "Sequence") {
    if (!part.contains("pretokenizers") || !part["pretokenizers"].is_array())
      throw std::runtime_error("its pre-tokenizer Sequence has no pretokenizers");
    for (const Json& inner : part["pretokenizers"]) read_steps(inner, steps, byte_level);
  } else if (type == "ByteLevel") {
    byte_level = true;
    if (flag(part, "add_prefix_space", true)) steps.push_back({Step::Kind::prefix_space, std::nullopt});
    if (flag(part, "use_regex", true)) steps.push_back({Step::Kind::split, Pattern(kByteLevelPattern)});
  } else if (type == "Digits") {
    steps.push_back({flag(part, "individual_digits", false) ? Step::Kind::digits : Step::Kind::digit_runs, std::nullopt});
  } else if (type == "Split") {
    const auto pattern = part.find("pattern");
    if (pattern == part.end() || !pattern->is_object() || !pattern->contains("Regex") || !(*pattern)["Regex"].is_string())
      throw std::runtime_error("its pre-tokenizer Split has a pattern that is no Regex, which is not supported");
    // `invert` swaps matches and the rest, which Isolated treats alike.
    if (!part.contains("behavior") || part["behavior"] != "Isolated")
      throw std::runtime_error("its pre-tokenizer Split has the behavior " +
                               (part.contains("behavior") ? part["behavior"].dump() : "null") +
                               ", only \"Isolated\" is supported");
    steps.push_back({Step::Kind::split, Pattern((*pattern)["Regex"].get_ref<const std::string&>())});
  } else {
    throw std::runtime_error("its pre-tokenizer is " + type + ", which is not supported");
  }
}

}  // namespace

struct Tokenizer::Impl {
  Bpe bpe;
  bool nfc = false;
  std::vector<Step> steps;
  std::vector<AddedToken> added;
  TokenFinder raw, normalized;  // what is looked for before and after normalization
  std::unordered_map<std::string, std::int32_t> ids;

  struct Decoded {
    std::string bytes;
    bool special = false;
  };
  std::unordered_map<std::int32_t, Decoded> decoded;
  std::int32_t highest = -1;

  mutable std::mutex mutex;
  mutable std::unordered_map<std::string, std::vector<std::int32_t>> cache;

  explicit Impl(const Json& json);
  void encode_word(std::string_view word, std::vector<std::int32_t>& result) const;
  void encode_segment(std::string_view text, std::vector<std::int32_t>& result) const;
};

Tokenizer::Impl::Impl(const Json& json) : bpe(json.is_object() && json.contains("model") ? json["model"] : Json()) {
  const auto part = [&](const char* key) { return json.contains(key) ? json[key] : Json(); };
  nfc = normalizer_is_nfc(part("normalizer"));
  bool byte_level = false;
  read_steps(part("pre_tokenizer"), steps, byte_level);
  if (!byte_level) throw std::runtime_error("its pre-tokenizer has no ByteLevel, so it is not byte-level");
  if (type_of(part("decoder")) != "ByteLevel")
    throw std::runtime_error("its decoder is " + type_of(part("decoder")) + ", only ByteLevel is supported");

  added = read_added_tokens(part("added_tokens"), bpe.vocabulary());
  ids = bpe.vocabulary();
  for (const AddedToken& token : added) {
    ids.emplace(token.content, token.id);
    if (token.normalized) normalized.add(nfc ? to_nfc(token.content) : token.content, token);
    else raw.add(token.content, token);
  }
  for (const auto& [token, id] : ids) {
    bool whole = false;
    std::string bytes = bytes_of_token(token, whole);
    decoded[id] = {whole ? std::move(bytes) : token, false};
    highest = std::max(highest, id);
  }
  for (const AddedToken& token : added) decoded[token.id].special = token.special;
}

void Tokenizer::Impl::encode_word(std::string_view word, std::vector<std::int32_t>& result) const {
  if (word.size() > kMaxCachedBytes) {
    bpe.encode(word, result);
    return;
  }
  std::string key(word);
  {
    const std::lock_guard lock(mutex);
    if (const auto at = cache.find(key); at != cache.end()) {
      result.insert(result.end(), at->second.begin(), at->second.end());
      return;
    }
  }
  std::vector<std::int32_t> word_ids;
  bpe.encode(word, word_ids);
  result.insert(result.end(), word_ids.begin(), word_ids.end());
  const std::lock_guard lock(mutex);
  if (cache.size() < kMaxCachedWords) cache.emplace(std::move(key), std::move(word_ids));
}

void Tokenizer::Impl::encode_segment(std::string_view text, std::vector<std::int32_t>& result) const {
  Pieces pieces = {text}, next;
  std::deque<std::string> with_space;  // owns the pieces that got a space
  for (const Step& step : steps) {
    next.clear();
    for (const std::string_view piece : pieces) {
      switch (step.kind) {
        case Step::Kind::split: step.pattern->split(piece, next); break;
        case Step::Kind::digits: split_digits(piece, true, next); break;
        case Step::Kind::digit_runs: split_digits(piece, false, next); break;
        case Step::Kind::prefix_space:
          next.push_back(piece.front() == ' ' ? piece : with_space.emplace_back(" " + std::string(piece)));
          break;
      }
    }
    pieces.swap(next);
  }
  for (const std::string_view piece : pieces) encode_word(piece, result);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const auto file = folder / "tokenizer.json";
  std::string text;
  try {
    text = support::read_file(file);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(error.what()) + "; give the folder of a Hugging Face model that has a tokenizer.json");
  }
  Json json;
  try {
    json = support::parse_strict_json(text);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(file.string() + ": is no JSON: " + error.what() + "; the file is damaged: copy or download it again");
  }
  try {
    return Tokenizer(std::make_unique<Impl>(json));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(file.string() + ": " + error.what() +
                             "; only byte-level BPE that can be followed exactly is read: use another model");
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> result;
  const std::string valid = to_valid_utf8(text);
  impl_->raw.split(valid, [&](std::string_view piece, const AddedToken* token) {
    if (token) {
      result.push_back(token->id);
      return;
    }
    const std::string owned = impl_->nfc ? to_nfc(piece) : std::string();
    impl_->normalized.split(impl_->nfc ? std::string_view(owned) : piece,
                            [&](std::string_view inner, const AddedToken* found) {
                              if (found) result.push_back(found->id);
                              else impl_->encode_segment(inner, result);
                            });
  });
  return result;
}

std::string_view Tokenizer::bytes(std::int32_t id, bool skip_special) const {
  const auto at = impl_->decoded.find(id);
  if (at == impl_->decoded.end() || (skip_special && at->second.special)) return {};
  return at->second.bytes;
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids, bool skip_special) const {
  std::string all;
  for (const std::int32_t id : ids) all += bytes(id, skip_special);
  return to_valid_utf8(all);
}

std::string StreamDecoder::add(std::int32_t id) {
  held_ += tokenizer_.bytes(id, skip_special_);
  const std::size_t whole = held_.size() - unfinished_bytes(held_);
  const std::string text = to_valid_utf8(std::string_view(held_).substr(0, whole));
  held_.erase(0, whole);
  return text;
}

std::string StreamDecoder::finish() {
  const std::string text = to_valid_utf8(held_);
  held_.clear();
  return text;
}

std::int32_t Tokenizer::vocabulary_size() const { return impl_->highest + 1; }

std::int32_t Tokenizer::id(std::string_view token) const {
  const auto at = impl_->ids.find(std::string(token));
  return at == impl_->ids.end() ? -1 : at->second;
}

bool Tokenizer::contains(std::int32_t id) const { return impl_->decoded.contains(id); }

}  // namespace assay::train
