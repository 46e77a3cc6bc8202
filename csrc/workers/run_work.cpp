#include "workers/run_work.h"

#include <map>
#include <ranges>
#include <utility>

#include "workers/loss_report.h"

namespace finestep {

RunWork::RunWork(std::vector<Database> databases, std::vector<Job> jobs, const QueryLimits& limits,
                 std::chrono::nanoseconds latest, WorkCounts& counts, Receiver receiver)
    : databases_(std::move(databases)),
      jobs_(std::move(jobs)),
      limits_(limits),
      latest_(latest),
      counts_(&counts),
      receiver_(std::move(receiver)),
      is_answered_(jobs_.size()),
      num_crashes_(jobs_.size()),
      num_open_(jobs_.size()) {
  for (std::size_t job = 0; job < jobs_.size(); ++job) {
    const std::string& problem = databases_[jobs_[job].database].problem;
    if (problem.empty()) {
      waiting_.push_back(job);
    } else {
      fail(job, {.status = QueryStatus::database_unreadable, .message = problem});
    }
  }
}

std::size_t RunWork::wanted_place() const { return waiting_.empty() ? kNoPlace : kAnyPlace; }

std::string_view RunWork::share(Lease lease, std::size_t /*place*/, std::size_t num_queries) {
  RunRequest request;
  request.limits = limits_;
  std::map<std::size_t, std::uint64_t> listed;
  std::vector<std::size_t>& taken = lent_[lease];
  while (!waiting_.empty() && taken.size() < num_queries) {
    const std::size_t job = waiting_.front();
    waiting_.pop_front();
    taken.push_back(job);
    const auto [place, is_new] = listed.try_emplace(jobs_[job].database, listed.size());
    if (is_new) {
      request.databases.push_back(databases_[jobs_[job].database]);
    }
    request.jobs.push_back({.number = job, .database = place->second, .sql = jobs_[job].sql});
  }
  if (taken.empty()) {
    lent_.erase(lease);
    return {};
  }
  writer_.clear();
  write(writer_, request);
  return writer_.finished();
}

bool RunWork::take(Lease lease, std::string_view message) {
  MessageReader reader(message);
  const AnswerHead head = read_head(reader);
  counts_->queries_run += head.queries_run;
  while (!reader.is_at_end()) {
    answer(read_run_answer(reader));
  }
  const bool is_finished = head.is_last && lent_.contains(lease);
  if (is_finished) {
    lent_.erase(lease);
  }
  return is_finished;
}

void RunWork::lose(Lease lease, const RunningQuery* query, Loss loss) {
  const auto lost = lent_.extract(lease);
  if (query != nullptr) {
    const std::size_t job = query->number;
    if (loss == Loss::late || ++num_crashes_.at(job) >= kTriesOfCrashes) {
      fail(job, loss_report(loss, latest_));
    }
  }
  if (!lost.empty()) {
    for (const std::size_t job : std::views::reverse(lost.mapped())) {
      if (!is_answered_[job]) {
        waiting_.push_front(job);
      }
    }
  }
}

void RunWork::fail(std::size_t job, QueryReport report) {
  RunAnswer failed;
  failed.number = job;
  failed.report = std::move(report);
  answer(failed);
}

void RunWork::answer(const RunAnswer& answer) {
  if (!is_answered_.at(answer.number)) {
    is_answered_[answer.number] = true;
    --num_open_;
    receiver_(answer);
  }
}

}  // namespace finestep
