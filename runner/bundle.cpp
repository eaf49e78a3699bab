#include "runner/bundle.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "registry/journal.h"
#include "runner/errors.h"
#include "runner/ingest.h"
#include "runner/process.h"
#include "runner/records.h"
#include "runner/run_folder.h"
#include "support/files.h"
#include "support/lazy_library.h"
#include "support/strict_json.h"

// What is called of libarchive, which is loaded with the first bundle.
static assay::support::LazyLibrary& libarchive() {
  static assay::support::LazyLibrary library(ASSAY_LIBARCHIVE, "libarchive-dev");
  return library;
}
#define archive_entry_filetype ASSAY_LAZY(libarchive, archive_entry_filetype)
#define archive_entry_free ASSAY_LAZY(libarchive, archive_entry_free)
#define archive_entry_hardlink ASSAY_LAZY(libarchive, archive_entry_hardlink)
#define archive_entry_new ASSAY_LAZY(libarchive, archive_entry_new)
#define archive_entry_pathname ASSAY_LAZY(libarchive, archive_entry_pathname)
#define archive_entry_set_filetype ASSAY_LAZY(libarchive, archive_entry_set_filetype)
#define archive_entry_set_mtime ASSAY_LAZY(libarchive, archive_entry_set_mtime)
#define archive_entry_set_pathname ASSAY_LAZY(libarchive, archive_entry_set_pathname)
#define archive_entry_set_perm ASSAY_LAZY(libarchive, archive_entry_set_perm)
#define archive_entry_set_size ASSAY_LAZY(libarchive, archive_entry_set_size)
#define archive_entry_symlink ASSAY_LAZY(libarchive, archive_entry_symlink)
#define archive_error_string ASSAY_LAZY(libarchive, archive_error_string)
#define archive_free ASSAY_LAZY(libarchive, archive_free)
#define archive_read_data ASSAY_LAZY(libarchive, archive_read_data)
#define archive_read_new ASSAY_LAZY(libarchive, archive_read_new)
#define archive_read_next_header ASSAY_LAZY(libarchive, archive_read_next_header)
#define archive_read_open_filename ASSAY_LAZY(libarchive, archive_read_open_filename)
#define archive_read_support_filter_gzip ASSAY_LAZY(libarchive, archive_read_support_filter_gzip)
#define archive_read_support_filter_zstd ASSAY_LAZY(libarchive, archive_read_support_filter_zstd)
#define archive_read_support_format_tar ASSAY_LAZY(libarchive, archive_read_support_format_tar)
#define archive_write_add_filter_gzip ASSAY_LAZY(libarchive, archive_write_add_filter_gzip)
#define archive_write_add_filter_zstd ASSAY_LAZY(libarchive, archive_write_add_filter_zstd)
#define archive_write_close ASSAY_LAZY(libarchive, archive_write_close)
#define archive_write_data ASSAY_LAZY(libarchive, archive_write_data)
#define archive_write_header ASSAY_LAZY(libarchive, archive_write_header)
#define archive_write_new ASSAY_LAZY(libarchive, archive_write_new)
#define archive_write_open_filename ASSAY_LAZY(libarchive, archive_write_open_filename)
#define archive_write_set_filter_option ASSAY_LAZY(libarchive, archive_write_set_filter_option)
#define archive_write_set_format_pax_restricted ASSAY_LAZY(libarchive, archive_write_set_format_pax_restricted)

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;

constexpr int kVersion = 1;
constexpr const char* kManifest = "manifest.json";
constexpr std::uint64_t kLargestManifest = 256 << 20;
constexpr std::size_t kLongestPath = 1000;

