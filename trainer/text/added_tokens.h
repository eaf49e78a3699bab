// Tokens that are found in the text as they stand, before anything else looks at it (tokenizer.json's added_tokens).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace assay::train {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool lstrip = false, rstrip = false;  // takes the white space on that side with it
  bool normalized = false;              // looked for in the normalized text
  bool special = false;                 // decode() may leave it out
};

// Throws std::runtime_error saying what cannot be followed. `vocabulary` is the model's.
std::vector<AddedToken> read_added_tokens(const nlohmann::json& list,
                                          const std::unordered_map<std::string, std::int32_t>& vocabulary);

// Finds tokens in a text: at the leftmost place, and there the longest.
class TokenFinder {
 public:
  void add(const std::string& pattern, const AddedToken& token);
  // Calls piece(text, token) in order; token is nullptr for what lies between. Strips as the tokens ask for.
  void split(std::string_view text, const std::function<void(std::string_view, const AddedToken*)>& piece) const;

 private:
  struct Node {
    std::map<unsigned char, std::size_t> next;
    int token = -1;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie over bytes
  std::vector<AddedToken> tokens_;
};

}  // namespace assay::train
