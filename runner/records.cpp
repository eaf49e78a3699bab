#include "runner/records.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/view.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Record;
using registry::Registry;

constexpr std::size_t kLongestSubject = 200;
constexpr const char* kFile = "records.jsonl";

std::string user_name() {
  const passwd* entry = ::getpwuid(::getuid());
  return entry != nullptr ? entry->pw_name : "user " + std::to_string(::getuid());
}

fs::path folder_of(const Paths& paths, const Registry& registry, const Record& record) {
  if (record.run != 0) {
    const auto row = registry.run(record.run);
    if (!row) throw std::invalid_argument("run " + std::to_string(record.run) + ": there is none of that number");
    return row->folder;
  }
  if (!registry.series(record.series)) throw std::invalid_argument("series " + record.series + ": there is none of that id");
  return paths.series() / record.series;
}

// What stands in the file: whose folder it is says the rest.
std::string line_of(const Record& record) {
  json object = {{"time", record.time}, {"author", record.author}, {"source", record.source}, {"kind", record.kind},
                 {"text", record.text}};
  if (record.run == 0 && !record.run_id.empty()) object["run_id"] = record.run_id;
  if (!record.subject.empty()) object["subject"] = record.subject;
  if (record.withdrawn) object["withdrawn"] = true;
  if (const json data = json::parse(record.data_json); !data.empty()) object["data"] = data;
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

Record record_of_line(const json& object, const std::string& series, std::int64_t run) {
  Record record;
  record.series = series;
  record.run = run;
  if (run == 0) record.run_id = object.value("run_id", "");
  record.time = object.at("time").get<double>();
  record.author = object.value("author", "");
  record.source = object.value("source", "");
  record.kind = object.at("kind").get<std::string>();
  record.text = object.value("text", "");
  record.subject = object.value("subject", "");
  record.withdrawn = object.value("withdrawn", false);
  record.data_json = object.value("data", json::object()).dump();
  if (!registry::is_record_kind(record.kind)) throw std::invalid_argument("kind");
  return record;
}

bool ends_in_newline(const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in || in.tellg() == std::streampos(0)) return true;
  in.seekg(-1, std::ios::end);
  return in.get() == '\n';
}

void check(const Record& record) {
  const std::string what = record.kind + " of " + (record.run != 0 ? "run " + std::to_string(record.run) : record.series);
  if (!registry::is_record_kind(record.kind)) throw std::invalid_argument("there is no kind of record '" + record.kind + "'");
  if (record.text.size() > kLongestRecord)
    throw std::invalid_argument(what + ": the text is longer than 64 KiB; put it into a file and note its name");
  if (record.subject.size() > kLongestSubject || record.run_id.size() > kLongestSubject)
    throw std::invalid_argument(what + ": the name is longer than 200 bytes");
  if (!json::parse(record.data_json, nullptr, false).is_object()) throw std::invalid_argument(what + ": data is no object");
}

}  // namespace

json to_json(const Record& record) {
  return {{"series", record.series}, {"run", record.run},         {"run_id", record.run_id},
          {"kind", record.kind},     {"subject", record.subject}, {"version", record.version},
          {"newest", record.newest}, {"withdrawn", record.withdrawn}, {"time", record.time},
          {"author", record.author}, {"source", record.source},   {"text", record.text},
          {"data", json::parse(record.data_json)}};
}

Record record_from_json(const json& object) {
  Record record;
  record.series = object.at("series").get<std::string>();
  record.run = object.at("run").get<std::int64_t>();
  record.run_id = object.at("run_id").get<std::string>();
  record.kind = object.at("kind").get<std::string>();
  record.subject = object.at("subject").get<std::string>();
  record.version = object.value("version", std::int64_t{0});
  record.newest = object.value("newest", false);
  record.withdrawn = object.at("withdrawn").get<bool>();
  record.time = object.at("time").get<double>();
  record.author = object.at("author").get<std::string>();
  record.source = object.at("source").get<std::string>();
  record.text = object.at("text").get<std::string>();
  record.data_json = object.at("data").dump();
  return record;
}

std::vector<Record> append_records(const Paths& paths, Registry& registry, std::vector<Record> records) {
  std::vector<fs::path> folders;
  for (const Record& record : records) {
    check(record);
    folders.push_back(folder_of(paths, registry, record));
  }
  std::vector<Record> written;
  registry.batch([&] {
    for (std::size_t i = 0; i < records.size(); ++i) {
      const Record& record = records[i];
      const fs::path file = folders[i] / kFile;
      take_records(registry, folders[i], record.series, record.run);
      const bool fresh = !fs::exists(file);
      std::int64_t line_end = 0;
      {
        support::LineWriter writer(file);
        // What a power failure tore stays apart from what is written now.
        writer.write((ends_in_newline(file) ? "" : "\n") + line_of(record));
        writer.sync();
        line_end = static_cast<std::int64_t>(fs::file_size(file));
      }
      if (fresh) support::sync_folder(folders[i]);
      written.push_back(registry.put_record(record, line_end).value());
    }
  });
  return written;
}

