#include "loss/policy_loss.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "loss/loss_plan.h"
#include "loss/tile_math.h"
#include "loss/token_ppo.h"
#include "threads/parallel.h"

namespace finestep {
namespace {

// Tokens are given to threads in chunks, and sums are taken chunk by chunk, in order.
constexpr std::int64_t kTilesPerChunk = 16;
constexpr std::int64_t kChunkTokens = kTilesPerChunk * kTileTokens;
// Below this, waking another thread costs more than it saves.
constexpr std::int64_t kTokensPerThread = 8192;
constexpr std::int64_t kPrefetchTokens = 128;
constexpr std::int64_t kLineBytes = 64;

class Pass {
 public:
  Pass(const StepMap& map, std::span<const std::int64_t> policy_offset, const TokenInputs& tokens,
       const LossSettings& settings, const LossPlan& plan, GradientOutput gradient)
      : map_(map),
        policy_offset_(policy_offset),
        tokens_(tokens),
        settings_(settings),
        plan_(&plan),
        gradient_(gradient),
        in_one_loop_(settings.kind == LossKind::ppo && settings.ratio == RatioLevel::token &&
                     !settings.kl && gradient.elements.data != nullptr &&
                     tokens.logp_old.dtype == tokens.logp.dtype &&
                     (tokens.token_weight.data == nullptr ||
                      tokens.token_weight.dtype == tokens.logp.dtype)) {}

  [[nodiscard]] TokenSums chunk(std::int64_t index) const {
    const std::int64_t first = index * kChunkTokens;
    const std::int64_t last = std::min(policy_offset_.back(), first + kChunkTokens);
    TokenSums sums;
    if (!in_one_loop_) {
      tiles(first, last, sums);
      return sums;
    }
    for_each_run(map_, policy_offset_, first, last,
                 [&](std::size_t s, std::int64_t token, Run run) {
                   prefetch(s + 1);
                   clear_before(s, token);
                   if (!token_ppo({.logp = tokens_.logp.from(token),
                                   .logp_old = tokens_.logp_old.from(token),
                                   .token_weight = tokens_.token_weight.from(token),
                                   .gradient = gradient_.elements.from(token),
                                   .count = run.count},
                                  plan_->step[s], sums)) {
                     tiles(first + run.place, first + run.place + run.count, sums);
                   }
                 });
    return sums;
  }

 private:
  // Policy tokens numbered from `first` to `last` - 1, one tile after the other.
  void tiles(std::int64_t first, std::int64_t last, TokenSums& sums) const {
    Tile tile;
    tile.token_weight.fill(1);
    for (std::int64_t at = first; at < last; at += kTileTokens) {
      evaluate(at, std::min(kTileTokens, last - at), tile, sums);
    }
  }

  // Steps lie apart: without this the processor finds the next one only when it is half done.
  void prefetch(std::size_t s) const {
    if (s >= map_.step_start.size()) {
      return;
    }
    const std::int64_t first = map_.step_start[s];
    const std::int64_t count = std::min(kPrefetchTokens, map_.step_end[s] - first);
    for (const auto& elements : {tokens_.logp.from(first), tokens_.logp_old.from(first)}) {
      const auto* bytes = static_cast<const std::byte*>(elements.data);
      for (std::int64_t at = 0; at < count * size_bytes(elements.dtype); at += kLineBytes) {
        __builtin_prefetch(bytes + at);
      }
    }
  }

  void evaluate(std::int64_t first, std::int64_t count, Tile& tile, TokenSums& sums) const {
    const auto each_run = [&](const auto& work) {
      for_each_run(map_, policy_offset_, first, first + count, work);
    };
    each_run([&](std::size_t, std::int64_t token, Run run) { load(token, run, tile); });
    token_ratios(tile, count, sums);
    each_run(
        [&](std::size_t s, std::int64_t, Run run) { surrogate(tile, run, plan_->step[s], sums); });
    if (settings_.kind == LossKind::ppo && tile.may_be_cut) {
      drop_cut(tile, count);
    }
    if (const auto estimator = settings_.kl) {
      each_run([&](std::size_t s, std::int64_t, Run run) {
        reference_kl(*estimator, tile, run, plan_->step[s], sums);
      });
    }
    if (gradient_.elements.data != nullptr) {
      each_run([&](std::size_t s, std::int64_t token, Run run) { store(s, token, run, tile); });
    }
  }

  void store(std::size_t s, std::int64_t token, Run run, const Tile& tile) const {
    clear_before(s, token);
    narrow(tile.gradient.data() + run.place, 1, run.count, gradient_.elements, token);
  }

  void clear_before(std::size_t s, std::int64_t token) const {
    if (gradient_.clear_between && token == map_.step_start[s]) {
      const std::int64_t before = s == 0 ? 0 : map_.step_end[s - 1];
      clear(gradient_.elements, before, token - before);
    }
  }