bool is_id(const std::string& id) {
  const auto good = [](unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !id.empty() && id.size() <= 100 && good(static_cast<unsigned char>(id[0])) && std::all_of(id.begin(), id.end(), [&](unsigned char c) {
    return good(c) || c == '.' || c == '_' || c == '-';
  });
}

std::vector<std::string> parts(const std::string& path) {
  std::vector<std::string> all;
  for (std::size_t begin = 0, end; begin <= path.size(); begin = end + 1) {
    end = std::min(path.find('/', begin), path.size());
    all.push_back(path.substr(begin, end - begin));
  }
  return all;
}

// A member's path: relative, of real names, inside series/X/ or runs/X/Y/.
bool is_safe(const std::string& path) {
  if (path.size() > kLongestPath) return false;
  const std::vector<std::string> names = parts(path);
  for (const std::string& name : names) {
    if (name.empty() || name == "." || name == "..") return false;
    for (const unsigned char c : name)
      if (c < 0x20 || c == 0x7f || c == '\\') return false;
  }
  return (names[0] == "series" && names.size() >= 3) || (names[0] == "runs" && names.size() >= 4);
}

// The folder a member belongs to: "series/X" or "runs/X/Y".
std::string owner_of(const std::string& path) {
  const std::vector<std::string> names = parts(path);
  return names[0] == "series" ? names[0] + "/" + names[1] : names[0] + "/" + names[1] + "/" + names[2];
}

[[noreturn]] void refuse(const fs::path& file, const std::string& what) {
  throw UserError(kRefused, file.string() + ": " + what + "; nothing was imported, fetch the bundle again");
}

struct ArchiveFree {
  void operator()(archive* a) const { archive_free(a); }
};
using ArchivePtr = std::unique_ptr<archive, ArchiveFree>;
struct EntryFree {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
using EntryPtr = std::unique_ptr<archive_entry, EntryFree>;

struct ScratchFolder {
  explicit ScratchFolder(fs::path where) : folder(std::move(where)) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    fs::create_directories(folder);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
  fs::path folder;
};

void check_written(archive* out, long status, const fs::path& file) {
  if (status < ARCHIVE_OK) throw std::runtime_error(file.string() + ": " + (archive_error_string(out) ? archive_error_string(out) : "cannot be written"));
}

void write_header(archive* out, const std::string& path, std::uint64_t bytes, const fs::path& file) {
  const EntryPtr entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), path.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0644);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(bytes));
  archive_entry_set_mtime(entry.get(), 0, 0);  // the same runs give the same archive
  check_written(out, archive_write_header(out, entry.get()), file);
}

