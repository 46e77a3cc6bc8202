// What is said of a query whose worker is gone.
#pragma once

#include <chrono>

#include "sql/query.h"
#include "workers/work.h"

namespace finestep {

// So often a query may be there when a worker ends by itself, before it is taken for the cause.
inline constexpr int kTriesOfCrashes = 3;

inline QueryReport loss_report(Loss loss, std::chrono::nanoseconds latest) {
  QueryReport report;
  report.is_passing = true;
  if (loss == Loss::late) {
    report.status = QueryStatus::timeout;
    report.message = "stopped after its deadline, by ending the process that ran it";
    report.elapsed_ms = std::chrono::duration<double, std::milli>(latest).count();
  } else {
    report.status = QueryStatus::error;
    report.message = "the process that ran the query crashed";
  }
  return report;
}

}  // namespace finestep
