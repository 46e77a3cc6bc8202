// One worker process as its parent sees it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "workers/progress.h"

namespace finestep {

// The program of a worker: an executable and its arguments, to which the parent's process number is
// added. It finds its socket at the descriptor kWorkerSocket and its page at kWorkerPage.
struct WorkerProgram {
  std::vector<std::string> words;
};
inline constexpr int kWorkerSocket = 3;
inline constexpr int kWorkerPage = 4;

// A descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int get() const { return number_; }

 private:
  int number_;
};

// Starts a worker and ends it. For one thread at a time; end() may be called beside the others.
class WorkerLink {
 public:
  // Throws std::system_error.
  WorkerLink(const WorkerProgram& program, std::size_t place);
  // Ends the process.
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;
  WorkerLink(WorkerLink&&) = delete;
  WorkerLink& operator=(WorkerLink&&) = delete;

  // Its place among the workers; golds are sent to the same place again.
  [[nodiscard]] std::size_t place() const { return place_; }
  [[nodiscard]] int socket() const { return socket_.get(); }
  [[nodiscard]] std::optional<RunningQuery> running() const { return (*page_)->running(); }
  // Whether it ever answered: one that did not could not be started.
  [[nodiscard]] bool is_up() const { return is_up_; }

  // Sends a message to a worker that waits for one; false if it is gone.
  bool send(std::string_view message);
  // Takes what has come, without waiting; false if the worker is gone. Then next() still gives what
  // came before.
  bool receive();
  // The next whole message that has come, valid until the next call of either function.
  std::optional<std::string_view> next();

  // The last of what it wrote to its standard error.
  [[nodiscard]] std::string complaint() const;
  // Kills the process, which frees whatever it holds.
  void end();

 private:
  std::optional<std::string_view> next_message();

  pid_t process_ = 0;
  pid_t parent_;  // a process that was forked from it leaves the worker alone
  std::size_t place_;
  Descriptor socket_;
  Descriptor handle_;     // of the process, where the system has such
  Descriptor complaint_;  // a file in memory
  std::unique_ptr<SharedProgress> page_;
  std::string received_;
  std::size_t num_read_ = 0;
  bool is_up_ = false;
};

}  // namespace finestep