void write_data(archive* out, const char* data, std::size_t size, const fs::path& file) {
  while (size > 0) {
    const auto n = archive_write_data(out, data, size);
    check_written(out, n <= 0 ? ARCHIVE_FATAL : ARCHIVE_OK, file);
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

// Regular files below `folder`, as paths that begin with `name`.
void collect(const fs::path& folder, const std::string& name, bool checkpoints, std::map<std::string, fs::path>& found,
             std::vector<std::string>& left_out) {
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
    const std::string inside = entry->path().lexically_relative(folder).string();
    if (inside == "lock" || inside.find(".tmp.") != std::string::npos) continue;
    if (entry->path().filename() == "checkpoints" && !checkpoints) {  // also those of former attempts
      entry.disable_recursion_pending();
      continue;
    }
    if (entry->is_symlink() || (!entry->is_directory() && !entry->is_regular_file())) left_out.push_back(name + "/" + inside);
    else if (entry->is_regular_file()) found[name + "/" + inside] = entry->path();
  }
}

// Unpacks into `scratch` and checks; what comes back is right to the last byte.
Manifest unpack(const fs::path& file, const fs::path& scratch) {
  if (!fs::is_regular_file(file)) throw UserError(kRefused, file.string() + ": there is no such file; give a bundle made by `assay bundle create`");
  const ArchivePtr in(archive_read_new());
  archive_read_support_format_tar(in.get());
  archive_read_support_filter_zstd(in.get());
  archive_read_support_filter_gzip(in.get());
  const auto reason = [&] { return std::string(archive_error_string(in.get()) ? archive_error_string(in.get()) : "it cannot be read"); };
  if (archive_read_open_filename(in.get(), file.c_str(), 1 << 20) != ARCHIVE_OK) refuse(file, "is no tar.zst or tar.gz, or is cut short (" + reason() + ")");
  archive_entry* entry = nullptr;
  const auto next = [&] {
    const int status = archive_read_next_header(in.get(), &entry);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_OK) refuse(file, "is damaged or cut short (" + reason() + ")");
    return true;
  };
  const auto read_some = [&](std::string& buffer) {
    buffer.resize(1 << 18);
    const auto n = archive_read_data(in.get(), buffer.data(), buffer.size());
    if (n < 0) refuse(file, "is damaged or cut short (" + reason() + ")");
    buffer.resize(static_cast<std::size_t>(n));
    return n > 0;
  };
  const auto path_of = [&] {
    const char* path = archive_entry_pathname(entry);
    if (path == nullptr) refuse(file, "holds a member without a name");
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr || archive_entry_symlink(entry) != nullptr)
      refuse(file, std::string("holds ") + path + ", which is no plain file");
    return std::string(path);
  };
  if (!next() || path_of() != kManifest) refuse(file, "is no assay bundle: its first member is not manifest.json");
  std::string text, piece;
  while (read_some(piece)) {
    text += piece;
    if (text.size() > kLargestManifest) refuse(file, "has a manifest of more than 256 MiB");
  }
  Manifest manifest;
  try {
    manifest = parse_manifest(text);
  } catch (const std::runtime_error& error) {
    refuse(file, std::string("its manifest.json is not right: ") + error.what());
  }
  std::set<std::string> seen;
  while (next()) {
    const std::string path = path_of();
    const auto expected = manifest.files.find(path);
    if (expected == manifest.files.end()) refuse(file, "holds " + path + ", which its manifest does not name");
    if (!seen.insert(path).second) refuse(file, "holds " + path + " twice");
    const fs::path target = scratch / path;  // is_safe() has seen to it that this lies inside
    fs::create_directories(target.parent_path());
    std::ofstream out(target, std::ios::binary);
    std::uint64_t bytes = 0;
    while (read_some(piece)) {
      bytes += piece.size();
      if (bytes > expected->second.bytes) refuse(file, path + " is longer than its manifest says");
      out.write(piece.data(), static_cast<std::streamsize>(piece.size()));
    }
    out.close();
    if (!out) throw std::runtime_error(target.string() + ": " + std::strerror(errno));
    if (bytes != expected->second.bytes) refuse(file, path + " is shorter than its manifest says");
    if (support::sha256_file(target) != expected->second.sha256) refuse(file, path + " has not the SHA-256 that its manifest says");
  }
  if (seen.size() != manifest.files.size()) refuse(file, std::to_string(manifest.files.size() - seen.size()) + " files of its manifest are missing");
  return manifest;
}

// A run's folder in scratch, ready to be moved to where it will lie.
struct StagedRun {
  fs::path folder;
  registry::NewRun run;
  json document;                        // run.json
  std::vector<registry::StateLine> states;
  std::int64_t number_there = 0;
};

StagedRun stage(const fs::path& file, const fs::path& scratch, std::int64_t number, const std::string& path, const std::string& bundle_sha256) {
  StagedRun staged;
  staged.folder = scratch / path;
  staged.number_there = number;
  try {
    const auto text = [&](const char* name) { return support::read_file(staged.folder / name); };
    staged.document = support::parse_strict_json(text("run.json"));
    registry::NewRun& run = staged.run;
    run.series = staged.document.at("series").get<std::string>();
    run.run = staged.document.at("run").get<std::string>();
    run.seed = staged.document.at("seed").get<std::int64_t>();
    run.batch = staged.document.value("batch", "");
    if (!is_id(run.series) || !is_id(run.run) || run.series != parts(path)[1] || staged.document.at("number") != number)
      refuse(file, path + "/run.json is of another run");
    run.config_json = text("config.json");
    run.config_sha256 = text("config.sha256");
    run.config_sha256.erase(run.config_sha256.find_last_not_of('\n') + 1);
    if (support::sha256_hex(run.config_json) != run.config_sha256) refuse(file, path + "/config.json is not what was frozen");
    run.derived_json = text("derived.json");
    run.code_json = text("code.json");
    run.environment_json = text("environment.json");
    run.inputs_json = text("inputs.json");
    for (const std::string& document : {run.config_json, run.derived_json, run.code_json, run.environment_json, run.inputs_json})
      if (!support::parse_strict_json(document).is_object()) refuse(file, path + ": one of its frozen files is no JSON object");
    if (!staged.document.contains("origin"))
      staged.document["origin"] = {{"kind", "bundle"}, {"source", file.filename().string()}, {"sha256", bundle_sha256}, {"number", number}};
    json without_number = staged.document;
    without_number.erase("number");
    run.run_json = without_number.dump(-1, ' ', false, json::error_handler_t::replace);
    int bad = 0;
    staged.states = registry::read_states(staged.folder, bad);
    if (bad > 0 || staged.states.empty() || !registry::is_final(staged.states.back().state.kind))
      refuse(file, path + "/states.jsonl does not say how the run ended");
  } catch (const json::exception& error) {
    refuse(file, path + ": " + error.what());
  } catch (const UserError&) {
    throw;
  } catch (const std::runtime_error& error) {
    refuse(file, error.what());
  }
  return staged;
}

