#include "trainer/text/added_tokens.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "trainer/text/unicode.h"

namespace assay::train {
namespace {

// Bytes of white space at the start of the text.
std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_white_space(next_code_point(text, next))) break;
    at = next;
  }
  return at;
}

// Where the white space at the end of the text starts.
std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t start = end - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    std::size_t at = start;
    if (!is_white_space(next_code_point(text, at))) break;
    end = start;
  }
  return end;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const nlohmann::json& list,
                                          const std::unordered_map<std::string, std::int32_t>& vocabulary) {
  if (list.is_null()) return {};
  if (!list.is_array()) throw std::runtime_error("its added_tokens are no list");
  std::vector<AddedToken> tokens;
  std::set<std::string> contents;
  std::map<std::int32_t, std::string> ids;
  for (const auto& [token, id] : vocabulary) ids.emplace(id, token);
  for (const auto& entry : list) {
    const auto flag = [&](const char* key) {
      const auto at = entry.find(key);
      if (at == entry.end() || !at->is_boolean())
        throw std::runtime_error(std::string("an entry of its added_tokens has no ") + key + ": " + entry.dump());
      return at->get<bool>();
    };
    if (!entry.is_object() || !entry.contains("content") || !entry["content"].is_string() || !entry.contains("id") ||
        !entry["id"].is_number_unsigned() || entry["id"].get<std::uint64_t>() >= std::numeric_limits<std::int32_t>::max())
      throw std::runtime_error("an entry of its added_tokens has no content or no id: " + entry.dump());
    AddedToken token;
    token.id = entry["id"].get<std::int32_t>();
    token.content = entry["content"].get<std::string>();
    token.lstrip = flag("lstrip");
    token.rstrip = flag("rstrip");
    token.normalized = flag("normalized");
    token.special = flag("special");
    if (flag("single_word")) throw std::runtime_error("its added token '" + token.content + "' is single_word, which is not supported");
    if (token.content.empty() || !contents.insert(token.content).second)
      throw std::runtime_error("its added_tokens hold '" + token.content + "' twice, or an empty one");
    const auto [known, is_new] = ids.emplace(token.id, token.content);
    const auto model = vocabulary.find(token.content);
    if ((!is_new && known->second != token.content) || (model != vocabulary.end() && model->second != token.id))
      throw std::runtime_error("its added token '" + token.content + "' has the id " + std::to_string(token.id) +
                               ", which the vocabulary sees otherwise");
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void TokenFinder::add(const std::string& pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  std::size_t at = 0;
  for (const char c : pattern) {
    const auto [edge, is_new] = nodes_[at].next.emplace(static_cast<unsigned char>(c), nodes_.size());
    at = edge->second;
    if (is_new) nodes_.emplace_back();
  }
  nodes_[at].token = static_cast<int>(tokens_.size());
  tokens_.push_back(token);
}

void TokenFinder::split(std::string_view text,
                        const std::function<void(std::string_view, const AddedToken*)>& piece) const {
  std::size_t reached = 0;    // everything before is handed out
  std::size_t space_end = 0;  // of the white space that was looked at last
  for (std::size_t at = 0; at < text.size();) {
    std::size_t node = 0, stop = 0;
    const AddedToken* token = nullptr;
    for (std::size_t i = at; i < text.size(); ++i) {
      const auto edge = nodes_[node].next.find(static_cast<unsigned char>(text[i]));
      if (edge == nodes_[node].next.end()) break;
      node = edge->second;
      if (nodes_[node].token >= 0) token = &tokens_[nodes_[node].token], stop = i + 1;
    }
    if (!token) {
      ++at;
      continue;
    }
    std::size_t start = at, end = stop;
    if (token->lstrip && start > reached) start = reached + trailing_space(text.substr(reached, start - reached));
    if (token->lstrip && start < reached) start = reached;
    if (token->rstrip) {
      // Tokens that are white space themselves would look at the same run again and again.
      if (end >= space_end) space_end = end + leading_space(text.substr(end));
      end = space_end;
    }
    if (start > reached) piece(text.substr(reached, start - reached), nullptr);
    piece(text.substr(start, end - start), token);
    reached = end;
    // The search goes on behind the token itself, not behind the space that it took: so do the matches of `tokenizers`.
    at = stop;
  }
  if (reached < text.size()) piece(text.substr(reached), nullptr);
}

}  // namespace assay::train
