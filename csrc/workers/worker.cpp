#include "workers/worker.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <deque>
#include <memory>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "sql/guard.h"
#include "sql/matching.h"
#include "sql/runner.h"
#include "sql/sqlite_library.h"
#include "sql/stored_rows.h"
#include "workers/link.h"
#include "workers/message.h"
#include "workers/progress.h"
#include "workers/requests.h"

namespace finestep {
namespace {

// Answers that wait are sent before a query begins that may be the last of this process.
constexpr std::chrono::milliseconds kFlush(1);
constexpr std::size_t kFlushBytes = std::size_t{256} << 10U;
// Volatile golds that are kept while their call lasts.
constexpr std::size_t kKeptGolds = 64;

// Ends the process as soon as its parent is gone, whatever it is doing.
void end_with(pid_t parent) {
  std::thread([parent] {
    int handle = -1;
#ifdef SYS_pidfd_open
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): glibc has no function for it before 2.36
    handle = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
#endif
    constexpr int kSecond = 1000;
    while (getppid() == parent) {
      pollfd ended{.fd = handle, .events = POLLIN, .revents = 0};
      poll(&ended, 1, handle < 0 ? kSecond : -1);
    }
    _exit(0);
  }).detach();
}

bool read_all(std::string& bytes) {
  std::size_t num_read = 0;
  while (num_read < bytes.size()) {
    const ssize_t got =
        recv(kWorkerSocket, bytes.data() + num_read, bytes.size() - num_read, MSG_WAITALL);
    if (got == 0 || (got < 0 && errno != EINTR)) {
      return false;
    }
    num_read += got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  return true;
}

// The next message from the parent; false if there are no more.
bool receive(std::string& message) {
  message.resize(sizeof(MessageSize));
  if (!read_all(message)) {
    return false;
  }
  message.resize(MessageReader(message).get<MessageSize>());
  return read_all(message);
}

void send_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(kWorkerSocket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EINTR) {
      _exit(0);  // the parent is gone, or wants no answer
    }
    bytes.remove_prefix(sent > 0 ? static_cast<std::size_t>(sent) : 0);
  }
}

// Collects the answers to one request, and sends them now and then.
class Answers {
 public:
  explicit Answers(SqlRunner& runner) : runner_(&runner) { begin(); }

  template <typename Answer>
  void add(const Answer& answer) {
    write(writer_, answer);
    is_empty_ = false;
    if (writer_.size() > kFlushBytes) {
      flush(false);
    }
  }
  // To be called before a query that may last.
  void flush_if_due() {
    if (!is_empty_ && Clock::now() - flushed_ > kFlush) {
      flush(false);
    }
  }
  void finish() { flush(true); }

 private:
  void begin() {
    writer_.clear();
    flushed_ = Clock::now();
    is_empty_ = true;
  }
  void flush(bool is_last) {
    // The head comes first, though it is known last.
    MessageWriter message;
    write(message,
          AnswerHead{.is_last = is_last, .queries_run = runner_->num_queries_run.exchange(0)});
    message.put_raw(std::string_view(writer_.finished()).substr(sizeof(MessageSize)));
    send_all(message.finished());
    begin();
  }

  SqlRunner* runner_;
  MessageWriter writer_;
  Clock::time_point flushed_;
  bool is_empty_ = true;
};

class Worker {
 public:
  explicit Worker(const WorkerSettings& settings)
      : library_(std::make_shared<SqliteLibrary>(settings.library, LibraryUse::one_thread)),
        runner_(library_, settings.max_connections, settings.gold_cache_bytes),
        progress_(kWorkerPage),
        max_heap_bytes_(settings.max_heap_bytes) {}

  void serve() {
    Answers(runner_).finish();  // says that the worker is up
    std::string message;
    while (receive(message)) {
      MessageReader reader(message);
      Answers answers(runner_);
      if (read_kind(reader) == RequestKind::run) {
        run(read_run_request(reader), answers);
      } else {
        match(read_match_request(reader), answers);
      }
      answers.finish();
    }
  }

 private:
  struct KeptGold {
    std::uint64_t call;
    std::uint64_t number;
    SharedGold gold;
  };

