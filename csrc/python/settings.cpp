#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include "credit/step_credit.h"
#include "loss/loss_settings.h"
#include "python/bindings.h"
#include "python/fields.h"

namespace py = pybind11;

namespace finestep {
namespace {

void bind_credit_settings(py::module_& module) {
  py::native_enum<Scope>(module, "Scope", "enum.Enum", "What a step is held against.")
      .value("pooled", Scope::pooled)
      .value("per_index", Scope::per_index)
      .value("trajectory", Scope::trajectory)
      .value("state", Scope::state)
      .value("value", Scope::value)
      .finalize();
  py::native_enum<Channels>(module, "Channels", "enum.Enum", "How rewards and outcomes combine.")
      .value("joint", Channels::joint)
      .value("decoupled", Channels::decoupled)
      .finalize();
  py::native_enum<Std>(module, "Std", "enum.Enum", "What advantages are divided by.")
      .value("sample", Std::sample)
      .value("population", Std::population)
      .value("none", Std::none)
      .finalize();
  using S = CreditSettings;
  bind_fields(
      module, "CreditSettings", "The fields of CreditConfig that computing needs.",
      Field{"process_baseline", &S::process_baseline}, Field{"process_weight", &S::process_weight},
      Field{"outcome_weight", &S::outcome_weight}, Field{"process_discount", &S::process_discount},
      Field{"outcome_discount", &S::outcome_discount}, Field{"smoothing", &S::smoothing},
      Field{"scope", &S::scope}, Field{"state_shrinkage", &S::state_shrinkage},
      Field{"gae_lambda", &S::gae_lambda}, Field{"channels", &S::channels}, Field{"std", &S::std},
      Field{"std_floor", &S::std_floor}, Field{"epsilon", &S::epsilon},
      Field{"leave_one_out", &S::leave_one_out}, Field{"step_weight", &S::step_weight},
      Field{"rollout_weight", &S::rollout_weight}, Field{"advantage_clip", &S::advantage_clip});
}

void bind_loss_settings(py::module_& module) {
  py::native_enum<LossKind>(module, "LossKind", "enum.Enum", "The form of the policy loss.")
      .value("ppo", LossKind::ppo)
      .value("cispo", LossKind::cispo)
      .finalize();
  py::native_enum<RatioLevel>(module, "RatioLevel", "enum.Enum", "Which tokens share a ratio.")
      .value("token", RatioLevel::token)
      .value("step", RatioLevel::step)
      .value("rollout", RatioLevel::rollout)
      .value("rollout_averaged", RatioLevel::rollout_averaged)
      .finalize();
  py::native_enum<Aggregation>(module, "Aggregation", "enum.Enum", "How tokens are weighted.")
      .value("token_mean", Aggregation::token_mean)
      .value("rollout_mean", Aggregation::rollout_mean)
      .value("step_mean", Aggregation::step_mean)
      .value("constant", Aggregation::constant)
      .finalize();
  py::native_enum<KlEstimator>(module, "KlEstimator", "enum.Enum",
                               "The estimate of the distance to the reference policy.")
      .value("k1", KlEstimator::k1)
      .value("k2", KlEstimator::k2)
      .value("k3", KlEstimator::k3)
      .finalize();
  using S = LossSettings;
  bind_fields(module, "LossSettings", "The fields of LossConfig.", Field{"kind", &S::kind},
              Field{"ratio", &S::ratio}, Field{"clip_low", &S::clip_low},
              Field{"clip_high", &S::clip_high}, Field{"dual_clip", &S::dual_clip},
              Field{"aggregation", &S::aggregation}, Field{"constant_tokens", &S::constant_tokens},
              Field{"kl", &S::kl}, Field{"kl_weight", &S::kl_weight});
}

}  // namespace

void bind_settings(py::module_& module) {
  bind_credit_settings(module);
  bind_loss_settings(module);
}

}  // namespace finestep