int take_records(Registry& registry, const fs::path& folder, const std::string& series, std::int64_t run) {
  const fs::path file = folder / kFile;
  std::error_code missing;
  const auto size = fs::file_size(file, missing);
  if (missing) return 0;
  int bad = 0;
  std::string owner = series;
  if (run != 0)
    if (const auto row = registry.run(run)) owner = row->series;
  if (static_cast<std::uintmax_t>(registry.recorded_bytes(owner, run)) == size) return 0;
  registry.batch([&] {
    const auto begin = static_cast<std::size_t>(registry.recorded_bytes(owner, run));
    const std::string text = support::read_file(file);
    for (std::size_t at = begin, end; at < text.size() && (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
      if (end == at) continue;
      try {
        registry.put_record(record_of_line(json::parse(text.substr(at, end - at)), owner, run),
                            static_cast<std::int64_t>(end) + 1);
      } catch (const json::exception&) {
        ++bad;
      } catch (const std::invalid_argument&) {
        ++bad;
      }
    }
  });
  return bad;
}

void record_series_file(const Paths& paths, Registry& registry, const registry::SeriesRow& series, double now) {
  const json document = json::parse(series.json);
  const std::vector<Record> known = registry.records_of_series(series.id);
  std::vector<Record> fresh;
  const auto say = [&](const std::string& kind, const std::string& run_id, const std::string& subject,
                       const std::string& text, const json& data, bool stands) {
    const Record* last = nullptr;  // what the file said last; words from elsewhere stay what they are
    for (const Record& record : known)
      if (record.run == 0 && record.source == "series file" && record.kind == kind && record.run_id == run_id &&
          record.subject == subject)
        last = &record;
    const bool stood = last != nullptr && !last->withdrawn;
    if (!stands && !stood) return;
    if (stands && stood && last->text == text && json::parse(last->data_json) == data) return;
    Record record;
    record.series = series.id;
    record.run_id = run_id;
    record.kind = kind;
    record.subject = subject;
    record.text = text;
    record.data_json = data.dump();
    record.withdrawn = !stands;
    record.time = now;
    record.author = user_name();
    record.source = "series file";
    fresh.push_back(std::move(record));
  };
  for (const json& run : document.value("runs", json::array()))
    for (const char* kind : {"hypothesis", "verdict", "conclusion"}) {
      const std::string text = run.value(kind, "");
      say(kind, run.value("id", ""), "", text, json::object(), !text.empty());
    }
  std::vector<std::string> causes;
  for (const json& cause : document.value("causes", json::array())) {
    const std::string name = cause.value("name", "");
    causes.push_back(name);
    say("cause", "", name, cause.value("note", ""),
        {{"run", cause.value("run", "")}, {"against", cause.value("against", "")}}, true);
  }
  for (const Record& record : known)
    if (record.kind == "cause" && record.run == 0 && std::find(causes.begin(), causes.end(), record.subject) == causes.end())
      say("cause", "", record.subject, "", json::object(), false), causes.push_back(record.subject);
  if (!fresh.empty()) append_records(paths, registry, std::move(fresh));
}

Record record_about(const Registry& registry, const std::string& word, bool any_seed) {
  Record record;
  if (!any_seed && !as_number(word) && registry.series(word)) {
    record.series = word;
  } else {
    const registry::RunRow row = select_one(registry, word);
    record.series = row.series;
    record.run_id = row.run;
    if (!any_seed) record.run = row.number;
  }
  record.time = unix_now();
  record.author = user_name();
  record.source = "command";
  return record;
}

std::vector<Record> send_records(const Paths& paths, const std::vector<Record>& records) {
  json array = json::array();
  for (const Record& record : records) array.push_back(to_json(record));
  const json reply = Client::connect(paths).request("record", {{"records", array}});
  std::vector<Record> written;
  for (const json& record : reply.at("records")) written.push_back(record_from_json(record));
  return written;
}

std::string about(const Registry& registry, const Record& record) {
  if (record.run == 0) return record.run_id.empty() ? "series " + record.series : record.series + "/" + record.run_id;
  const auto row = registry.run(record.run);
  return "run " + std::to_string(record.run) + (row ? " " + label(*row) : "");
}

std::string records_text(const Registry& registry, const std::vector<Record>& records, bool all) {
  std::vector<std::vector<std::string>> rows;
  for (const Record& record : records) {
    if (!all && (!record.newest || record.withdrawn)) continue;
    std::string what = record.kind;
    if (!record.subject.empty()) what += " " + record.subject;
    if (record.version > 1) what += " (version " + std::to_string(record.version) + ")";
    std::string text = record.text;
    if (const json data = json::parse(record.data_json); record.kind == "cause" && data.contains("run")) {
      text = data.value("run", "") + " against " + data.value("against", "") +
             (data.contains("status") ? ": " + data.value("status", "") : "") + (text.empty() ? "" : "; " + text);
    }
    if (record.withdrawn) text = "(taken back)" + (text.empty() ? "" : " " + text);
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    rows.push_back({iso_time(record.time), record.author, about(registry, record), what, text});
  }
  if (rows.empty()) return "no records\n";
  rows.insert(rows.begin(), {"time", "by", "about", "what", "text"});
  return text_table(rows);
}

}  // namespace assay::runner
