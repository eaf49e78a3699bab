// The quantize verb as a program: what it writes, what it prints, what it refuses, and how much memory it takes.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "catch.h"
#include "quant/checkpoint/packed_model.h"
#include "support/files.h"
#include "support/model_folder.h"

using namespace assay;
namespace fs = std::filesystem;

namespace {

struct Ended {
  int code;  // of exit; -1: a signal
  std::string out, err;
  long peak_kib;
};

// `prefix`: what the shell is to do before it becomes the program.
Ended run(std::vector<std::string> arguments, const std::string& prefix = "") {
  const fs::path logs = fs::path(ASSAY_BINARY_DIR) / "test-data" / "quantize-logs";
  fs::create_directories(logs);
  const std::string out = (logs / "out").string(), err = (logs / "err").string();
  std::vector<std::string> line = {"/bin/sh", "-c", prefix + " exec \"$@\"", "sh",
                                   (fs::path(ASSAY_BINARY_DIR) / "bin" / "quantize_verb").string(), "quantize"};
  line.insert(line.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : line) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
    ::execv("/bin/sh", argv.data());
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, support::read_file(out), support::read_file(err), usage.ru_maxrss};
}

std::vector<float> normal(std::size_t n, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0, 0.02f);
  std::vector<float> x(n);
  for (float& v : x) v = distribution(generator);
  return x;
}

support::TensorView view_of(const std::vector<float>& values, std::vector<std::int64_t> shape) {
  return {"F32", std::move(shape), reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)};
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

// Two layers, an embedding, a norm; two shards; other files, one in a subfolder, one a link.
fs::path sharded_model(const fs::path& folder) {
  fs::create_directories(folder / "sub");
  const auto up = normal(64 * 32, 1), down = normal(32 * 64, 2), embed = normal(8 * 32, 3), norm = normal(32, 4);
  support::write_safetensors(folder / "m-1.safetensors", {{"l.0.up.weight", view_of(up, {64, 32})},
                                                          {"embed_tokens.weight", view_of(embed, {8, 32})}},
                             {{"format", "pt"}});
  support::write_safetensors(folder / "m-2.safetensors", {{"l.0.down.weight", view_of(down, {32, 64})},
                                                          {"norm.weight", view_of(norm, {32})}});
  support::write_file_atomically(
      folder / support::kIndexName,
      R"({"metadata": {"total_size": 17536, "kind": "mine"}, "weight_map": {"l.0.up.weight": "m-1.safetensors", )"
      R"("embed_tokens.weight": "m-1.safetensors", "l.0.down.weight": "m-2.safetensors", "norm.weight": "m-2.safetensors"}})");
  support::write_file_atomically(folder / "config.json", R"({"model_type": "llama", "hidden_size": 32})");
  support::write_file_atomically(folder / "sub" / "tokenizer.json", std::string(3'000'000, 't'));
  fs::create_symlink("sub/tokenizer.json", folder / "linked.json");
  return folder;
}

}  // namespace

TEST_CASE("a sharded folder, fake-quantized: the same tensors in the same shards, the other files beside them") {
  const auto folder = test::fresh_folder("quantize-sharded");
  const auto in = sharded_model(folder / "in"), out = folder / "out";
  const Ended ended = run({in, out, "--mode", "te"});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  CHECK(ended.err.empty());
  CHECK(has(ended.out, "l.0.up.weight"));
  CHECK(has(ended.out, "2 tensors as they were"));
  for (const char* file : {"config.json", "linked.json", "sub/tokenizer.json", support::kIndexName}) {
    CHECK(support::read_file(in / file) == support::read_file(out / file));
    CHECK_FALSE(fs::is_symlink(out / file));
  }
  CHECK(entries(out) == entries(in));
  CHECK(entries(folder) == 2);
  const auto before = support::ModelFolder::open(in), after = support::ModelFolder::open(out);
  CHECK(before.names() == after.names());
  CHECK(after.shards().front().file.metadata() == before.shards().front().file.metadata());
  for (const std::string& name : before.names()) {
    const auto *a = before.find(name), *b = after.find(name);
    CHECK(a->shape == b->shape);
    CHECK((std::memcmp(a->data, b->data, a->bytes) == 0) == (name == "embed_tokens.weight" || name == "norm.weight"));
  }
}