// The run that is here already, if it is: made by the same command (the batch has a random part), of the same id and seed.
std::int64_t already_here(const Registry& registry, const registry::NewRun& run) {
  Registry::RunFilter filter;
  filter.series = run.series;
  filter.run = run.run;
  filter.seed = run.seed;
  filter.batch = run.batch;
  if (run.batch.empty()) return 0;
  for (const registry::RunRow& row : registry.runs(filter))
    if (row.config_sha256 == run.config_sha256) return row.number;
  return 0;
}

void take_series(const Paths& paths, Registry& registry, const fs::path& staged, const std::string& id, std::vector<fs::path>& made) {
  const fs::path folder = paths.series() / id;
  const fs::path document = staged / "series.json";
  if (!registry.series(id)) {
    std::string text = support::read_file(document);
    text.erase(text.find_last_not_of('\n') + 1);
    const json object = support::parse_strict_json(text);
    if (object.value("id", "") != id) throw UserError(kRefused, "series/" + id + "/series.json is of another series; nothing was imported");
    if (!fs::exists(folder)) {
      fs::create_directories(folder.parent_path());
      fs::copy(staged, folder, fs::copy_options::recursive);
      made.push_back(folder);
    }
    registry.put_series({id, object.value("title", ""), object.value("goal", ""), text});
  } else if (fs::exists(staged / "records.jsonl")) {
    // The series is known here: what was said of it there is added to what was said here, each line once.
    std::set<std::string> have;
    const auto lines = [](const fs::path& file) {
      std::vector<std::string> all;
      std::ifstream in(file, std::ios::binary);
      for (std::string line; std::getline(in, line);)
        if (!line.empty() && !in.eof()) all.push_back(line);
      return all;
    };
    for (const std::string& line : lines(folder / "records.jsonl")) have.insert(line);
    support::LineWriter writer(folder / "records.jsonl");
    for (const std::string& line : lines(staged / "records.jsonl"))
      if (have.insert(line).second) writer.write(line);
    writer.sync();
  }
  take_records(registry, folder, id, 0);
}

}  // namespace

