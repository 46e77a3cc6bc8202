// What a call wants of the workers, and how much of it one worker gets at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "workers/progress.h"

namespace finestep {

// Why a query's worker is gone.
enum class Loss : std::uint8_t { late, crashed };

// Tells the requests of a call apart.
using Lease = std::uint64_t;

inline constexpr std::size_t kAnyPlace = static_cast<std::size_t>(-1);
inline constexpr std::size_t kNoPlace = static_cast<std::size_t>(-2);

// The queries of one call. For one thread.
class Work {
 public:
  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  Work(Work&&) = delete;
  Work& operator=(Work&&) = delete;
  virtual ~Work() = default;

  // Whether all answers are there.
  [[nodiscard]] virtual bool is_done() const = 0;
  // How many queries have no answer.
  [[nodiscard]] virtual std::size_t num_open() const = 0;
  // The place of the worker that the next share is best for; kNoPlace if there is none to hand out
  // now.
  [[nodiscard]] virtual std::size_t wanted_place() const = 0;
  // The next request for a worker at that place, of about so many queries; empty if there is
  // nothing to hand out now. The view holds until the next call.
  virtual std::string_view share(Lease lease, std::size_t place, std::size_t num_queries) = 0;
  // Takes a message of answers. Returns whether it was the last to its request.
  virtual bool take(Lease lease, std::string_view message) = 0;
  // The worker is gone before it had answered all: what it had is handed out again, but for the
  // query that made it late, or that crashed it again and again.
  virtual void lose(Lease lease, const RunningQuery* query, Loss loss) = 0;
};

}  // namespace finestep