TEST_CASE("a sharded folder, packed: index and config.json say so, and it reads back as the fake-quantized one") {
  const auto folder = test::fresh_folder("quantize-packed");
  const auto in = sharded_model(folder / "in"), out = folder / "out";
  const Ended ended = run({in, out, "--pack", "--json"});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const auto report = nlohmann::json::parse(ended.out);
  CHECK(report["layout"] == "compressed-tensors");
  CHECK(report["tensors"].size() == 2);
  REQUIRE(run({in, folder / "fake", "--json"}).code == 0);

  const auto index = nlohmann::json::parse(support::read_file(out / support::kIndexName));
  CHECK(index["weight_map"]["l.0.down.weight_global_scale"] == "m-2.safetensors");
  CHECK_FALSE(index["weight_map"].contains("l.0.down.weight"));
  CHECK(index["metadata"]["kind"] == "mine");
  CHECK(index["metadata"]["total_size"] == (8 * 32 + 32) * 4 + 2 * (64 * 16 + 64 * 2 + 4));
  const auto config = nlohmann::json::parse(support::read_file(out / "config.json"));
  CHECK(config["hidden_size"] == 32);
  const auto& quantization = config["quantization_config"];
  CHECK(quantization["quant_method"] == "compressed-tensors");
  CHECK(quantization["format"] == "nvfp4-pack-quantized");
  CHECK(quantization["ignore"] == std::vector<std::string>{"embed_tokens", "lm_head"});
  CHECK(quantization["config_groups"]["group_0"]["weights"]["group_size"] == 16);

  const auto packed = quant::PackedModel::open(out);
  CHECK(packed.modules() == std::vector<std::string>{"l.0.down", "l.0.up"});
  const auto fake = support::ModelFolder::open(folder / "fake");
  for (const std::string& module : packed.modules()) {
    const auto weight = packed.load(module);
    std::vector<float> values(static_cast<std::size_t>(weight.packed.rows * weight.packed.cols));
    quant::dequantize(weight, values.data());
    const auto* view = fake.find(module + ".weight");
    REQUIRE(view->bytes == values.size() * 4);
    CHECK(std::memcmp(view->data, values.data(), view->bytes) == 0);
  }

  // What compressed-tensors cannot hold is not called by its name.
  const Ended down = run({in, folder / "columns", "--pack", "--axis", "0"});
  CHECK(has(down.out, "compressed-tensors cannot load it: its blocks run along axis 1"));
  const auto columns = nlohmann::json::parse(support::read_file(folder / "columns" / "config.json"));
  CHECK(columns["quantization_config"]["quant_method"] == "assay");
  CHECK(quant::PackedModel::open(folder / "columns").load("l.0.up").packed.axis == 0);
}

TEST_CASE("figures of known errors") {
  const auto folder = test::fresh_folder("quantize-figures");
  // Scale 1 (MXFP4, maximum 6): 5 goes to 4, .25 to 0, 6 and -6 stay, the 28 zeros too.
  std::vector<float> x(32);
  x[0] = 6, x[1] = 5, x[2] = 0.25f, x[3] = -6;
  support::write_safetensors(folder / "in", {{"a.weight", view_of(x, {1, 32})}});
  for (const char* pack : {"--json", "--pack"}) {
    fs::remove(folder / "out");
    const Ended ended = run({folder / "in", folder / "out", "--format", "mxfp4", "--json", pack});
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const auto json = nlohmann::json::parse(ended.out);
    for (const auto& figures : {json["tensors"][0], json["all"]}) {
      CHECK(figures["relative_rms"].get<double>() == Approx(std::sqrt((1 + 0.0625) / (36 + 25 + 0.0625 + 36))));
      CHECK(figures["sqnr_db"].get<double>() == Approx(10 * std::log10((36 + 25 + 0.0625 + 36) / (1 + 0.0625))));
      CHECK(figures["mean_relative"].get<double>() == Approx(1.25 / 17.25));
      CHECK(figures["dead_share"].get<double>() == Approx(1 / 32.0));
      CHECK(figures["saturated_share"].get<double>() == Approx(2 / 32.0));
      CHECK(figures["elements"] == 32);
    }
  }
  // No error at all: a number that JSON has not.
  fs::remove(folder / "out");
  x[1] = 4, x[2] = 0;
  support::write_safetensors(folder / "in", {{"a.weight", view_of(x, {1, 32})}});
  const auto json = nlohmann::json::parse(run({folder / "in", folder / "out", "--format", "mxfp4", "--json"}).out);
  CHECK(json["all"]["sqnr_db"].is_null());
}