Manifest parse_manifest(std::string_view text) {
  const json document = support::parse_strict_json(text);
  try {
    if (!document.is_object() || document.value("format", "") != "assay-bundle") throw std::runtime_error("\"format\" is not \"assay-bundle\"");
    const auto version = document.at("version").get<std::int64_t>();
    if (version != kVersion)
      throw std::runtime_error("version " + std::to_string(version) + " is not known; this assay knows version " + std::to_string(kVersion));
    Manifest manifest;
    manifest.created = document.value("created", "");
    std::set<std::string> owners;
    for (const json& id : document.at("series")) {
      manifest.series.push_back(id.get<std::string>());
      if (!is_id(manifest.series.back())) throw std::runtime_error("a series has an id that is none");
      if (!owners.insert("series/" + manifest.series.back()).second) throw std::runtime_error("a series is named twice");
    }
    for (const json& run : document.at("runs")) {
      manifest.runs.emplace_back(run.at("number").get<std::int64_t>(), run.at("folder").get<std::string>());
      const std::string& folder = manifest.runs.back().second;
      if (!is_safe(folder + "/x") || parts(folder).size() != 3 || !is_id(parts(folder)[1])) throw std::runtime_error("a run's folder is none");
      if (owners.count("series/" + parts(folder)[1]) == 0) throw std::runtime_error("a run is of a series that is not named");
      if (!owners.insert(folder).second) throw std::runtime_error("a run is named twice");
    }
    for (const json& file : document.at("files")) {
      const std::string path = file.at("path").get<std::string>();
      if (!is_safe(path)) throw std::runtime_error("the path '" + path.substr(0, 200) + "' is none that a bundle may hold");
      if (owners.count(owner_of(path)) == 0) throw std::runtime_error(path + " belongs to no series or run that is named");
      BundleFile entry{file.at("bytes").get<std::uint64_t>(), file.at("sha256").get<std::string>()};
      if (!file.at("bytes").is_number_unsigned() || entry.sha256.size() != 64) throw std::runtime_error(path + ": its size or SHA-256 is none");
      if (!manifest.files.emplace(path, std::move(entry)).second) throw std::runtime_error(path + " is named twice");
    }
    // A file where another path needs a folder.
    for (auto file = manifest.files.begin(); file != manifest.files.end(); ++file) {
      const auto after = manifest.files.lower_bound(file->first + "/");
      if (after != manifest.files.end() && after->first.rfind(file->first + "/", 0) == 0) throw std::runtime_error(file->first + " is a file and a folder");
    }
    return manifest;
  } catch (const json::exception& error) {
    throw std::runtime_error(error.what());
  }
}

