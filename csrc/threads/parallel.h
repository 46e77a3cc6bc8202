// Runs independent pieces of work on several threads.
#pragma once

#include <cstdint>
#include <functional>

namespace finestep {

// Calls work(0) .. work(num_chunks - 1), each once, on at most `num_threads` threads, in any order;
// returns when all are done. What a chunk computes must not depend on the others: then results do
// not depend on the number of threads. The first exception is rethrown.
void for_each_chunk(std::int64_t num_chunks, int num_threads,
                    const std::function<void(std::int64_t)>& work);

// Number of pieces of `size` that cover `total`.
constexpr std::int64_t num_chunks(std::int64_t total, std::int64_t size) {
  return (total + size - 1) / size;
}

}  // namespace finestep
