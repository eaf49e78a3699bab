// What ingest writes and reports read, but for metrics: progress, evaluations, events, documents, offsets.
#include <array>
#include <stdexcept>

#include "registry/connection.h"

namespace assay::registry {
namespace {

// Codes on disk, frozen: the position in this list.
constexpr std::array<const char*, 4> kOutcomes = {"correct", "wrong", "unparsable", "scorer_error"};

int outcome_code(const std::string& word) {
  for (std::size_t i = 0; i < kOutcomes.size(); ++i)
    if (word == kOutcomes[i]) return static_cast<int>(i);
  throw std::invalid_argument("an evaluation has the outcome '" + word +
                              "'; known are correct, wrong, unparsable and scorer_error");
}

}  // namespace

Progress Registry::progress(std::int64_t run) const {
  return impl_->read([&] {
    Progress progress;
    Use use(impl_->statement("SELECT step, total_steps, score, accuracy, last_time FROM progress WHERE run = ?1"));
    if (use.bind(run).step())
      progress = {use.integer(0), use.integer(1), use.real_or_null(2), use.real_or_null(3), use.real(4)};
    return progress;
  });
}

void Registry::put_evaluation(std::int64_t run, const Evaluation& evaluation) {
  impl_->write([&] {
    std::int64_t id = 0;
    {
      Use use(impl_->statement(
          "INSERT INTO evaluations(run, step, quant, trained_quant, problems, correct, format_right, "
          "arithmetic_right, data_sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) "
          "ON CONFLICT(run, step, quant) DO UPDATE SET trained_quant = excluded.trained_quant, "
          "problems = excluded.problems, correct = excluded.correct, format_right = excluded.format_right, "
          "arithmetic_right = excluded.arithmetic_right, data_sha256 = excluded.data_sha256 RETURNING id"));
      use.bind(run, evaluation.step, evaluation.quant, evaluation.trained_quant, evaluation.problems,
               evaluation.correct, evaluation.format_right, evaluation.arithmetic_right, evaluation.data_sha256);
      use.step();
      id = use.integer(0);
    }
    {
      Use use(impl_->statement("DELETE FROM outcomes WHERE evaluation = ?1"));
      use.bind(id).run();
    }
    for (const Outcome& outcome : evaluation.outcomes) {
      Use use(impl_->statement("INSERT INTO outcomes(evaluation, problem, outcome, correct, format_right, "
                               "arithmetic_right) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"));
      use.bind(id, outcome.index, outcome_code(outcome.outcome), outcome.correct, outcome.format_right,
               outcome.arithmetic_right).run();
    }
  });
}

std::vector<Evaluation> Registry::evaluations(std::int64_t run, bool with_outcomes) const {
  return impl_->read([&] {
    std::vector<Evaluation> rows;
    Use use(impl_->statement("SELECT id, step, problems, correct, format_right, arithmetic_right, quant, "
                             "trained_quant, data_sha256 FROM evaluations WHERE run = ?1 ORDER BY step, quant"));
    use.bind(run);
    while (use.step()) {
      Evaluation row{use.integer(1), use.integer(2), use.integer(3), use.integer(4), use.integer(5),
                     use.text(6),    use.text(7),    use.text(8),    {}};
      if (with_outcomes) {
        Use problems(impl_->statement("SELECT problem, outcome, correct, format_right, arithmetic_right FROM outcomes "
                                      "WHERE evaluation = ?1 ORDER BY problem"));
        problems.bind(use.integer(0));
        while (problems.step())
          row.outcomes.push_back({problems.integer(0), kOutcomes.at(static_cast<std::size_t>(problems.integer(1))),
                                  problems.integer(2) != 0, problems.integer(3) != 0, problems.integer(4) != 0});
      }
      rows.push_back(std::move(row));
    }
    return rows;
  });
}

void Registry::put_event(const Event& event) {
  impl_->write_row([&] {
    Use use(impl_->statement("INSERT INTO events(run, time, step, kind, message, data) "
                             "VALUES (nullif(?1, 0), ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"));
    use.bind(event.run, event.time, event.step, event.kind, event.message, event.data_json).run();
  });
}

std::vector<Event> Registry::events(std::int64_t run) const {
  return impl_->read([&] {
    std::vector<Event> rows;
    Use use(impl_->statement("SELECT ifnull(run, 0), time, step, kind, message, data FROM events "
                             "WHERE ifnull(run, 0) = ?1 ORDER BY time, id"));
    use.bind(run);
    while (use.step())
      rows.push_back({use.integer(0), use.real(1), use.integer(2), use.text(3), use.text(4), use.text(5)});
    return rows;
  });
}

void Registry::put_document(std::int64_t run, const std::string& kind, const std::string& json) {
  impl_->write([&] {
    Use use(impl_->statement("INSERT INTO documents(run, kind, json) VALUES (?1, ?2, ?3) "
                             "ON CONFLICT DO UPDATE SET json = excluded.json"));
    use.bind(run, kind, json).run();
  });
}

std::optional<std::string> Registry::document(std::int64_t run, const std::string& kind) const {
  return impl_->read([&]() -> std::optional<std::string> {
    Use use(impl_->statement("SELECT json FROM documents WHERE run = ?1 AND kind = ?2"));
    if (!use.bind(run, kind).step()) return std::nullopt;
    return use.text(0);
  });
}

std::int64_t Registry::ingested_bytes(std::int64_t run, const std::string& file) const {
  return impl_->read([&] {
    Use use(impl_->statement("SELECT bytes FROM ingested WHERE run = ?1 AND file = ?2"));
    return use.bind(run, file).step() ? use.integer(0) : std::int64_t{0};
  });
}

void Registry::set_ingested_bytes(std::int64_t run, const std::string& file, std::int64_t bytes) {
  impl_->write_row([&] {
    Use use(impl_->statement("INSERT INTO ingested(run, file, bytes) VALUES (?1, ?2, ?3) "
                             "ON CONFLICT DO UPDATE SET bytes = excluded.bytes"));
    use.bind(run, file, bytes).run();
  });
}

}  // namespace assay::registry
