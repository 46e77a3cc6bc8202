// Python's lock, given up while compiled code runs.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace finestep {

// Gives the lock up for as long as it exists. While Python ends, a thread that wants the lock back
// is ended by the C library, which would unwind through frames that allow no exception: it waits
// for the end of the process instead.
class ReleasedGil {
 public:
  ReleasedGil() : thread_(PyEval_SaveThread()) {}
  ~ReleasedGil() { take_back(); }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ReleasedGil(ReleasedGil&&) = delete;
  ReleasedGil& operator=(ReleasedGil&&) = delete;

  // Takes the lock for one call, on the thread that gave it up.
  template <typename Function>
  void with_lock(const Function& function) {
    take_back();
    try {
      function();
    } catch (...) {
      thread_ = PyEval_SaveThread();
      throw;
    }
    thread_ = PyEval_SaveThread();
  }

 private:
  void take_back() {
    try {
      PyEval_RestoreThread(thread_);
    } catch (...) {
      while (true) {
        pause();
      }
    }
  }

  PyThreadState* thread_;
};

}  // namespace finestep
