#include "experiments/spec/modules.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <stdexcept>

namespace assay::spec {

namespace {

constexpr std::array<const char*, 7> projections = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                    "gate_proj", "up_proj", "down_proj"};

// A pattern that backtracks without end is refused when it is used, not waited for.
constexpr std::uint32_t match_limit = 100'000;

std::shared_ptr<void> compile(const std::string& pattern, std::string& fault) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    fault = "the pattern does not compile: " + std::string(reinterpret_cast<const char*>(text.data())) +
            " at character " + std::to_string(offset);
    return nullptr;
  }
  return {code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); }};
}

bool is_pattern(const std::string& entry) { return entry.starts_with('^') && entry.size() >= 2 && entry.ends_with('$'); }

std::vector<std::string> modules_of(const std::string& name, const std::string& projection, const LoraConfig& lora) {
  if (std::find(lora.targets.begin(), lora.targets.end(), projection) == lora.targets.end()) return {name};
  return {name, name + ".base_layer"};
}

std::vector<ModulePattern> patterns(const QuantConfig& quant) {
  return {quant.exclude.begin(), quant.exclude.end()};
}

}  // namespace

std::string ModulePattern::fault(const std::string& entry) {
  if (is_pattern(entry)) {
    std::string wrong;
    compile(entry, wrong);
    return wrong;
  }
  if (entry.empty()) return "an empty entry names no module";
  const bool plain = std::all_of(entry.begin(), entry.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '.';
  });
  if (!plain) return "neither an exact module name nor an anchored pattern; a pattern is written \"^" "…" "$\"";
  return "";
}

ModulePattern::ModulePattern(const std::string& entry) {
  if (const std::string wrong = fault(entry); !wrong.empty()) throw std::runtime_error("quant.exclude: " + wrong);
  std::string unused;
  if (is_pattern(entry)) code_ = compile(entry, unused);
  else exact_ = entry;
}

bool ModulePattern::matches(const std::string& module) const {
  if (!code_) return module == exact_;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> found(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> limits(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), match_limit);
  const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(module.data()), module.size(), 0,
                                 PCRE2_ANCHORED | PCRE2_ENDANCHORED, found.get(), limits.get());
  if (result < 0 && result != PCRE2_ERROR_NOMATCH)
    throw std::runtime_error("quant.exclude: a pattern backtracks too much on " + module + "; write it more simply");
  return result >= 0;
}

std::string module_name(std::int64_t layer, const std::string& projection) {
  const bool attention = projection == "q_proj" || projection == "k_proj" || projection == "v_proj" ||
                         projection == "o_proj";
  return "model.layers." + std::to_string(layer) + (attention ? ".self_attn." : ".mlp.") + projection;
}

std::vector<QuantizedModule> quantized_modules(const QuantConfig& quant, const LoraConfig& lora, std::int64_t layers) {
  std::vector<QuantizedModule> result;
  if (quant.format == "none") return result;
  const std::vector<ModulePattern> excluded = patterns(quant);
  for (std::int64_t layer = quant.skip_first_layers; layer < layers - quant.skip_last_layers; ++layer) {
    for (const char* projection : projections) {
      if (std::find(quant.targets.begin(), quant.targets.end(), projection) == quant.targets.end()) continue;
      const std::string name = module_name(layer, projection);
      for (std::string& module : modules_of(name, projection, lora)) {
        const bool out = std::any_of(excluded.begin(), excluded.end(),
                                     [&](const ModulePattern& p) { return p.matches(module); });
        if (!out) result.push_back({std::move(module), name});
      }
    }
  }
  return result;
}

std::vector<std::string> idle_exclusions(const QuantConfig& quant, const LoraConfig& lora, std::int64_t layers) {
  std::vector<std::string> idle;
  for (const std::string& entry : quant.exclude) {
    const ModulePattern pattern(entry);
    bool used = false;
    for (std::int64_t layer = 0; layer < layers && !used; ++layer)
      for (const char* projection : projections)
        for (const std::string& module : modules_of(module_name(layer, projection), projection, lora))
          used = used || pattern.matches(module);
    if (!used) idle.push_back(entry);
  }
  return idle;
}

}  // namespace assay::spec
