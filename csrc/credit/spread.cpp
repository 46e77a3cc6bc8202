#include "credit/spread.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

namespace finestep {
namespace {

// The sum of a function of each value; in four parts, since one addition waits for another.
template <typename Function>
double sum(std::span<const double> set, const Function& function) {
  std::array<double, 4> four{};
  const std::span parts(four);
  std::size_t i = 0;
  for (; i + parts.size() <= set.size(); i += parts.size()) {
    for (std::size_t part = 0; part < parts.size(); ++part) {
      parts[part] += function(set[i + part]);
    }
  }
  for (; i < set.size(); ++i) {
    parts[0] += function(set[i]);
  }
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

double mean_of(std::span<const double> set) {
  return sum(set, [](double value) { return value; }) / static_cast<double>(set.size());
}

double deviation(std::span<const double> set, double mean, const CreditSettings& settings) {
  const auto count = static_cast<double>(set.size());
  const double freedom = settings.std == Std::sample ? count - 1 : count;
  return std::sqrt(sum(set, [mean](double value) { return (value - mean) * (value - mean); }) /
                   freedom);
}

}  // namespace

void compare_with_each_other(std::span<double> set, double rounding, double std_floor,
                             const CreditSettings& settings) {
  if (is_alike(set, rounding)) {
    std::ranges::fill(set, 0.0);
    return;
  }
  const auto count = static_cast<double>(set.size());
  const double mean = mean_of(set);
  double factor = settings.leave_one_out ? count / (count - 1) : 1;
  factor /=
      divisor(settings.std == Std::none ? 0 : deviation(set, mean, settings), std_floor, settings);
  for (double& value : set) {
    value = (value - mean) * factor;
  }
}

bool is_alike(std::span<const double> set, double rounding) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  bool is_nan = false;
  for (const double value : set) {
    is_nan |= std::isnan(value);
    low = std::min(low, value);
    high = std::max(high, value);
  }
  return set.size() < 2 || (high - low <= rounding && !is_nan);
}

double standard_deviation(std::span<const double> set, const CreditSettings& settings) {
  return set.size() < 2 ? 0 : deviation(set, mean_of(set), settings);
}

double divisor(double std, double std_floor, const CreditSettings& settings) {
  return settings.std == Std::none ? 1 : (std < std_floor ? std_floor : std) + settings.epsilon;
}

}  // namespace finestep