BundleMade create_bundle(const Paths& paths, const std::vector<registry::RunRow>& runs, const fs::path& file, bool checkpoints) {
  const std::string name = file.filename().string();
  const bool zstd = name.ends_with(".tar.zst"), gzip = name.ends_with(".tar.gz") || name.ends_with(".tgz");
  if (!zstd && !gzip) throw UserError(kUsage, file.string() + ": the name decides the compression; let it end in .tar.zst or .tar.gz");
  if (fs::exists(file)) throw UserError(kRefused, file.string() + ": is there already; give another name, or move it away");
  BundleMade made;
  std::map<std::string, fs::path> files;
  json manifest = {{"format", "assay-bundle"}, {"version", kVersion}, {"created", iso_time(unix_now())}, {"series", json::array()}, {"runs", json::array()}, {"files", json::array()}};
  std::set<std::string> series;
  for (const registry::RunRow& row : runs) {
    if (!registry::is_final(row.state.kind))
      throw UserError(kRefused, "bundle: run " + std::to_string(row.number) + " is " + registry::name(row.state.kind) + "; type `assay wait " + std::to_string(row.number) + "` first");
    const std::string folder = "runs/" + row.series + "/" + fs::path(row.folder).filename().string();
    collect(row.folder, folder, checkpoints, files, made.left_out);
    manifest["runs"].push_back({{"number", row.number}, {"folder", folder}});
    series.insert(row.series);
  }
  for (const std::string& id : series) {
    manifest["series"].push_back(id);
    collect(paths.series() / id, "series/" + id, checkpoints, files, made.left_out);
  }
  for (const auto& [path, from] : files)
    manifest["files"].push_back({{"path", path}, {"bytes", static_cast<std::uint64_t>(fs::file_size(from))}, {"sha256", support::sha256_file(from)}});
  const std::string head = manifest.dump(1) + "\n";
  parse_manifest(head);  // what import would refuse is not written

  const fs::path temporary = file.string() + ".tmp." + std::to_string(::getpid());
  try {
    const ArchivePtr out(archive_write_new());
    archive_write_set_format_pax_restricted(out.get());
    check_written(out.get(), zstd ? archive_write_add_filter_zstd(out.get()) : archive_write_add_filter_gzip(out.get()), file);
    if (gzip) archive_write_set_filter_option(out.get(), "gzip", "timestamp", nullptr);
    check_written(out.get(), archive_write_open_filename(out.get(), temporary.c_str()), file);
    write_header(out.get(), kManifest, head.size(), file);
    write_data(out.get(), head.data(), head.size(), file);
    std::string buffer(1 << 18, '\0');
    for (const json& entry : manifest["files"]) {
      const std::string path = entry.at("path").get<std::string>();
      auto left = entry.at("bytes").get<std::uint64_t>();
      write_header(out.get(), path, left, file);
      std::ifstream in(files.at(path), std::ios::binary);
      while (left > 0 && in) {
        in.read(buffer.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(left, buffer.size())));
        write_data(out.get(), buffer.data(), static_cast<std::size_t>(in.gcount()), file);
        left -= static_cast<std::uint64_t>(in.gcount());
      }
      if (left > 0) throw std::runtime_error(files.at(path).string() + ": became shorter while it was read");
    }
    check_written(out.get(), archive_write_close(out.get()), file);
    const Fd fd(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
    fs::rename(temporary, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  made.runs = runs.size();
  made.files = files.size();
  made.bytes = fs::file_size(file);
  return made;
}

BundleTaken import_bundle(const Paths& paths, const fs::path& file, bool only_check) {
  for (const fs::path& folder : {paths.data, paths.runs(), paths.series()}) make_folder(folder);
  const ScratchFolder scratch(paths.data / (".import." + std::to_string(::getpid())));
  const Manifest manifest = unpack(file, scratch.folder);
  const std::string sum = support::sha256_file(file);
  std::vector<StagedRun> staged;
  for (const auto& [number, path] : manifest.runs) staged.push_back(stage(file, scratch.folder, number, path, sum));
  BundleTaken taken;
  taken.files = manifest.files.size();
  if (only_check) return taken;

  Registry registry = Registry::open(paths.registry(), Registry::Access::read_write);
  std::vector<fs::path> made;
  try {
    registry.batch([&] {
      for (const std::string& id : manifest.series) take_series(paths, registry, scratch.folder / "series" / id, id, made);
      for (StagedRun& run : staged) {
        if (const std::int64_t number = already_here(registry, run.run); number != 0) {
          taken.present.emplace_back(run.number_there, number);
          continue;
        }
        const std::int64_t number = registry.add_runs({run.run}, [&](std::int64_t given, const registry::NewRun& added) {
          const fs::path target = paths.runs() / added.series / run_folder_name(given, added.run, added.seed);
          if (fs::exists(target)) throw std::runtime_error(target.string() + ": is there already though the registry gives its number out now");
          run.document["number"] = given;
          support::write_file_atomically(run.folder / "run.json", run.document.dump(2) + "\n");
          for (const char* name : {"run.json", "config.json", "config.sha256", "derived.json", "code.json", "environment.json", "inputs.json"})
            ::chmod((run.folder / name).c_str(), 0444);
          // The states are written anew below, by the registry; these stay to be looked at.
          fs::rename(run.folder / "states.jsonl", run.folder / "states-original.jsonl");
          fs::create_directories(target.parent_path());
          fs::rename(run.folder, target);
          made.push_back(target);
          return target.string();
        }).front();
        registry::StateKind now = registry::StateKind::queued;
        for (const registry::StateLine& line : run.states) {
          if (&line == &run.states.front() || line.edit()) continue;  // queued, which it is; what concerned that machine's queue
          if (!registry.transition(number, now, line.state, line.time)) throw std::logic_error("the states of a bundle do not follow each other");
          now = line.state.kind;
        }
        const json train = json::parse(run.run.config_json).value("train", json::object());
        Ingest(registry, number, made.back(), train.value("steps", std::int64_t{-1})).finish();
        take_records(registry, made.back(), run.run.series, number);
        taken.added.emplace_back(run.number_there, number);
      }
    });
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& folder : made) fs::remove_all(folder, ignored);
    throw;
  }
  support::sync_folder(paths.runs());
  return taken;
}

}  // namespace assay::runner
