// How far values lie apart, and from their mean.
#pragma once

#include <span>

#include "credit/credit_settings.h"

namespace finestep {

// Replaces each value by its advantage over the others; 0 for all if there is only one, and where
// they are no farther apart than `rounding`.
void compare_with_each_other(std::span<double> set, double rounding, double std_floor,
                             const CreditSettings& settings);

// Returns whether there is nothing to compare: fewer than 2 values, or a spread within rounding.
bool is_alike(std::span<const double> set, double rounding);

// Returns the standard deviation that the settings name; 0 for fewer than 2 values.
double standard_deviation(std::span<const double> set, const CreditSettings& settings);

// Returns what a comparison divides by.
double divisor(double std, double std_floor, const CreditSettings& settings);

}  // namespace finestep