  void load(std::int64_t token, Run run, Tile& tile) const {
    widen(tokens_.logp, token, run.count, tile.logp.data() + run.place);
    widen(tokens_.logp_old, token, run.count, tile.logp_old.data() + run.place);
    if (tokens_.token_weight.data != nullptr) {
      widen(tokens_.token_weight, token, run.count, tile.token_weight.data() + run.place);
    }
    if (settings_.kl) {
      widen(tokens_.logp_ref, token, run.count, tile.logp_ref.data() + run.place);
    }
  }

  void surrogate(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) const {
    const bool is_shared = settings_.ratio != RatioLevel::token;
    if (settings_.kind == LossKind::cispo) {
      is_shared ? shared_cispo(tile, run, step, sums) : cispo(tile, run, step, sums);
    } else if (settings_.ratio == RatioLevel::rollout_averaged) {
      averaged_ppo(tile, run, step);
    } else {
      is_shared ? shared_ppo(tile, run, step) : ppo(tile, run, step, sums);
    }
  }

  static void reference_kl(KlEstimator estimator, Tile& tile, Run run, const StepTerms& step,
                           TokenSums& sums) {
    switch (estimator) {
      case KlEstimator::k1:
        add_k1(tile, run, step, sums);
        break;
      case KlEstimator::k2:
        add_k2(tile, run, step, sums);
        break;
      case KlEstimator::k3:
        add_k3(tile, run, step, sums);
        break;
    }
  }

  StepMap map_;
  std::span<const std::int64_t> policy_offset_;
  TokenInputs tokens_;
  LossSettings settings_;
  const LossPlan* plan_;
  GradientOutput gradient_;
  bool in_one_loop_;  // the default loss of tensors of one dtype
};

std::vector<double> advantage_by_position(const StepMap& map,
                                          std::span<const double> step_advantage) {
  std::vector<double> total;
  std::vector<double> count;
  for (std::size_t r = 0; r + 1 < map.step_offsets.size(); ++r) {
    const auto first = static_cast<std::size_t>(map.step_offsets[r]);
    const auto size = static_cast<std::size_t>(map.step_offsets[r + 1]) - first;
    if (size > total.size()) {
      total.resize(size);
      count.resize(size);
    }
    for (std::size_t position = 0; position < size; ++position) {
      total[position] += step_advantage[first + position];
      count[position] += 1;
    }
  }
  for (std::size_t position = 0; position < total.size(); ++position) {
    total[position] /= count[position];
  }
  return total;
}

std::vector<double> metrics(std::int64_t num_policy_tokens, const TokenSums& sums) {
  const auto num_tokens = static_cast<double>(num_policy_tokens);
  const double share = 1 / std::max(num_tokens, 1.0);
  const double spread = std::max(sums.ratio_squared, std::numeric_limits<double>::min());
  return {num_tokens,
          sums.clipped_low * share,
          sums.clipped_high * share,
          sums.clipped_dual * share,
          sums.approx_kl * share,
          sums.ratio * share,
          std::isnan(sums.ratio) ? sums.ratio : sums.ratio_max,
          sums.ratio * sums.ratio / spread * share,
          sums.reference_kl * share};
}

}  // namespace

PolicyLoss policy_loss(const StepMap& map, const TokenInputs& tokens,
                       std::span<const double> step_advantage, const LossSettings& settings,
                       std::optional<double> count, GradientOutput gradient, int num_threads) {
  const auto policy_offset = policy_offsets(map);
  const std::int64_t num_policy_tokens = policy_offset.back();
  const auto useful = num_chunks(num_policy_tokens, kTokensPerThread);
  const auto team = static_cast<int>(std::min<std::int64_t>(num_threads, useful));

  const auto step_weight = aggregation_weights(map, policy_offset, settings, count);
  const bool is_shared = settings.ratio != RatioLevel::token;
  const LossPlan plan = is_shared ? shared_ratio_plan(map, policy_offset, tokens, step_weight,
                                                      step_advantage, settings, team)
                                  : token_ratio_plan(step_weight, step_advantage, settings);

  const Pass pass(map, policy_offset, tokens, settings, plan, gradient);
  std::vector<TokenSums> chunk_sums(
      static_cast<std::size_t>(num_chunks(num_policy_tokens, kChunkTokens)));
  for_each_chunk(static_cast<std::int64_t>(chunk_sums.size()), team, [&](std::int64_t chunk) {
    chunk_sums[static_cast<std::size_t>(chunk)] = pass.chunk(chunk);
  });

  if (gradient.clear_between) {
    const std::int64_t last = map.step_end.empty() ? 0 : map.step_end.back();
    clear(gradient.elements, last, map.num_tokens - last);
  }

  TokenSums sums;
  for (const auto& of_chunk : chunk_sums) {
    sums.add(of_chunk);
  }
  if (is_shared) {  // the ratios of single tokens are not those of the loss
    sums.ratio = sums.ratio_squared = sums.ratio_max = 0;
    sums.add(plan.sums);
  }

  PolicyLoss out{.loss = sums.loss, .metrics = metrics(num_policy_tokens, sums)};
  const auto by_position = advantage_by_position(map, step_advantage);
  out.metrics.insert(out.metrics.end(), by_position.begin(), by_position.end());
  return out;
}

}  // namespace finestep
