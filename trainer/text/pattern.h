// A tokenizer.json regular expression (Oniguruma's syntax, as `tokenizers` reads it) run by PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace assay::train {

class Pattern {
 public:
  // Throws std::runtime_error naming the construct when the two libraries may disagree on it, or what does not compile.
  explicit Pattern(std::string_view oniguruma);
  ~Pattern();
  Pattern(Pattern&&) noexcept;

  // Cuts valid UTF-8 at the matches: appends matches and what lies between them, in order, without empty pieces (the
  // behavior "Isolated"). Linear in the text for the patterns that tokenizers use. May be called from several threads.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The same pattern as PCRE2 has to be given it (PCRE2_UTF | PCRE2_UCP, newline LF). Throws as Pattern.
std::string to_pcre2(std::string_view oniguruma);

}  // namespace assay::train
