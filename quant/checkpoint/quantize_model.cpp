#include "quant/checkpoint/quantize_model.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "quant/packed.h"
#include "support/files.h"
#include "support/model_folder.h"
#include "support/strict_json.h"

namespace assay::quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using support::SafetensorsFile;
using support::SafetensorsWriter;
using support::TensorEntry;
using support::TensorView;

// Elements at a time: memory goes by this, about 20 bytes for each.
constexpr std::int64_t kPiece = 1 << 18;
constexpr std::size_t kCopyPiece = 1 << 20;

[[noreturn]] void fail(const fs::path& where, const std::string& what) {
  throw std::runtime_error(where.string() + ": " + what);
}

std::string module_of(const std::string& name) { return name.substr(0, name.size() - std::string_view(".weight").size()); }

std::string text(const std::vector<std::int64_t>& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

bool is_float(const std::string& dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

// A 2-D tensor of a file, a range of rows at a time.
class Rows {
 public:
  Rows(const SafetensorsFile& file, const TensorView& view)
      : file_(file), view_(view), cols_(view.shape[1]),
        type_(view.dtype == "F32" ? Type::fp32 : view.dtype == "BF16" ? Type::bf16 : Type::fp16) {}

  // Valid until the next call. count rows from first on.
  ConstView read(std::int64_t first, std::int64_t count) {
    bytes_.resize(static_cast<std::size_t>(count * cols_) * size());
    file_.read(view_, static_cast<std::size_t>(first * cols_) * size(), bytes_.data(), bytes_.size());
    return {bytes_.data(), type_, count, cols_, cols_, 1};
  }
  std::size_t size() const { return type_ == Type::fp32 ? 4 : 2; }

 private:
  const SafetensorsFile& file_;
  const TensorView& view_;
  std::int64_t cols_;
  Type type_;
  std::vector<std::byte> bytes_;
};

}  // namespace

const std::vector<std::string>& unquantized_modules() {
  static const std::vector<std::string> names = {
      "embed_tokens", "tok_embeddings",  "word_embeddings", "position_embeddings", "token_type_embeddings",
      "wte",          "wpe",             "embed_positions", "embed_in",            "shared",
      "lm_head",      "embed_out"};
  return names;
}

bool quantized_by_default(const std::string& name, const std::vector<std::int64_t>& shape) {
  if (!name.ends_with(".weight") || shape.size() != 2) return false;
  const std::string module = module_of(name);
  const std::string last = module.substr(module.rfind('.') + 1);  // npos + 1 is 0
  return std::find(unquantized_modules().begin(), unquantized_modules().end(), last) == unquantized_modules().end();
}

struct QuantizeModel::Impl {
  fs::path in, out;
  QuantizeOptions options;
  bool folder = false;
  std::optional<SafetensorsFile> single;
  std::optional<support::ModelFolder> model;
  Json config, index;  // of a folder, where packing changes them
  std::vector<TensorReport> reports;
  std::map<std::string, std::size_t> report_of;
  std::int64_t kept = 0;
  Layout layout = Layout::compressed_tensors;
  std::string why_not;

  void check_paths() const;
  void choose(const SafetensorsFile& file, const fs::path& path);
  void choose_layout();
  std::vector<std::string> ignored() const;

  void write_file(const SafetensorsFile& file, const fs::path& to, const std::function<void(const TensorReport&)>& done);
  float write_tensor(const SafetensorsFile& file, SafetensorsWriter& writer, TensorReport& report) const;
  std::int64_t piece_rows(std::int64_t cols) const;
  float tensor_max(Rows& rows, std::int64_t count, std::int64_t cols) const;
  void write_folder(const std::function<void(const TensorReport&)>& done);
  Choices choices() const { return {options.spec, options.axis, layout, {}, {}}; }
};

QuantizeModel::QuantizeModel(const fs::path& in, const fs::path& out, const QuantizeOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->in = in;
  impl_->out = out;
  impl_->options = options;
  impl_->folder = fs::is_directory(in);
  impl_->check_paths();
  if (impl_->folder) {
    impl_->model = support::ModelFolder::open(in);
    for (const auto& shard : impl_->model->shards()) impl_->choose(shard.file, in / shard.name);
  } else {
    impl_->single = SafetensorsFile::open(in);
    impl_->choose(*impl_->single, in);
  }
  if (impl_->reports.empty())
    fail(in, std::string("has no tensor to quantize") +
                 (options.include ? "" : " by the default rule (2-D '.weight' of linear layers)") +
                 "; name the tensors you mean with --tensor REGEX");
  std::sort(impl_->reports.begin(), impl_->reports.end(),
            [](const TensorReport& a, const TensorReport& b) { return a.name < b.name; });
  for (std::size_t i = 0; i < impl_->reports.size(); ++i) impl_->report_of[impl_->reports[i].name] = i;
  if (options.pack) impl_->choose_layout();
}

QuantizeModel::~QuantizeModel() = default;
const std::vector<TensorReport>& QuantizeModel::tensors() const { return impl_->reports; }
std::int64_t QuantizeModel::kept() const { return impl_->kept; }
Layout QuantizeModel::layout() const { return impl_->layout; }
const std::string& QuantizeModel::why_not_compressed_tensors() const { return impl_->why_not; }

void QuantizeModel::Impl::check_paths() const {
  std::error_code none;
  if (!fs::exists(in, none)) fail(in, "there is no such file or folder; give a safetensors file or a model folder");
  if (fs::equivalent(in, out, none)) fail(out, "is the input itself; give OUT another name");
  if (fs::symlink_status(out, none).type() != fs::file_type::not_found)
    fail(out, "exists already; give OUT another name, or remove it first");
  const fs::path parent = fs::absolute(out).lexically_normal().parent_path();
  if (!fs::is_directory(parent, none)) fail(parent, "there is no such folder to put OUT into; make it first: mkdir -p");
  if (!folder) return;
  for (fs::path at = fs::weakly_canonical(parent); at.has_relative_path(); at = at.parent_path())
    if (fs::equivalent(at, in, none)) fail(out, "lies inside of the input folder; give OUT a place outside of it");
}

void QuantizeModel::Impl::choose(const SafetensorsFile& file, const fs::path& path) {
  if (file.metadata().contains(kMetadataKey))
    fail(path, "was written by 'assay-train quantize --pack'; give the model that it was made from");
  for (const auto& [name, view] : file.tensors()) {
    if (name.ends_with(tensor_names::packed))
      fail(path, "holds '" + name + "': its weights are packed already; give the model that it was made from");
    const bool included = options.include ? options.include(name) : quantized_by_default(name, view.shape);
    if (!included || (options.exclude && options.exclude(name))) {
      ++kept;
      continue;
    }
    const std::string leave_out = "; leave it out with --exclude, or give a --tensor that does not match it";
    if (!is_float(view.dtype))
      fail(path, "tensor '" + name + "' has dtype " + view.dtype + ", and only F32, BF16 and F16 can be quantized" + leave_out);
    if (view.shape.size() != 2)
      fail(path, "tensor '" + name + "' has shape " + text(view.shape) + ", and only two dimensions can be quantized" + leave_out);
    if (options.pack && !name.ends_with(".weight"))
      fail(path, "tensor '" + name + "' is not called MODULE.weight, which packed tensors are named after" + leave_out);
    reports.push_back({name, view.dtype, view.shape[0], view.shape[1], {}});
  }
}

void QuantizeModel::Impl::choose_layout() {
  for (const TensorReport& tensor : reports) {
    const std::string why = objection_to_compressed_tensors(options.spec, options.axis, tensor.cols);
    if (why.empty()) continue;
    layout = Layout::assay;
    why_not = why;
    break;
  }
  if (!folder) return;
  const fs::path config_path = in / "config.json";
  try {
    config = support::parse_strict_json(support::read_file(config_path));
    if (!config.is_object()) throw std::runtime_error("it is no object");
  } catch (const std::runtime_error& error) {
    fail(config_path, std::string("cannot be read, and --pack puts its quantization_config there: ") + error.what());
  }
  if (config.contains("quantization_config"))
    fail(config_path, "has a quantization_config already; give the model that it was made from");
  if (model->has_index()) index = support::parse_strict_json(support::read_file(in / support::kIndexName));
}

// Modules that "Linear" means, or may mean, and that stay as they are. A tied head is in no file.
std::vector<std::string> QuantizeModel::Impl::ignored() const {
  std::vector<std::string> names;
  for (const auto& shard : model->shards())
    for (const auto& [name, view] : shard.file.tensors())
      if (!report_of.contains(name) && name.ends_with(".weight") && view.shape.size() == 2) names.push_back(module_of(name));
  if (!model->find("lm_head.weight")) names.push_back("lm_head");
  std::sort(names.begin(), names.end());
  return names;
}

void QuantizeModel::run(const std::function<void(const TensorReport&)>& done) {
  if (impl_->folder) impl_->write_folder(done);
  else impl_->write_file(*impl_->single, impl_->out, done);
}

void QuantizeModel::Impl::write_file(const SafetensorsFile& file, const fs::path& to,
                                     const std::function<void(const TensorReport&)>& done) {
  const bool two_level = has_tensor_scale(options.spec.mode);
  Choices said = choices();
  std::map<std::string, TensorEntry> entries;
  for (const auto& [name, view] : file.tensors()) {
    if (!report_of.contains(name) || !options.pack) {
      entries[name] = {view.dtype, view.shape};
      continue;
    }
    const std::string module = module_of(name);
    const std::int64_t rows = view.shape[0], cols = view.shape[1];
    const Spec& spec = options.spec;
    entries[module + tensor_names::packed] = {"U8", {rows, (cols + 1) / 2}};
    entries[module + tensor_names::scale] = {
        spec.format == Format::nvfp4 ? "F8_E4M3" : "U8",
        options.axis == 1 ? std::vector{rows, block_count(spec, cols)} : std::vector{block_count(spec, rows), cols}};
    if (layout == Layout::assay) {
      if (two_level) entries[module + tensor_names::tensor_max] = {"F32", {spec.scope == Scope::row ? rows : 1}};
      if (cols % 2 == 1) said.odd_cols.insert(module);
    } else if (spec.format == Format::nvfp4) {
      entries[module + tensor_names::global_scale] = {"F32", {1}};
      if (two_level) said.tensor_max[module] = 0;
    }
  }
  std::map<std::string, std::string> metadata = file.metadata();
  if (options.pack) metadata[kMetadataKey] = metadata_value(said);

  SafetensorsWriter writer(to, entries, metadata);
  std::vector<std::byte> buffer(kCopyPiece);
  for (const auto& [name, view] : file.tensors()) {
    const auto at = report_of.find(name);
    if (at == report_of.end()) {
      for (std::size_t begin = 0; begin < view.bytes; begin += kCopyPiece) {
        const std::size_t n = std::min(kCopyPiece, view.bytes - begin);
        file.read(view, begin, buffer.data(), n);
        writer.write(name, begin, buffer.data(), n);
      }
      continue;
    }
    TensorReport& report = reports[at->second];
    report.stats = {};
    const float maximum = write_tensor(file, writer, report);
    if (const auto place = said.tensor_max.find(module_of(name)); place != said.tensor_max.end()) place->second = maximum;
    if (done) done(report);
  }
  if (options.pack) writer.replace_metadata(kMetadataKey, metadata_value(said));
  writer.finish();
}

// Whole rows, and for axis 0 and tiles whole blocks of them.
std::int64_t QuantizeModel::Impl::piece_rows(std::int64_t cols) const {
  const std::int64_t rows = std::max<std::int64_t>(1, kPiece / std::max<std::int64_t>(1, cols));
  const std::int64_t block = options.axis == 0 || options.spec.tiles ? options.spec.block() : 1;
  return std::max(block, rows / block * block);
}

float QuantizeModel::Impl::tensor_max(Rows& rows, std::int64_t count, std::int64_t cols) const {
  float maximum = 0;
  if (!needs_tensor_max(options.spec)) return maximum;
  const std::int64_t step = piece_rows(cols);
  for (std::int64_t r = 0; r < count; r += step)
    maximum = std::max(maximum, finite_max(rows.read(r, std::min(step, count - r))));
  return maximum;
}

// Gives the maximum that the tensor scale follows from.
float QuantizeModel::Impl::write_tensor(const SafetensorsFile& file, SafetensorsWriter& writer, TensorReport& report) const {
  const Spec& spec = options.spec;
  Rows rows(file, file.tensors().at(report.name));
  const std::int64_t cols = report.cols, step = piece_rows(cols);
  const float maximum = tensor_max(rows, report.rows, cols);
  const std::string module = options.pack ? module_of(report.name) : "";
  std::vector<std::byte> values;
  std::vector<std::uint8_t> codes, scales;
  std::vector<float> maxima;
  std::uint64_t scales_at = 0;
  for (std::int64_t r = 0; r < report.rows; r += step) {
    const ConstView x = rows.read(r, std::min(step, report.rows - r));
    values.resize(static_cast<std::size_t>(x.rows * cols) * rows.size());
    // The values are made when packing too, for the figures.
    fake_quantize_piece(spec, maximum, x, {values.data(), x.type, x.rows, cols, cols, 1}, options.axis, r, &report.stats);
    if (!options.pack) {
      writer.write(report.name, static_cast<std::uint64_t>(r * cols) * rows.size(), values.data(), values.size());
      continue;
    }
    codes.resize(static_cast<std::size_t>(code_count(x.rows, cols)));
    scales.resize(static_cast<std::size_t>(scale_count(spec, x.rows, cols, options.axis)));
    maxima.resize(spec.scope == Scope::row ? static_cast<std::size_t>(x.rows) : 0);
    pack_piece(spec, maximum, x, options.axis, r, codes.data(), scales.data(), maxima.empty() ? nullptr : maxima.data());
    writer.write(module + tensor_names::packed, static_cast<std::uint64_t>(code_count(r, cols)), codes.data(), codes.size());
    writer.write(module + tensor_names::scale, scales_at, scales.data(), scales.size());
    scales_at += scales.size();
    if (!maxima.empty())
      writer.write(module + tensor_names::tensor_max, static_cast<std::uint64_t>(r) * sizeof(float), maxima.data(),
                   maxima.size() * sizeof(float));
  }
  if (options.pack && layout == Layout::compressed_tensors && spec.format == Format::nvfp4) {
    const float divisor = tensor_divisor(spec, maximum);
    writer.write(module + tensor_names::global_scale, 0, &divisor, sizeof divisor);
  } else if (options.pack && layout == Layout::assay && has_tensor_scale(spec.mode) && spec.scope != Scope::row) {
    writer.write(module + tensor_names::tensor_max, 0, &maximum, sizeof maximum);
  }
  return maximum;
}

namespace {

void copy_whole(const fs::path& from, const fs::path& to) {
  std::ifstream file(from, std::ios::binary);
  if (!file) fail(from, std::strerror(errno));
  support::AtomicFile out(to);
  std::string buffer(kCopyPiece, '\0');
  std::uint64_t at = 0;
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    const auto n = static_cast<std::size_t>(file.gcount());
    out.write(at, {buffer.data(), n});
    at += n;
  }
  if (file.bad()) fail(from, "cannot be read");
  out.commit();
}

// Removes the unfinished folder unless it has got its name.
struct Unfinished {
  fs::path path;
  bool finished = false;
  ~Unfinished() {
    std::error_code ignored;
    if (!finished) fs::remove_all(path, ignored);
  }
};

}  // namespace