TEST_CASE("--tensor and --exclude choose by regular expression") {
  const auto folder = test::fresh_folder("quantize-choice");
  const auto in = sharded_model(folder / "in");
  const auto names = [&](std::vector<std::string> more) {
    fs::remove_all(folder / "out");
    std::vector<std::string> line = {in, folder / "out", "--json"};
    line.insert(line.end(), more.begin(), more.end());
    const Ended ended = run(line);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const auto report = nlohmann::json::parse(ended.out);
    std::string text;
    for (const auto& tensor : report["tensors"]) text += tensor["name"].get<std::string>() + " ";
    return text;
  };
  CHECK(names({}) == "l.0.down.weight l.0.up.weight ");
  CHECK(names({"--tensor", "embed|up"}) == "embed_tokens.weight l.0.up.weight ");
  CHECK(names({"--tensor", "^l\\.", "--exclude", "down"}) == "l.0.up.weight ");
  CHECK(names({"--tensor", "up", "--tensor", "down"}) == "l.0.down.weight l.0.up.weight ");
  CHECK(names({"--exclude", "up"}) == "l.0.down.weight ");
}

TEST_CASE("bad input: one sentence that says what to type, exit code 3, nothing written") {
  const auto folder = test::fresh_folder("quantize-refused");
  const auto in = sharded_model(folder / "in");
  const auto x = normal(64, 1);
  const std::vector<std::uint8_t> bytes(64);
  const fs::path good = folder / "good.safetensors", whole = in / "m-2.safetensors";
  support::write_safetensors(good, {{"a.weight", view_of(x, {2, 32})},
                                    {"n.weight", view_of(x, {64})},
                                    {"p", view_of(x, {2, 32})},
                                    {"i.weight", {"U8", {2, 32}, reinterpret_cast<const std::byte*>(bytes.data()), 64}}});
  support::write_safetensors(folder / "norms.safetensors", {{"n.weight", view_of(x, {64})}});
  support::write_file_atomically(folder / "text", "this is a text, no tensors at all");
  support::write_file_atomically(folder / "cut", support::read_file(whole).substr(0, fs::file_size(whole) - 5));
  fs::create_directory(folder / "empty");
  fs::create_directories(folder / "done");
  support::write_file_atomically(folder / "there", "mine");
  REQUIRE(run({in, folder / "packed", "--pack"}).code == 0);
  fs::copy(in, folder / "no-config", fs::copy_options::recursive);
  fs::remove(folder / "no-config" / "config.json");
  fs::copy(in, folder / "configured", fs::copy_options::recursive);
  support::write_file_atomically(folder / "configured" / "config.json", R"({"quantization_config": {}})");

  const std::string out = (folder / "OUT").string();
  struct Case {
    std::vector<std::string> arguments;
    std::string what, instead;
  };
  const std::vector<Case> cases = {
      {{good, out, "--exclude", "^i", "--format", "nvfp"}, "no format 'nvfp'", "did you mean 'nvfp4'?"},
      {{good, out, "--format", "int8"}, "no format 'int8'", "there are nvfp4, mxfp4"},
      {{good, out, "--mode", "tee"}, "nvfp4 has no mode 'tee'", "did you mean 'te'?"},
      {{good, out, "--mode", "floor"}, "'floor' is not a mode of nvfp4", "type --format mxfp4"},
      {{good, out, "--format", "mxfp4", "--mode", "te"}, "'te' is not a mode of mxfp4", "type --format nvfp4"},
      {{good, out, "--scope", "rows"}, "no scope 'rows'", "did you mean 'row'?"},
      {{good, out, "--scope", "row", "--axis", "0"}, "a scale per row needs blocks along the row", "leave out --scope"},
      {{good, out, "--scope", "row", "--mode", "torchao_one_level"}, "has no tensor scale", "leave out --scope"},
      {{good, out, "--tiles", "--format", "mxfp4"}, "tiles are NVFP4's", "leave out --tiles"},
      {{good, out, "--mode", "te46", "--rounding", "stochastic"}, "rounds to nearest even", "leave out --rounding"},
      {{good, out, "--rounding", "up"}, "no rounding 'up'", "there are nearest_even, stochastic"},
      {{folder / "none", out}, "no such file or folder", "give a safetensors file"},
      {{good, good}, "is the input itself", "another name"},
      {{in, in}, "is the input itself", "another name"},
      {{good, folder / "there"}, "exists already", "another name"},
      {{in, folder / "done"}, "exists already", "another name"},
      {{in, in / "sub" / "out"}, "inside of the input", "outside"},
      {{good, folder / "no" / "out"}, "no such folder", "mkdir -p"},
      {{folder / "text", out}, "no safetensors file", "; "},
      {{folder / "cut", out}, "lies at bytes", "damaged"},
      {{folder / "empty", out}, "has neither model.safetensors", "give the folder of a Hugging Face model"},
      {{good, out, "--tensor", "up_proj"}, "--tensor 'up_proj' matches none", "such as"},
      {{good, out, "--tensor", "^a", "--tensor", "b"}, "--tensor 'b' matches none", "such as"},
      {{good, out, "--tensor", "^a", "--exclude", "zz"}, "--exclude 'zz' matches none", "such as"},
      {{good, out, "--tensor", "(a"}, "--tensor '(a': missing closing parenthesis", "for example"},
      {{good, out}, "'i.weight' has dtype U8", "--exclude"},
      {{good, out, "--tensor", "^n"}, "'n.weight' has shape [64]", "--exclude"},
      {{good, out, "--tensor", "^p$", "--pack"}, "'p' is not called MODULE.weight", "--exclude"},
      {{folder / "norms.safetensors", out}, "no tensor to quantize", "--tensor REGEX"},
      {{folder / "packed", out}, "quantize --pack", "the model that it was made from"},
      {{folder / "no-config", out, "--pack"}, "config.json: cannot be read", "--pack"},
      {{folder / "configured", out, "--pack"}, "quantization_config already", "made from"},
  };
  const std::size_t before = entries(folder);
  for (const Case& c : cases) {
    const Ended ended = run(c.arguments);
    INFO(ended.err << ended.out);
    CHECK(ended.code == 3);
    CHECK(ended.out.empty());
    CHECK(has(ended.err, c.what));
    CHECK(has(ended.err, c.instead));
    CHECK(ended.err.rfind("assay-train: ", 0) == 0);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(entries(folder) == before);
  }
  CHECK(support::read_file(folder / "there") == "mine");
  CHECK(run({good, out, "--axis", "2"}).code == 2);
  CHECK(run({good}).code == 2);
  CHECK(run({good, out, "--modus", "te"}).code == 2);
}

