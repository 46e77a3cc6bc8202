#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "credit/step_credit.h"
#include "credit/step_map.h"
#include "credit/step_spans.h"
#include "credit/token_values.h"
#include "loss/policy_loss.h"
#include "loss/scale_gradient.h"
#include "numbers/element.h"
#include "python/bindings.h"
#include "python/gil.h"
#include "python/tensor.h"

namespace py = pybind11;

namespace {

using finestep::input;
using finestep::Memory;
using finestep::numbers;
using finestep::output;
using finestep::positions;
using finestep::require;

using Positions = py::array_t<std::int64_t>;

// Hands a vector's memory to numpy without a copy.
Positions as_array(std::vector<std::int64_t>&& values) {
  auto owner = std::make_unique<std::vector<std::int64_t>>(std::move(values));
  auto* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  const py::capsule capsule(owner.get(),
                            [](void* p) { delete static_cast<std::vector<std::int64_t>*>(p); });
  static_cast<void>(owner.release());  // the capsule deletes it
  return Positions(size, data, capsule);
}

template <typename Byte>
py::typing::Tuple<Positions, Positions, Positions> step_spans(
    const py::array_t<Byte, py::array::c_style>& mask, int num_threads) {
  static_assert(sizeof(Byte) == 1);
  if (mask.ndim() != 2) {
    throw std::invalid_argument("mask must have 2 dimensions, [R, L]");
  }
  const std::span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(mask.data()),
                                            static_cast<std::size_t>(mask.size()));
  const auto num_rows = static_cast<std::size_t>(mask.shape(0));
  const auto row_length = static_cast<std::size_t>(mask.shape(1));
  finestep::StepSpans spans;
  {
    const finestep::ReleasedGil released;
    spans = finestep::step_spans(bytes, num_rows, row_length, num_threads);
  }
  return py::make_tuple(as_array(std::move(spans.start)), as_array(std::move(spans.end)),
                        as_array(std::move(spans.offsets)));
}

// (step_offsets, group_offsets, group_rollouts)
using Groups = std::tuple<Memory, Memory, Memory>;
// (step_reward, rollout_outcome, step_state, step_value)
using Rewards = std::tuple<Memory, Memory, std::optional<Memory>, std::optional<Memory>>;

std::vector<double> advantages(const Groups& groups, const Rewards& rewards,
                               const finestep::CreditSettings& credit, finestep::Dtype dtype,
                               int num_threads) {
  const auto& [step_offsets, group_offsets, group_rollouts] = groups;
  const finestep::GroupMap map{.step_offsets = positions(step_offsets),
                               .group_offsets = positions(group_offsets),
                               .group_rollouts = positions(group_rollouts)};
  const auto& [step_reward, rollout_outcome, step_state, step_value] = rewards;
  const std::int64_t num_steps = step_reward.size;
  finestep::check_groups(map, num_steps);
  const auto reward = numbers(step_reward, num_steps);
  const auto outcome = numbers(rollout_outcome, std::ssize(map.group_rollouts));
  std::vector<double> value;
  finestep::Rewards given{
      .step_reward = reward, .rollout_outcome = outcome, .step_state = {}, .step_value = {}};
  if (credit.scope == finestep::Scope::state) {
    require(step_state && step_state->size == num_steps, "step_state must be [S]");
    given.step_state = positions(*step_state);
  }
  if (credit.scope == finestep::Scope::value) {
    require(step_value.has_value(), "step_value must be [S]");
    value = numbers(*step_value, num_steps);
    given.step_value = value;
  }
  const double epsilon = dtype == finestep::Dtype::float64 ? 0x1p-52 : 0x1p-23;
  return finestep::step_advantage(map, given, credit, epsilon, num_threads);
}

void step_advantage(const Groups& groups, const Rewards& rewards,
                    const finestep::CreditSettings& credit, const Memory& out, int num_threads) {
  const auto to = output(out, std::get<0>(rewards).size);
  const auto advantage = advantages(groups, rewards, credit, to.dtype, num_threads);
  finestep::narrow(advantage.data(), 1, std::ssize(advantage), to, 0);
}

