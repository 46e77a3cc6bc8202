// From rewards to one advantage per step.
#pragma once

#include <vector>

#include "credit/credit_settings.h"
#include "credit/group_map.h"
#include "credit/group_returns.h"

namespace finestep {

// Returns the advantage of each step: [S]. A spread that rounding alone may cause counts as none;
// `epsilon` is the distance of rewards around 1. The result is the same for any number of threads.
std::vector<double> step_advantage(const GroupMap& map, const Rewards& rewards,
                                   const CreditSettings& settings, double epsilon, int num_threads);

}  // namespace finestep
