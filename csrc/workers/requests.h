// What is asked of a worker, and what it answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sql/matching.h"
#include "sql/query.h"
#include "sql/runner.h"
#include "workers/message.h"

namespace finestep {

enum class RequestKind : std::uint8_t { run, match };

// A query whose rows are wanted.
struct RunJob {
  std::uint64_t number = 0;
  std::uint64_t database = 0;  // its place in the request's list
  std::string_view sql;
};

struct RunRequest {
  QueryLimits limits;
  std::vector<Database> databases;
  std::vector<RunJob> jobs;
};

struct RequestedGold {
  std::uint64_t number = 0;
  std::uint64_t database = 0;  // its place in the request's list
  bool ordered = false;
  std::string_view sql;
};

struct RequestedUnit {
  std::uint64_t number = 0;
  std::uint64_t gold = 0;  // its place in the request's list
  std::string_view predicted;
};

struct MatchRequest {
  std::uint64_t call = 0;  // whose numbers the golds have
  MatchSettings settings;
  std::vector<Database> databases;
  std::vector<RequestedGold> golds;
  std::vector<RequestedUnit> units;
};

// Requests name databases that can be found; `problem` does not travel.
void write(MessageWriter& writer, const RunRequest& request);
void write(MessageWriter& writer, const MatchRequest& request);
RequestKind read_kind(MessageReader& reader);
RunRequest read_run_request(MessageReader& reader);
MatchRequest read_match_request(MessageReader& reader);

// Begins every message of answers.
struct AnswerHead {
  bool is_last = false;          // of its request
  std::int64_t queries_run = 0;  // since the message before
};

struct MatchAnswer {
  std::uint64_t number = 0;
  bool gold_is_volatile = false;
  bool gold_is_remembered = false;  // it was run before this request
  MatchReport report;
};

// The views are into the message.
struct RunAnswer {
  std::uint64_t number = 0;
  QueryReport report;
  std::vector<std::string_view> columns;
  std::uint64_t num_rows = 0;
  std::uint64_t num_columns = 0;
  std::string_view rows;
};

void write(MessageWriter& writer, const AnswerHead& head);
void write(MessageWriter& writer, const MatchAnswer& answer);
void write(MessageWriter& writer, const RunAnswer& answer);
AnswerHead read_head(MessageReader& reader);
MatchAnswer read_match_answer(MessageReader& reader);
RunAnswer read_run_answer(MessageReader& reader);

}  // namespace finestep