// (token_logp, token_logp_old, token_logp_ref, token_weight)
using Tokens = std::tuple<Memory, Memory, std::optional<Memory>, std::optional<Memory>>;
// (step_start, step_end, step_offsets)
using Steps = std::tuple<Memory, Memory, Memory>;
// (loss, gradient, metrics)
using LossOut = std::tuple<Memory, std::optional<Memory>, Memory>;

finestep::StepMap step_map(const Memory& step_start, const Memory& step_end,
                           const Memory& step_offsets, std::int64_t num_tokens) {
  const finestep::StepMap map{positions(step_start), positions(step_end), positions(step_offsets),
                              num_tokens};
  finestep::check_spans(map);
  return map;
}

void evaluate(const Tokens& tokens, const Steps& steps, std::span<const double> step_advantage,
              const finestep::LossSettings& loss, const std::optional<Memory>& count,
              const LossOut& out, bool clear_between, int num_threads) {
  const auto& [logp, logp_old, logp_ref, token_weight] = tokens;
  const auto& [step_start, step_end, step_offsets] = steps;
  const auto& [loss_out, gradient_out, metrics_out] = out;
  const std::int64_t num_tokens = logp.size;
  const auto map = step_map(step_start, step_end, step_offsets, num_tokens);
  finestep::check_offsets(map.step_offsets, map.num_steps());
  require(std::ssize(step_advantage) == map.num_steps(), "step_advantage must be [S]");
  const finestep::TokenInputs inputs{.logp = input(logp, num_tokens),
                                     .logp_old = input(logp_old, num_tokens),
                                     .logp_ref = input(logp_ref, num_tokens),
                                     .token_weight = input(token_weight, num_tokens)};
  require(!loss.kl || logp_ref.has_value(), "token_logp_ref is missing");
  std::optional<double> divisor;
  if (count) {
    divisor = numbers(*count, 1).front();
  }
  finestep::GradientOutput gradient;
  if (gradient_out) {
    gradient = {.elements = output(*gradient_out, num_tokens), .clear_between = clear_between};
  }
  const auto result =
      finestep::policy_loss(map, inputs, step_advantage, loss, divisor, gradient, num_threads);
  finestep::narrow(&result.loss, 1, 1, output(loss_out, 1), 0);
  finestep::narrow(result.metrics.data(), 1, std::ssize(result.metrics),
                   output(metrics_out, std::ssize(result.metrics)), 0);
}

void policy_loss(const Tokens& tokens, const Steps& steps, const Memory& step_advantage,
                 const finestep::LossSettings& loss, const std::optional<Memory>& count,
                 const LossOut& out, bool clear_between, int num_threads) {
  const auto advantage = numbers(step_advantage, step_advantage.size);
  evaluate(tokens, steps, advantage, loss, count, out, clear_between, num_threads);
}

void step_policy_loss(const Tokens& tokens, const Steps& steps, const Groups& groups,
                      const Rewards& rewards, const finestep::CreditSettings& credit,
                      const finestep::LossSettings& loss, const std::optional<Memory>& count,
                      const LossOut& out, bool clear_between, int num_threads) {
  const auto dtype = static_cast<finestep::Dtype>(std::get<0>(rewards).dtype);
  auto advantage = advantages(groups, rewards, credit, dtype, num_threads);
  if (dtype != finestep::Dtype::float64) {  // the same numbers as from step_advantage
    for (double& value : advantage) {
      value = static_cast<double>(static_cast<float>(value));
    }
  }
  evaluate(tokens, steps, advantage, loss, count, out, clear_between, num_threads);
}

void scale_gradient(const Memory& gradient, const Memory& scale, const Memory& step_start,
                    const Memory& step_end, int num_threads) {
  const auto map = step_map(step_start, step_end, step_start, gradient.size);
  finestep::scale_gradient(map, output(gradient, gradient.size), numbers(scale, 1).front(),
                           num_threads);
}