void QuantizeModel::Impl::write_folder(const std::function<void(const TensorReport&)>& done) {
  Unfinished fresh{out.string() + ".tmp." + std::to_string(::getpid())};
  fs::create_directory(fresh.path);
  std::map<std::string, std::string> files_of;  // tensor → shard, as the index says it
  std::uint64_t total = 0;
  for (const auto& shard : model->shards()) {
    write_file(shard.file, fresh.path / shard.name, done);
    const SafetensorsFile written = SafetensorsFile::open(fresh.path / shard.name);
    for (const auto& [name, view] : written.tensors()) {
      files_of[name] = shard.name;
      total += view.bytes;
    }
  }
  const auto is_shard = [&](const fs::path& name) {
    return std::any_of(model->shards().begin(), model->shards().end(), [&](const auto& s) { return s.name == name; });
  };
  for (fs::recursive_directory_iterator at(in, fs::directory_options::follow_directory_symlink), end; at != end; ++at) {
    const fs::path relative = at->path().lexically_relative(in);
    if (at->is_directory()) {
      fs::create_directory(fresh.path / relative);
    } else if (options.pack && relative == "config.json") {
      Choices said = choices();
      config["quantization_config"] = quantization_config(said, ignored());
      support::write_file_atomically(fresh.path / relative, config.dump(2) + "\n");
    } else if (options.pack && relative == support::kIndexName && model->has_index()) {
      index["weight_map"] = files_of;
      index["metadata"]["total_size"] = total;
      support::write_file_atomically(fresh.path / relative, index.dump(2) + "\n");
    } else if (!is_shard(relative)) {
      copy_whole(at->path(), fresh.path / relative);
    }
  }
  fs::rename(fresh.path, out);
  fresh.finished = true;
  support::sync_folder(fs::absolute(out).lexically_normal().parent_path());
}

}  // namespace assay::quant
