#include "trainer/text/bpe.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <queue>
#include <stdexcept>

#include "trainer/text/unicode.h"

namespace assay::train {
namespace {

using Json = nlohmann::json;

// https://github.com/openai/gpt-2 (bytes_to_unicode): printable Latin-1 bytes stand for themselves, the others take the
// code points from 256 on, in order.
struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<std::int16_t, 512> byte{};

  Alphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<std::int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet one;
  return one;
}

bool is_set(const Json& model, const char* key) {
  const auto at = model.find(key);
  if (at == model.end() || at->is_null() || *at == false) return false;
  if (at->is_string()) return !at->get_ref<const std::string&>().empty();
  if (at->is_number()) return *at != 0;
  return true;
}

}  // namespace

std::string bytes_of_token(std::string_view token, bool& whole) {
  std::string bytes;
  whole = true;
  for (std::size_t at = 0; at < token.size();) {
    const char32_t code = next_code_point(token, at);
    if (code >= alphabet().byte.size() || alphabet().byte[code] < 0) {
      whole = false;
      return {};
    }
    bytes += static_cast<char>(alphabet().byte[code]);
  }
  return bytes;
}

Bpe::Bpe(const Json& model) {
  const auto type = model.is_object() ? model.find("type") : model.end();
  // Files of old versions leave the type out.
  if (!model.is_object() || (type != model.end() && *type != "BPE"))
    throw std::runtime_error("its model is " + (type == model.end() ? std::string("no object") : type->dump()) + ", not BPE");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    if (is_set(model, key)) throw std::runtime_error(std::string("its model has ") + key + ", which is not supported");
  ignore_merges_ = is_set(model, "ignore_merges");
  fuse_unknown_ = is_set(model, "fuse_unk");

  const auto vocabulary = model.find("vocab"), merges = model.find("merges");
  if (vocabulary == model.end() || !vocabulary->is_object() || vocabulary->empty())
    throw std::runtime_error("its model has no vocab");
  if (merges == model.end() || !merges->is_array()) throw std::runtime_error("its model has no merges");
  std::unordered_map<std::int32_t, std::string_view> seen;
  for (const auto& [token, id] : vocabulary->items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= std::numeric_limits<std::int32_t>::max())
      throw std::runtime_error("its vocab gives '" + token + "' an id that is no id: " + id.dump());
    const auto number = id.get<std::int32_t>();
    const auto [known, is_new] = vocabulary_.emplace(token, number);
    if (const auto [other, first] = seen.emplace(number, known->first); !first)
      throw std::runtime_error("its vocab gives the id " + std::to_string(number) + " to both '" +
                               std::string(other->second) + "' and '" + token + "'");
  }

  const auto id_of = [&](const std::string& token, std::size_t line) {
    const auto at = vocabulary_.find(token);
    if (at == vocabulary_.end())
      throw std::runtime_error("its merge " + std::to_string(line) + " needs '" + token + "', which is not in its vocab");
    return at->second;
  };
  merges_.reserve(merges->size());
  for (std::size_t rank = 0; rank < merges->size(); ++rank) {
    const Json& merge = (*merges)[rank];
    std::string left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space != text.npos && text.find(' ', space + 1) == text.npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    }
    if (left.empty() || right.empty())
      throw std::runtime_error("its merge " + std::to_string(rank) + " is no pair of tokens: " + merge.dump());
    const std::uint64_t pair = static_cast<std::uint64_t>(id_of(left, rank)) << 32 | static_cast<std::uint32_t>(id_of(right, rank));
    // A pair that comes twice has its later rank, as in `tokenizers`.
    merges_[pair] = {static_cast<std::uint32_t>(rank), id_of(left + right, rank)};
  }

  for (int b = 0; b < 256; ++b) {
    std::string token;
    append_code_point(token, alphabet().character[b]);
    const auto at = vocabulary_.find(token);
    byte_ids_[b] = at == vocabulary_.end() ? -1 : at->second;
  }
  if (const auto unknown = model.find("unk_token"); unknown != model.end() && unknown->is_string()) {
    const auto at = vocabulary_.find(unknown->get<std::string>());
    if (at == vocabulary_.end()) throw std::runtime_error("its unk_token " + unknown->dump() + " is not in its vocab");
    unknown_ = at->second;
  }
  if (ignore_merges_) {
    for (const auto& [token, id] : vocabulary_) {
      bool whole = false;
      std::string bytes = bytes_of_token(token, whole);
      if (whole) by_bytes_.emplace(std::move(bytes), id);
    }
  }
}

const Bpe::Merge* Bpe::find(std::int32_t left, std::int32_t right) const {
  const auto at = merges_.find(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right));
  return at == merges_.end() ? nullptr : &at->second;
}

void Bpe::encode(std::string_view bytes, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = by_bytes_.find(std::string(bytes)); whole != by_bytes_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }

  struct Symbol {
    std::int32_t id;  // -1: merged into its left neighbour
    std::int32_t before, after;
  };
  std::vector<Symbol> symbols;
  symbols.reserve(bytes.size());
  const auto add = [&](std::int32_t id) {
    const auto at = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  };
  bool after_unknown = false;
  for (const char byte : bytes) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) add(id);
    else if (unknown_ >= 0 && !(fuse_unknown_ && after_unknown)) add(unknown_);
    // Without an unknown token a missing byte is no symbol at all and does not end a run of unknown ones.
    after_unknown = id < 0;
  }
  const auto size = static_cast<std::int32_t>(symbols.size());

  struct Candidate {
    std::uint32_t rank;
    std::int32_t at, id;
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || symbols[at].after >= size) return;
    if (const Merge* merge = find(symbols[at].id, symbols[symbols[at].after].id)) queue.push({merge->rank, at, merge->id});
  };
  for (std::int32_t at = 0; at < size; ++at) consider(at);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.at];
    if (left.id < 0 || left.after >= size) continue;
    Symbol& right = symbols[left.after];
    // Its pair may be another one by now.
    const Merge* merge = find(left.id, right.id);
    if (!merge || merge->id != top.id) continue;
    left.id = top.id;
    left.after = right.after;
    right.id = -1;
    if (left.after < size) symbols[left.after].before = top.at;
    consider(left.before);
    consider(top.at);
  }
  for (std::int32_t at = 0; at < size; at = symbols[at].after) ids.push_back(symbols[at].id);
}

}  // namespace assay::train
