#include "workers/link.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX's functions are in this one
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "workers/message.h"

namespace finestep {
namespace {

constexpr int kAboveTheWorkers = 10;  // descriptors that the worker's own do not overwrite
constexpr int kSendPatienceMs = 10'000;
constexpr off_t kComplaintBytes = 2000;
constexpr std::size_t kChunkBytes = std::size_t{64} << 10U;

void check(int code, const char* what) {
  if (code != 0) {
    throw std::system_error(code, std::generic_category(), what);
  }
}

Descriptor moved_up(int descriptor, const char* what) {
  const Descriptor given(descriptor);
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): POSIX's interface
  const int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, kAboveTheWorkers);
  check(moved < 0 ? errno : 0, what);
  return Descriptor(moved);
}

// Attributes and actions of a child that is to be spawned.
class Spawn {
 public:
  Spawn() {
    check(posix_spawnattr_init(&attributes_), "starting a worker");
    check(posix_spawn_file_actions_init(&actions_), "starting a worker");
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    // A session of its own: Ctrl-C reaches the parent only.
    posix_spawnattr_setflags(&attributes_,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO}) {
      check(posix_spawn_file_actions_addopen(&actions_, standard, "/dev/null", O_RDWR, 0),
            "starting a worker");
    }
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;
  Spawn(Spawn&&) = delete;
  Spawn& operator=(Spawn&&) = delete;

  void give(int descriptor, int as) {
    check(posix_spawn_file_actions_adddup2(&actions_, descriptor, as), "starting a worker");
  }
  pid_t start(std::vector<std::string> words) {
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) {
      arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    pid_t process = 0;
    check(posix_spawn(&process, arguments.front(), &actions_, &attributes_, arguments.data(),
                      environ),
          "starting a worker");
    return process;
  }

 private:
  posix_spawnattr_t attributes_{};
  posix_spawn_file_actions_t actions_{};
};

// Waits for a killed process, as long as that takes the system; not for one that it cannot end yet.
void reap(pid_t process) {
  constexpr int kTries = 200;
  constexpr std::chrono::milliseconds kPause(1);
  for (int i = 0; i < kTries; ++i) {
    const pid_t ended = waitpid(process, nullptr, WNOHANG);
    if (ended == process || (ended < 0 && errno != EINTR)) {
      return;
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) {
    close(number_);
  }
}

Descriptor::Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

WorkerLink::WorkerLink(const WorkerProgram& program, std::size_t place)
    : parent_(getpid()), place_(place) {
  std::array<int, 2> ends{};
  check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0 ? errno : 0,
        "making a worker's socket");
  socket_ = Descriptor(ends[0]);
  const Descriptor theirs = moved_up(ends[1], "making a worker's socket");
  const Descriptor page = moved_up(SharedProgress::created(), "making a worker's page");
  page_ = std::make_unique<SharedProgress>(page.get());
  Spawn spawn;
  spawn.give(theirs.get(), kWorkerSocket);
  spawn.give(page.get(), kWorkerPage);
  complaint_ = moved_up(memfd_create("finestep-complaint", MFD_CLOEXEC), "making a worker's log");
  spawn.give(complaint_.get(), STDERR_FILENO);
  std::vector<std::string> words = program.words;
  words.push_back(std::to_string(parent_));
  process_ = spawn.start(std::move(words));
#ifdef SYS_pidfd_open
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): glibc has no function for it before 2.36
  handle_ = Descriptor(static_cast<int>(syscall(SYS_pidfd_open, process_, 0)));
#endif
}

WorkerLink::~WorkerLink() {
  end();
  if (getpid() == parent_) {
    reap(process_);
  }
}

void WorkerLink::end() {
  if (getpid() != parent_) {
    return;
  }
#ifdef SYS_pidfd_send_signal
  if (handle_.get() >= 0) {
    // The process may be reaped by others and its number given anew: the handle stays right.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): glibc has no function for it before 2.36
    syscall(SYS_pidfd_send_signal, handle_.get(), SIGKILL, nullptr, 0);
    return;
  }
#endif
  kill(process_, SIGKILL);
}

std::string WorkerLink::complaint() const {
  const off_t size = lseek(complaint_.get(), 0, SEEK_END);
  std::string text(static_cast<std::size_t>(std::clamp<off_t>(size, 0, kComplaintBytes)), '\0');
  const ssize_t got = pread(complaint_.get(), text.data(), text.size(), size - std::ssize(text));
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text.substr(text.rfind('\n') + 1);
}

bool WorkerLink::send(std::string_view message) {
  while (!message.empty()) {
    const ssize_t sent =
        ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      message.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EAGAIN) {
      pollfd ready{.fd = socket_.get(), .events = POLLOUT, .revents = 0};
      if (poll(&ready, 1, kSendPatienceMs) == 0) {
        return false;
      }
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool WorkerLink::receive() {
  received_.erase(0, num_read_);
  num_read_ = 0;
  while (true) {
    const std::size_t before = received_.size();
    received_.resize(before + kChunkBytes);
    const ssize_t got = recv(socket_.get(), received_.data() + before, kChunkBytes, MSG_DONTWAIT);
    received_.resize(before + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
      return false;
    }
    if (std::cmp_less(got, kChunkBytes)) {
      return true;
    }
  }
}

std::optional<std::string_view> WorkerLink::next() {
  auto message = next_message();
  if (message && !std::exchange(is_up_, true)) {
    message = next_message();  // the first one says just that
  }
  return message;
}

std::optional<std::string_view> WorkerLink::next_message() {
  const auto left = std::string_view(received_).substr(num_read_);
  if (left.size() < sizeof(MessageSize)) {
    return std::nullopt;
  }
  const auto size = MessageReader(left).get<MessageSize>();
  if (left.size() - sizeof(MessageSize) < size) {
    return std::nullopt;
  }
  num_read_ += sizeof(MessageSize) + size;
  return left.substr(sizeof(MessageSize), size);
}

}  // namespace finestep