TEST_CASE("a disk that takes no more: a fault in one sentence, and nothing is left behind") {
  const auto folder = test::fresh_folder("quantize-full");
  const auto in = sharded_model(folder / "in");
  const auto big = normal(1 << 20, 1);
  support::write_safetensors(folder / "big", {{"a.weight", view_of(big, {1024, 1024})}});
  // Files of at most 2000 blocks of 512 bytes; beyond, write() fails as on a full disk, but for its reason.
  const std::string limit = "trap '' XFSZ; ulimit -f 2000;";
  for (const auto& arguments : std::vector<std::vector<std::string>>{{folder / "big", folder / "out"}, {in, folder / "out"}}) {
    const Ended ended = run(arguments, limit);
    INFO(ended.err);
    CHECK(ended.code == 1);
    CHECK(has(ended.err, "File too large"));
    CHECK(has(ended.err, "out"));
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(entries(folder) == 2);
  }
}

TEST_CASE("memory stays below twice the largest tensor, however large the file") {
  const auto folder = test::fresh_folder("quantize-memory");
  constexpr std::int64_t side = 2048, tensors = 12;  // 16 MiB each, 192 MiB in all
  {
    std::map<std::string, support::TensorEntry> layout;
    for (int i = 0; i < tensors; ++i) layout["l." + std::to_string(i) + ".weight"] = {"F32", {side, side}};
    layout["lm_head.weight"] = {"F32", {side, side}};  // copied
    support::SafetensorsWriter writer(folder / "in", layout);
    const auto rows = normal(side * 64, 7);
    for (const auto& [name, entry] : layout)
      for (std::int64_t r = 0; r < side; r += 64)
        writer.write(name, static_cast<std::uint64_t>(r * side) * 4, rows.data(), rows.size() * 4);
    writer.finish();
  }
  const long bound = 2 * side * side * 4 / 1024;
  for (const auto& more : std::vector<std::vector<std::string>>{
           {}, {"--axis", "0"}, {"--pack"}, {"--pack", "--axis", "0"}, {"--pack", "--scope", "row"}, {"--format", "mxfp4"},
           {"--tiles", "--rounding", "stochastic"}}) {
    fs::remove(folder / "out");
    std::vector<std::string> line = {folder / "in", folder / "out"};
    line.insert(line.end(), more.begin(), more.end());
    const Ended ended = run(line);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    std::string words;
    for (const std::string& word : more) words += word + " ";
    std::printf("quantize %s: peak %ld KiB, a tensor has %ld KiB\n", words.c_str(), ended.peak_kib, bound / 2);
    CHECK(ended.peak_kib < bound);
  }
  fs::remove_all(folder);
}
