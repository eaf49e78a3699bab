// Runs for other programs. What TensorBoard and MLflow themselves read: tests/parity/reports/exports_parity.py.
#include "reports/exports.h"

#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "catch.h"

using namespace assay::report;
using nlohmann::json;

namespace {

ExportedRun example() {
  ExportedRun run;
  run.number = 17;
  run.seed = 2;
  run.series = "e13";
  run.id = "g, \"quoted\"";
  run.title = "line one\nline two";
  run.state = "succeeded";
  run.config_sha256 = "abc";
  run.folder = "/runs/e13/17";
  run.created = 100;
  run.started = 101.5;
  run.config = {{"quant.format", "\"nvfp4\""}, {"train.steps", "20"}};
  run.points = {{0, 102, "val-core/acc", 0.25},
                {1, 103, "loss", std::numeric_limits<double>::quiet_NaN()},
                {1, 103, "score", std::numeric_limits<double>::infinity()}};
  run.evaluations = {{0, 2, 1, 2, 2, "none", "nvfp4", "d", {{0, "correct"}, {1, "wrong"}}}, {5, 2, 2, 2, 2, "none", "nvfp4", "d", {}}};
  return run;
}

// One record of a TFRecord file, its checksums seen to.
std::string next_record(const std::string& file, std::size_t& at) {
  const auto number = [&](std::size_t from, int bytes) {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= static_cast<std::uint64_t>(static_cast<unsigned char>(file.at(from + static_cast<std::size_t>(i)))) << (8 * i);
    return value;
  };
  const std::uint64_t size = number(at, 8);
  CHECK(number(at + 8, 4) == masked_crc32c(file.substr(at, 8)));
  const std::string message = file.substr(at + 12, size);
  REQUIRE(message.size() == size);
  CHECK(number(at + 12 + size, 4) == masked_crc32c(message));
  at += 16 + size;
  return message;
}

}  // namespace

TEST_CASE("the masked checksum is TFRecord's") {
  // CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4, and every catalogue of CRCs); the rest is the mask.
  const std::uint32_t crc = 0xE3069283U;
  CHECK(masked_crc32c("123456789") == (crc >> 15 | crc << 17) + 0xa282ead8U);
  // 32 bytes of zero: 0x8a9136aa (RFC 3720).
  const std::uint32_t zeros = 0x8a9136aaU;
  CHECK(masked_crc32c(std::string(32, '\0')) == (zeros >> 15 | zeros << 17) + 0xa282ead8U);
}

TEST_CASE("a TensorBoard file is whole records: version, texts, one event a step and one an evaluation") {
  const std::string file = export_tensorboard(example());
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) records.push_back(next_record(file, at));
  REQUIRE(records.size() == 6);
  CHECK(records[0].find("brain.Event:2") != std::string::npos);
  CHECK(records[1].find("configuration") != std::string::npos);
  CHECK(records[1].find("quant.format") != std::string::npos);
  CHECK(records[2].find("val-core/acc") != std::string::npos);
  CHECK(records[3].find("eval/accuracy") != std::string::npos);
  CHECK(records[4].find("score") != std::string::npos);
  CHECK(records[5].find("eval/accuracy") != std::string::npos);
  CHECK(export_tensorboard(example()) == file);
}

TEST_CASE("CSV: every value is there, quoted as RFC 4180 says, NaN and infinities by their words") {
  CHECK(export_metrics_csv({example()}) ==
        "run,series,id,seed,step,time,metric,value\n"
        "17,e13,\"g, \"\"quoted\"\"\",2,0,102,val-core/acc,0.25\n"
        "17,e13,\"g, \"\"quoted\"\"\",2,1,103,loss,nan\n"
        "17,e13,\"g, \"\"quoted\"\"\",2,1,103,score,inf\n");
  CHECK(export_evaluations_csv({example()}).find("17,e13,\"g, \"\"quoted\"\"\",2,5,2,2,2,2,none,nvfp4,d\n") != std::string::npos);
  CHECK(export_outcomes_csv({example()}).find(",0,1,wrong\n") != std::string::npos);
  ExportedRun other = example();
  other.config = {{"data.seed", "7"}};
  const std::string runs = export_runs_csv({example(), other});
  CHECK(runs.substr(0, runs.find('\n')).ends_with("folder,data.seed,quant.format,train.steps"));
  CHECK(runs.find(",-,nvfp4,20\n") != std::string::npos);
  CHECK(runs.find(",7,-,-\n") != std::string::npos);
  CHECK(runs.find("\"line one\nline two\"") != std::string::npos);
}

TEST_CASE("JSON and JSON lines: everything of a run, and a line is a run") {
  const json all = json::parse(export_json({example(), example()}));
  REQUIRE(all.size() == 2);
  CHECK(all[0]["config"]["quant.format"] == "nvfp4");
  CHECK(all[0]["config"]["train.steps"] == 20);
  CHECK(all[0]["metrics"][1]["metrics"]["loss"] == "nan");
  CHECK(all[0]["evaluations"][0]["outcomes"] == json{"correct", "wrong"});
  CHECK(all[0]["ended"].is_null());
  const std::string lines = export_jsonl({example(), example()});
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 2);
  CHECK(json::parse(lines.substr(0, lines.find('\n'))) == all[0]);
  ExportedRun hostile = example();
  hostile.title = "\xff\xfe not UTF-8";
  CHECK_NOTHROW(json::parse(export_json({hostile})));
}