void token_values(const Memory& step_value, const Memory& step_start, const Memory& step_end,
                  const Memory& out, int num_threads) {
  const auto map = step_map(step_start, step_end, step_start, out.size);
  finestep::token_values(map, numbers(step_value, map.num_steps()), output(out, out.size),
                         num_threads);
}

bool all_within(const Memory& values, double low, double high) {
  return std::ranges::all_of(numbers(values, values.size),
                             [&](double value) { return low <= value && value <= high; });
}

constexpr auto kStepSpansDoc =
    "Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets "
    "[R+1]). `mask` is [R, L], C-contiguous.";
constexpr auto kStepAdvantageDoc =
    "Write the advantages [S] to `out`. groups: step_offsets, group_offsets, group_rollouts; "
    "rewards: step_reward [S], rollout_outcome [R], step_state [S] int64 or None, step_value [S] "
    "or "
    "None; credit: the fields of CreditConfig.";
constexpr auto kPolicyLossDoc =
    "Write loss [1], the gradient of the policy tokens to their places in [T] (where it is asked "
    "for; with clear_between also zeros to all others: steps must then ascend) and metrics to "
    "`out`. "
    "tokens: token_logp, token_logp_old, token_logp_ref, token_weight; steps: step_start, "
    "step_end, "
    "step_offsets; loss: the fields of LossConfig; count [1]: what the aggregation divides by, "
    "else "
    "the batch's own.";
constexpr auto kStepPolicyLossDoc =
    "policy_loss of step_advantage, without its way through memory.";
constexpr auto kTokenValuesDoc =
    "Write step_value [S] to the tokens of each step and 0 to all others of `out` [T].";
constexpr auto kAllWithinDoc = "Whether low <= value <= high for all values; never for a NaN.";
constexpr auto kScaleGradientDoc =
    "Multiply gradient [T] by scale [1] in place, for the tokens inside steps.";

void define(py::module_& module) {
  using ReleaseGil = py::call_guard<finestep::ReleasedGil>;
  module.def("step_spans", &step_spans<bool>, py::arg("mask").noconvert(),
             py::arg("num_threads") = 1, kStepSpansDoc);
  module.def("step_spans", &step_spans<std::uint8_t>, py::arg("mask").noconvert(),
             py::arg("num_threads") = 1, kStepSpansDoc);
  module.def("step_advantage", &step_advantage, py::arg("groups"), py::arg("rewards"),
             py::arg("credit"), py::arg("out"), py::arg("num_threads"), kStepAdvantageDoc,
             ReleaseGil());
  module.def("policy_loss", &policy_loss, py::arg("tokens"), py::arg("steps"),
             py::arg("step_advantage"), py::arg("loss"), py::arg("count"), py::arg("out"),
             py::arg("clear_between"), py::arg("num_threads"), kPolicyLossDoc, ReleaseGil());
  module.def("step_policy_loss", &step_policy_loss, py::arg("tokens"), py::arg("steps"),
             py::arg("groups"), py::arg("rewards"), py::arg("credit"), py::arg("loss"),
             py::arg("count"), py::arg("out"), py::arg("clear_between"), py::arg("num_threads"),
             kStepPolicyLossDoc, ReleaseGil());
  module.def("scale_gradient", &scale_gradient, py::arg("gradient"), py::arg("scale"),
             py::arg("step_start"), py::arg("step_end"), py::arg("num_threads"), kScaleGradientDoc,
             ReleaseGil());
  module.def("token_values", &token_values, py::arg("step_value"), py::arg("step_start"),
             py::arg("step_end"), py::arg("out"), py::arg("num_threads"), kTokenValuesDoc,
             ReleaseGil());
  module.def("all_within", &all_within, py::arg("values"), py::arg("low"), py::arg("high"),
             kAllWithinDoc);
}

}  // namespace

void finestep::bind_losses(py::module_& module) { define(module); }
