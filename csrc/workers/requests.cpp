#include "workers/requests.h"

namespace finestep {
namespace {

void write(MessageWriter& writer, const QueryLimits& limits) {
  writer.put(limits.max_rows);
  writer.put(limits.max_bytes);
  writer.put(limits.timeout_s);
}

QueryLimits read_limits(MessageReader& reader) {
  QueryLimits limits;
  limits.max_rows = reader.get<std::int64_t>();
  limits.max_bytes = reader.get<std::int64_t>();
  limits.timeout_s = reader.get<double>();
  return limits;
}

void write(MessageWriter& writer, const std::vector<Database>& databases) {
  writer.put<std::uint64_t>(databases.size());
  for (const Database& database : databases) {
    writer.put_text(database.identity.path);
    writer.put_text(database.identity.file);
    writer.put_text(database.identity.inode);
    writer.put_text(database.identity.key);
    writer.put(database.identity.is_recent);
    writer.put(database.identity.has_log);
    writer.put(database.identity.has_journal);
  }
}

std::vector<Database> read_databases(MessageReader& reader) {
  std::vector<Database> databases(reader.get<std::uint64_t>());
  for (Database& database : databases) {
    database.identity.path = reader.get_text();
    database.identity.file = reader.get_text();
    database.identity.inode = reader.get_text();
    database.identity.key = reader.get_text();
    database.identity.is_recent = reader.get_flag();
    database.identity.has_log = reader.get_flag();
    database.identity.has_journal = reader.get_flag();
  }
  return databases;
}

void write(MessageWriter& writer, const QueryReport& report) {
  writer.put(report.status);
  writer.put_text(report.message);
  writer.put(report.elapsed_ms);
  writer.put(report.size_bytes);
  writer.put(report.truncated);
  writer.put(report.out_of_memory);
  writer.put(report.is_volatile);
}

QueryReport read_report(MessageReader& reader) {
  QueryReport report;
  report.status = reader.get<QueryStatus>();
  report.message = reader.get_text();
  report.elapsed_ms = reader.get<double>();
  report.size_bytes = reader.get<std::int64_t>();
  report.truncated = reader.get_flag();
  report.out_of_memory = reader.get_flag();
  report.is_volatile = reader.get_flag();
  return report;
}

}  // namespace

void write(MessageWriter& writer, const RunRequest& request) {
  writer.put(RequestKind::run);
  write(writer, request.limits);
  write(writer, request.databases);
  writer.put<std::uint64_t>(request.jobs.size());
  for (const RunJob& job : request.jobs) {
    writer.put(job.number);
    writer.put(job.database);
    writer.put_text(job.sql);
  }
}

void write(MessageWriter& writer, const MatchRequest& request) {
  const MatchSettings& settings = request.settings;
  writer.put(RequestKind::match);
  writer.put(request.call);
  writer.put(settings.comparison.semantics);
  writer.put(settings.comparison.ordered);
  writer.put(settings.comparison.float_tolerance);
  writer.put(settings.comparison.search_budget);
  writer.put(settings.comparison.decoded_text);
  write(writer, settings.limits);
  writer.put(settings.early_exit);
  writer.put(settings.utf8_only);
  write(writer, request.databases);
  writer.put<std::uint64_t>(request.golds.size());
  for (const RequestedGold& gold : request.golds) {
    writer.put(gold.number);
    writer.put(gold.database);
    writer.put(gold.ordered);
    writer.put_text(gold.sql);
  }
  writer.put<std::uint64_t>(request.units.size());
  for (const RequestedUnit& unit : request.units) {
    writer.put(unit.number);
    writer.put(unit.gold);
    writer.put_text(unit.predicted);
  }
}

RequestKind read_kind(MessageReader& reader) { return reader.get<RequestKind>(); }

RunRequest read_run_request(MessageReader& reader) {
  RunRequest request;
  request.limits = read_limits(reader);
  request.databases = read_databases(reader);
  request.jobs.resize(reader.get<std::uint64_t>());
  for (RunJob& job : request.jobs) {
    job.number = reader.get<std::uint64_t>();
    job.database = reader.get<std::uint64_t>();
    job.sql = reader.get_text();
  }
  return request;
}

MatchRequest read_match_request(MessageReader& reader) {
  MatchRequest request;
  MatchSettings& settings = request.settings;
  request.call = reader.get<std::uint64_t>();
  settings.comparison.semantics = reader.get<Semantics>();
  settings.comparison.ordered = reader.get_flag();
  settings.comparison.float_tolerance = reader.get<double>();
  settings.comparison.search_budget = reader.get<std::int64_t>();
  settings.comparison.decoded_text = reader.get_flag();
  settings.limits = read_limits(reader);
  settings.early_exit = reader.get_flag();
  settings.utf8_only = reader.get_flag();
  request.databases = read_databases(reader);
  request.golds.resize(reader.get<std::uint64_t>());
  for (RequestedGold& gold : request.golds) {
    gold.number = reader.get<std::uint64_t>();
    gold.database = reader.get<std::uint64_t>();
    gold.ordered = reader.get_flag();
    gold.sql = reader.get_text();
  }
  request.units.resize(reader.get<std::uint64_t>());
  for (RequestedUnit& unit : request.units) {
    unit.number = reader.get<std::uint64_t>();
    unit.gold = reader.get<std::uint64_t>();
    unit.predicted = reader.get_text();
  }
  return request;
}

void write(MessageWriter& writer, const AnswerHead& head) {
  writer.put(head.is_last);
  writer.put(head.queries_run);
}

AnswerHead read_head(MessageReader& reader) {
  AnswerHead head;
  head.is_last = reader.get_flag();
  head.queries_run = reader.get<std::int64_t>();
  return head;
}

void write(MessageWriter& writer, const MatchAnswer& answer) {
  writer.put(answer.number);
  writer.put(answer.gold_is_volatile);
  writer.put(answer.gold_is_remembered);
  writer.put(answer.report.gold_failed);
  writer.put(answer.report.is_lasting);
  write(writer, answer.report.report);
  writer.put(answer.report.outcome.verdict);
  writer.put(answer.report.outcome.score);
}

MatchAnswer read_match_answer(MessageReader& reader) {
  MatchAnswer answer;
  answer.number = reader.get<std::uint64_t>();
  answer.gold_is_volatile = reader.get_flag();
  answer.gold_is_remembered = reader.get_flag();
  answer.report.gold_failed = reader.get_flag();
  answer.report.is_lasting = reader.get_flag();
  answer.report.report = read_report(reader);
  answer.report.outcome.verdict = reader.get<Verdict>();
  answer.report.outcome.score = reader.get<double>();
  return answer;
}

void write(MessageWriter& writer, const RunAnswer& answer) {
  writer.put(answer.number);
  write(writer, answer.report);
  writer.put<std::uint64_t>(answer.columns.size());
  for (const auto column : answer.columns) {
    writer.put_text(column);
  }
  writer.put(answer.num_rows);
  writer.put(answer.num_columns);
  writer.put_text(answer.rows);
}

RunAnswer read_run_answer(MessageReader& reader) {
  RunAnswer answer;
  answer.number = reader.get<std::uint64_t>();
  answer.report = read_report(reader);
  answer.columns.resize(reader.get<std::uint64_t>());
  for (auto& column : answer.columns) {
    column = reader.get_text();
  }
  answer.num_rows = reader.get<std::uint64_t>();
  answer.num_columns = reader.get<std::uint64_t>();
  answer.rows = reader.get_text();
  return answer;
}

}  // namespace finestep
