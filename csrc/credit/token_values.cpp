#include "credit/token_values.h"

#include <algorithm>
#include <functional>
#include <ranges>

#include "threads/parallel.h"

namespace finestep {
namespace {

constexpr std::int64_t kChunkSteps = 32;
constexpr std::int64_t kChunkTokens = 65536;

bool ascends(const StepMap& map) {
  return std::ranges::equal(
      map.step_start | std::views::drop(1),
      map.step_end | std::views::take(std::max<std::int64_t>(map.num_steps() - 1, 0)),
      std::greater_equal<>());
}

}  // namespace

void token_values(const StepMap& map, std::span<const double> step_value, Elements to,
                  int num_threads) {
  const std::int64_t num_steps = map.num_steps();
  const bool in_order = ascends(map);
  const std::int64_t tail = in_order && num_steps > 0 ? map.step_end.back() : 0;
  const std::int64_t num_clear = num_chunks(map.num_tokens - tail, kChunkTokens);
  for_each_chunk(num_clear, num_threads, [&](std::int64_t chunk) {
    const std::int64_t first = tail + (chunk * kChunkTokens);
    clear(to, first, std::min(kChunkTokens, map.num_tokens - first));
  });
  for_each_chunk(num_chunks(num_steps, kChunkSteps), num_threads, [&](std::int64_t chunk) {
    const std::int64_t last = std::min(num_steps, (chunk + 1) * kChunkSteps);
    for (std::int64_t step = chunk * kChunkSteps; step < last; ++step) {
      const auto s = static_cast<std::size_t>(step);
      if (in_order) {
        const std::int64_t before = s == 0 ? 0 : map.step_end[s - 1];
        clear(to, before, map.step_start[s] - before);
      }
      fill(to, step_value[s], map.step_start[s], map.step_end[s] - map.step_start[s]);
    }
  });
}

}  // namespace finestep
