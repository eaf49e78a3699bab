// TensorBoard's event files, written by hand: two framings and three kinds of field are all that they need.
#include <bit>
#include <boost/crc.hpp>
#include <cstring>

#include "reports/exports.h"

namespace assay::report {
namespace {

// ---- protocol buffers' wire format ---------------------------------------------------------------------------------
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void key(std::string& out, int field, Wire wire) { varint(out, static_cast<std::uint64_t>(field) << 3 | wire); }

void little_endian(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

void integer(std::string& out, int field, std::uint64_t value) {
  key(out, field, kVarint);
  varint(out, value);
}

void real64(std::string& out, int field, double value) {
  key(out, field, kFixed64);
  little_endian(out, std::bit_cast<std::uint64_t>(value), 8);
}

void real32(std::string& out, int field, float value) {
  key(out, field, kFixed32);
  little_endian(out, std::bit_cast<std::uint32_t>(value), 4);
}

void bytes(std::string& out, int field, const std::string& value) {
  key(out, field, kBytes);
  varint(out, value.size());
  out += value;
}

// ---- TFRecord --------------------------------------------------------------------------------------------------------
void record(std::string& file, const std::string& message) {
  std::string length;
  little_endian(length, message.size(), 8);
  file += length;
  little_endian(file, masked_crc32c(length), 4);
  file += message;
  little_endian(file, masked_crc32c(message), 4);
}

// ---- Event: wall_time 1, step 2, file_version 3, summary 5; Summary: value 1; Value: tag 1, simple_value 2, tensor 8,
// metadata 9
std::string event(double time, std::int64_t step) {
  std::string message;
  real64(message, 1, time);
  if (step != 0) integer(message, 2, static_cast<std::uint64_t>(step));
  return message;
}

std::string scalar(const std::string& tag, float value) {
  std::string message;
  bytes(message, 1, tag);
  real32(message, 2, value);
  return message;
}

// A string tensor of shape [1], with the text plugin's name beside it.
std::string text(const std::string& tag, const std::string& markdown) {
  std::string size, dimension, tensor, plugin, metadata, message;
  integer(size, 1, 1);                 // TensorShapeProto.Dim.size
  bytes(dimension, 2, size);           // TensorShapeProto.dim
  integer(tensor, 1, 7);               // TensorProto.dtype = DT_STRING
  bytes(tensor, 2, dimension);         // TensorProto.tensor_shape
  bytes(tensor, 8, markdown);          // TensorProto.string_val
  bytes(plugin, 1, "text");            // SummaryMetadata.PluginData.plugin_name
  bytes(metadata, 1, plugin);          // SummaryMetadata.plugin_data
  bytes(message, 1, tag);
  bytes(message, 8, tensor);
  bytes(message, 9, metadata);
  return message;
}

std::string configuration(const ExportedRun& run) {
  std::string table = "| key | value |\n|---|---|\n";
  for (const auto& [name, value] : run.config) {
    table += "| " + name + " | `";
    for (const char c : value) table += c == '|' ? std::string("\\|") : std::string(1, c);
    table += "` |\n";
  }
  return table;
}

}  // namespace

std::uint32_t masked_crc32c(const std::string& data) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> castagnoli;
  castagnoli.process_bytes(data.data(), data.size());
  const auto crc = static_cast<std::uint32_t>(castagnoli.checksum());
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

std::string export_tensorboard(const ExportedRun& run) {
  const double begin = run.started > 0 ? run.started : run.created;
  std::string file, first = event(begin, 0);
  bytes(first, 3, "brain.Event:2");
  record(file, first);

  std::string texts, summary = event(begin, 0);
  if (!run.hypothesis.empty()) bytes(texts, 1, text("hypothesis", run.hypothesis));
  bytes(texts, 1, text("configuration", configuration(run)));
  if (const std::string words = other_quant_words(run); !words.empty()) bytes(texts, 1, text("eval/accuracy measured otherwise", words));
  bytes(summary, 5, texts);
  record(file, summary);

  // An evaluation's accuracy, an event of its own behind those of its step.
  auto evaluation = run.evaluations.begin();
  double time = begin;
  const auto evaluations_before = [&](std::int64_t step) {
    for (; evaluation != run.evaluations.end() && evaluation->step < step; ++evaluation) {
      if (evaluation->problems <= 0) continue;
      std::string values, message = event(time, evaluation->step);
      const double accuracy = static_cast<double>(evaluation->correct) / static_cast<double>(evaluation->problems);
      bytes(values, 1, scalar("eval/accuracy", static_cast<float>(accuracy)));
      bytes(message, 5, values);
      record(file, message);
    }
  };
  for (std::size_t i = 0; i < run.points.size();) {
    const ExportedPoint& point = run.points[i];
    evaluations_before(point.step);
    if (point.time > 0) time = point.time;
    std::string values, message = event(time, point.step);
    for (; i < run.points.size() && run.points[i].step == point.step; ++i)
      bytes(values, 1, scalar(run.points[i].key, static_cast<float>(run.points[i].value)));
    bytes(message, 5, values);
    record(file, message);
  }
  evaluations_before(INT64_MAX);
  return file;
}

}  // namespace assay::report
