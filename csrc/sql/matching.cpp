#include "sql/matching.h"

#include <bit>
#include <memory>
#include <new>
#include <utility>

#include "sql/comparand_sink.h"

namespace finestep {
namespace {

constexpr auto kNotUtf8 = "the result holds text that is not valid UTF-8";

void append(std::string& key, std::uint64_t number) {
  key.push_back(' ');
  key += std::to_string(number);
}

// The report of a query whose rows were taken for comparison: a truncated result, or text that
// is not UTF-8 where only that is allowed, is a failure.
QueryReport as_whole(QueryReport report, const ComparandSink& sink, bool utf8_only) {
  if (report.status != QueryStatus::ok) {
    return report;
  }
  if (report.truncated) {
    report.status = QueryStatus::too_large;
    report.message =
        "the result exceeds the limits after " + std::to_string(sink.num_rows()) + " rows";
  } else if (utf8_only && sink.invalid_utf8()) {
    report.status = QueryStatus::error;
    report.message = kNotUtf8;
  }
  return report;
}

void fail_for_memory(QueryReport& report) {
  report.status = QueryStatus::too_large;
  report.message = "out of memory";
  report.out_of_memory = true;
}

// Whether a query would end in this way again: neither load nor chance nor a writer played a part.
bool is_lasting(const QueryReport& report) {
  const bool is_same_each_time = report.status == QueryStatus::ok ||
                                 report.status == QueryStatus::error ||
                                 report.status == QueryStatus::denied;
  return is_same_each_time && !report.is_volatile && !report.is_passing && !report.cancelled;
}

}  // namespace

GoldKey gold_key(const Database& database, const std::string& sql,
                 const ComparisonSettings& comparison, const MatchSettings& settings) {
  std::string key = database.identity.key + sql;
  key.push_back('\0');
  append(key, static_cast<std::uint64_t>(comparison.semantics));
  append(key, comparison.ordered ? 1 : 0);
  append(key, settings.utf8_only ? 1 : 0);
  append(key, std::bit_cast<std::uint64_t>(comparison.float_tolerance));
  append(key, static_cast<std::uint64_t>(settings.limits.max_rows));
  append(key, static_cast<std::uint64_t>(settings.limits.max_bytes));
  std::string run = key;
  append(run, std::bit_cast<std::uint64_t>(settings.limits.timeout_s));
  return {.rows = std::move(key), .run = std::move(run)};
}

SharedGold run_gold(SqlRunner& runner, const Database& database, const std::string& sql,
                    const ComparisonSettings& comparison, const MatchSettings& settings,
                    const std::atomic<bool>& cancelled) {
  ComparandSink sink(comparison, nullptr);
  const auto gold = std::make_shared<Gold>();
  QueryReport report = runner.run(database, sql, settings.limits, cancelled, sink);
  gold->report = as_whole(std::move(report), sink, settings.utf8_only);
  try {
    if (gold->report.status == QueryStatus::ok) {
      gold->rows.emplace(std::move(sink).finished());
    }
  } catch (const std::bad_alloc&) {
    fail_for_memory(gold->report);
  }
  return gold;
}

MatchReport match_predicted(SqlRunner& runner, const Database& database, const std::string& sql,
                            const Gold& gold, const ComparisonSettings& comparison,
                            const MatchSettings& settings, const std::atomic<bool>& cancelled) {
  // NOLINTNEXTLINE(bugprone-unchecked-optional-access): only golds with rows come here.
  const Comparand& gold_rows = gold.rows.value();
  ComparandSink sink(comparison, settings.early_exit ? &gold_rows : nullptr);
  MatchReport done{.gold_failed = false, .report = {}, .outcome = {}};
  done.report = runner.run(database, sql, settings.limits, cancelled, sink);
  try {
    done.report = as_whole(std::move(done.report), sink, settings.utf8_only);
    if (done.report.status == QueryStatus::ok && !sink.is_settled()) {
      const Comparand rows = std::move(sink).finished();
      done.outcome = compare(rows, gold_rows, comparison);
    }
  } catch (const std::bad_alloc&) {
    fail_for_memory(done.report);
  }
  done.is_lasting = !gold.report.is_volatile && !gold.report.is_passing && is_lasting(done.report);
  return done;
}

MatchReport failed_gold(const QueryReport& report) {
  return {.gold_failed = true, .report = report, .outcome = {}, .is_lasting = is_lasting(report)};
}

}  // namespace finestep
