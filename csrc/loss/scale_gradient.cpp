#include "loss/scale_gradient.h"

#include <algorithm>
#include <array>

#include "threads/parallel.h"

namespace finestep {
namespace {

constexpr std::int64_t kChunkTokens = 16384;
constexpr std::int64_t kPieceTokens = 512;
constexpr std::int64_t kTokensPerThread = 32768;

// gradient[first .. last - 1] *= scale
void scale_run(Elements gradient, double scale, std::int64_t first, std::int64_t last) {
  std::array<double, kPieceTokens> piece;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  for (std::int64_t at = first; at < last; at += kPieceTokens) {
    const std::int64_t size = std::min(kPieceTokens, last - at);
    widen({.data = gradient.data, .dtype = gradient.dtype}, at, size, piece.data());
    narrow(piece.data(), scale, size, gradient, at);
  }
}

}  // namespace

void scale_gradient(const StepMap& map, Elements gradient, double scale, int num_threads) {
  if (scale == 1) {
    return;
  }
  const auto policy_offset = policy_offsets(map);
  const std::int64_t num_policy_tokens = policy_offset.back();
  const auto useful = num_chunks(num_policy_tokens, kTokensPerThread);
  const auto team = static_cast<int>(std::min<std::int64_t>(num_threads, useful));
  for_each_chunk(num_chunks(num_policy_tokens, kChunkTokens), team, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kChunkTokens;
    const std::int64_t last = std::min(num_policy_tokens, first + kChunkTokens);
    for_each_run(map, policy_offset, first, last, [&](std::size_t, std::int64_t token, Run run) {
      scale_run(gradient, scale, token, token + run.count);
    });
  });
}

}  // namespace finestep