  struct FoundGold {
    SharedGold gold;
    bool is_remembered = false;
  };

  // Marks a query as running for as long as it exists.
  class Running {
   public:
    Running(Worker& worker, Answers& answers, std::uint64_t number, bool is_gold)
        : progress_(&*worker.progress_) {
      answers.flush_if_due();
      worker.library_->limit_query(worker.max_heap_bytes_);
      progress_->begin(number, is_gold, Clock::now().time_since_epoch().count());
    }
    ~Running() { progress_->end(); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    Running(Running&&) = delete;
    Running& operator=(Running&&) = delete;

   private:
    Progress* progress_;
  };

  void run(const RunRequest& request, Answers& answers) {
    for (const RunJob& job : request.jobs) {
      StoredRows rows;
      RunAnswer answer;
      answer.number = job.number;
      {
        const Running running(*this, answers, job.number, false);
        answer.report = runner_.run(request.databases.at(job.database), std::string(job.sql),
                                    request.limits, cancelled_, rows, QueryPurpose::run);
      }
      if (answer.report.status == QueryStatus::ok) {
        answer.columns.assign(rows.columns().begin(), rows.columns().end());
        answer.num_rows = rows.num_rows();
        answer.num_columns = rows.num_columns();
        answer.rows = rows.bytes();
      }
      answers.add(answer);
    }
  }

  void match(const MatchRequest& request, Answers& answers) {
    std::vector<FoundGold> golds(request.golds.size());
    for (const RequestedUnit& unit : request.units) {
      const RequestedGold& asked = request.golds.at(unit.gold);
      const Database& database = request.databases.at(asked.database);
      ComparisonSettings comparison = request.settings.comparison;
      comparison.ordered = asked.ordered;
      FoundGold& found = golds.at(unit.gold);
      if (!found.gold) {
        found = find_gold(request, asked, database, comparison, answers);
      }
      MatchAnswer answer;
      answer.number = unit.number;
      const Gold& gold = *found.gold;
      answer.gold_is_volatile = gold.report.is_volatile;
      answer.gold_is_remembered = found.is_remembered;
      if (gold.rows) {
        const Running running(*this, answers, unit.number, false);
        answer.report = match_predicted(runner_, database, std::string(unit.predicted), gold,
                                        comparison, request.settings, cancelled_);
      } else {
        answer.report = failed_gold(gold.report);
      }
      answers.add(answer);
    }
  }

  FoundGold find_gold(const MatchRequest& request, const RequestedGold& asked,
                      const Database& database, const ComparisonSettings& comparison,
                      Answers& answers) {
    for (const KeptGold& kept : kept_golds_) {
      if (kept.call == request.call && kept.number == asked.number) {
        return {.gold = kept.gold, .is_remembered = true};
      }
    }
    const std::string sql(asked.sql);
    const GoldKey key = gold_key(database, sql, comparison, request.settings);
    bool must_run = false;
    SharedGold gold = runner_.golds.find(key, {}, must_run);
    if (gold) {
      return {.gold = gold, .is_remembered = true};
    }
    {
      const Running running(*this, answers, asked.number, true);
      gold = run_gold(runner_, database, sql, comparison, request.settings, cancelled_);
    }
    runner_.golds.publish(key, gold);
    if (gold->report.is_volatile || !gold->rows) {
      // It is not remembered, but the pairs of one call share it.
      kept_golds_.push_back({.call = request.call, .number = asked.number, .gold = gold});
      if (kept_golds_.size() > kKeptGolds) {
        kept_golds_.pop_front();
      }
    }
    return {.gold = gold, .is_remembered = false};
  }

  std::shared_ptr<SqliteLibrary> library_;
  SqlRunner runner_;
  SharedProgress progress_;
  std::int64_t max_heap_bytes_;
  std::atomic<bool> cancelled_{false};  // never: a call that ends early ends its workers
  std::deque<KeptGold> kept_golds_;
};

}  // namespace

void serve_queries(const WorkerSettings& settings) {
  end_with(settings.parent);
  Worker(settings).serve();
}

}  // namespace finestep
