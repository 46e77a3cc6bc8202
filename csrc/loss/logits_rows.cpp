#include "loss/logits_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "numbers/clones.h"
#include "numbers/exponential.h"
#include "numbers/half.h"
#include "threads/parallel.h"

// A row is taken in blocks that fit into the first-level cache: float32 for logits of up to 32
// bits, float64 for the rest. Sums over a block are added up in float64. A NaN passes on into
// every result of its row.

namespace finestep {
namespace {

constexpr std::int64_t kBlock = 512;
// Partial sums of a block, however wide the machine's vectors are: 32 terms in each.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kElementsPerChunk = 65536;

template <typename Real>
[[gnu::always_inline]] inline Real raised(Real x) {
  return x < kLowestExponent<Real> ? kLowestExponent<Real> : x;
}

// The sums over a row so far, with x_j = (logit_j - maximum) / temperature.
struct Sums {
  double maximum = 0;
  double total = 0;     // sum_j exp x_j
  double weighted = 0;  // sum_j x_j exp x_j
};

template <typename Stored>
[[gnu::always_inline]] inline Sums row_sums(const Stored* logit, std::int64_t size,
                                            double inverse_temperature) {
  using Real = RealOf<Stored>;
  const auto inverse = static_cast<Real>(inverse_temperature);
  std::array<Real, kBlock> block;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  Real* value = block.data();
  Real maximum = std::numeric_limits<Real>::lowest();
  Sums sums;
  for (std::int64_t at = 0; at < size; at += kBlock) {
    const std::int64_t count = std::min(kBlock, size - at);
    const auto* from = logit + at;
    Real largest = maximum;
#pragma omp simd reduction(max : largest)
    for (std::int64_t i = 0; i < count; ++i) {
      value[i] = widened(from[i]);
      largest = value[i] > largest ? value[i] : largest;
    }
    if (largest > maximum) {
      const double lower = static_cast<double>(maximum) - static_cast<double>(largest);
      const double apart = std::max(lower * inverse_temperature, -1e4);
      const double factor = std::exp(apart);
      sums.weighted = factor * (sums.weighted + apart * sums.total);
      sums.total *= factor;
      maximum = largest;
    }
    std::array<Real, kLanes> total{};
    std::array<Real, kLanes> weighted{};
    const auto add = [&](std::int64_t i, std::int64_t lane) [[gnu::always_inline]] {
      const Real x = raised<Real>((value[i] - maximum) * inverse);
      const Real e = falling_exponential(x);
      total.data()[lane] += e;
      weighted.data()[lane] += x * e;
    };
    const std::int64_t whole = count / kLanes * kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
#pragma omp simd
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        add(i + lane, lane);
      }
    }
    for (std::int64_t i = whole; i < count; ++i) {
      add(i, i - whole);
    }
    for (const Real lane : total) {
      sums.total += static_cast<double>(lane);
    }
    for (const Real lane : weighted) {
      sums.weighted += static_cast<double>(lane);
    }
  }
  sums.maximum = static_cast<double>(maximum);
  return sums;
}

// gradient_j = exp(x_j) (constant + slope x_j)
template <typename Stored, bool kHasSlope>
[[gnu::always_inline]] inline void row_gradient(const Stored* logit, std::int64_t size,
                                                double maximum, double inverse_temperature,
                                                double constant, double slope, Stored* gradient) {
  using Real = RealOf<Stored>;
  const auto inverse = static_cast<Real>(inverse_temperature);
  const auto most = static_cast<Real>(maximum);
  const auto a = static_cast<Real>(constant);
  const auto b = static_cast<Real>(slope);
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) {
    const Real x = raised<Real>((widened(logit[i]) - most) * inverse);
    const Real e = falling_exponential(x);
    gradient[i] = narrowed<Stored>(kHasSlope ? e * (a + b * x) : e * a);
  }
}

template <typename Stored>
[[gnu::always_inline]] inline void read_stored(const LogitRows& rows, const RowSums& sums,
                                               std::size_t first, std::size_t last) {
  const auto* logits = static_cast<const Stored*>(rows.logits.data);
  for (std::size_t i = first; i < last; ++i) {
    const auto* logit = logits + rows.row[i] * rows.vocabulary;
    const double inverse = 1 / rows.temperature[i];
    const Sums row = row_sums<Stored>(logit, rows.vocabulary, inverse);
    const double log_total = std::log(row.total);
    const auto of_target = static_cast<double>(widened(logit[rows.target[i]]));
    const double entropy = log_total - row.weighted / row.total;
    sums.logp[i] = (of_target - row.maximum) * inverse - log_total;
    sums.entropy[i] = entropy < 0 ? 0.0 : entropy;
    sums.maximum[i] = row.maximum;
    sums.total[i] = row.total;
  }
}

template <typename Stored>
[[gnu::always_inline]] inline void write_stored(const LogitRows& rows, const RowSums& sums,
                                                const RowSlopes& slopes, Elements out,
                                                std::size_t first, std::size_t last) {
  const auto* logits = static_cast<const Stored*>(rows.logits.data);
  auto* gradients = static_cast<Stored*>(out.data);
  for (std::size_t i = first; i < last; ++i) {
    const std::int64_t place = rows.row[i] * rows.vocabulary;
    const double of_logp = slopes.logp[i];
    const double of_entropy = slopes.entropy.empty() ? 0.0 : slopes.entropy[i];
    if (of_logp == 0 && of_entropy == 0) {
      std::fill_n(gradients + place, rows.vocabulary, Stored{});
      continue;
    }
    const double inverse = 1 / rows.temperature[i];
    const double share = inverse / sums.total[i];
    const double mean = sums.entropy[i] - std::log(sums.total[i]);  // of -x_j
    const double constant = -(of_logp + of_entropy * mean) * share;
    const double logp = sums.logp[i];
    const double finite = logp < -1e4 ? -1e4 : logp;  // 0 log 0 = 0
    const double target_gradient =
        inverse *
        (-of_logp * std::expm1(logp) - of_entropy * std::exp(finite) * (finite + sums.entropy[i]));
    if (of_entropy == 0) {
      row_gradient<Stored, false>(logits + place, rows.vocabulary, sums.maximum[i], inverse,
                                  constant, 0, gradients + place);
    } else {
      row_gradient<Stored, true>(logits + place, rows.vocabulary, sums.maximum[i], inverse,
                                 constant, -of_entropy * share, gradients + place);
    }
    gradients[place + rows.target[i]] =
        narrowed<Stored>(static_cast<RealOf<Stored>>(target_gradient));
  }
}

FINESTEP_CLONES void read_some(const LogitRows& rows, const RowSums& sums, std::size_t first,
                               std::size_t last) {
  switch (rows.logits.dtype) {
    case Dtype::float32:
      read_stored<float>(rows, sums, first, last);
      break;
    case Dtype::float64:
      read_stored<double>(rows, sums, first, last);
      break;
    case Dtype::bfloat16:
      read_stored<Bfloat16>(rows, sums, first, last);
      break;
    case Dtype::float16:
      read_stored<Float16>(rows, sums, first, last);
      break;
  }
}

FINESTEP_CLONES void write_some(const LogitRows& rows, const RowSums& sums, const RowSlopes& slopes,
                                Elements out, std::size_t first, std::size_t last) {
  switch (rows.logits.dtype) {
    case Dtype::float32:
      write_stored<float>(rows, sums, slopes, out, first, last);
      break;
    case Dtype::float64:
      write_stored<double>(rows, sums, slopes, out, first, last);
      break;
    case Dtype::bfloat16:
      write_stored<Bfloat16>(rows, sums, slopes, out, first, last);
      break;
    case Dtype::float16:
      write_stored<Float16>(rows, sums, slopes, out, first, last);
      break;
  }
}

template <typename Work>
void for_some_rows(const LogitRows& rows, int num_threads, const Work& work) {
  const std::int64_t each = std::max<std::int64_t>(1, kElementsPerChunk / rows.vocabulary);
  const std::int64_t num_rows = std::ssize(rows.row);
  for_each_chunk(num_chunks(num_rows, each), num_threads, [&](std::int64_t chunk) {
    work(static_cast<std::size_t>(chunk * each),
         static_cast<std::size_t>(std::min(num_rows, (chunk + 1) * each)));
  });
}

}  // namespace

void check_rows(const LogitRows& rows) {
  if (rows.vocabulary < 1) {
    throw std::out_of_range("logits have no columns");
  }
  if (rows.target.size() != rows.row.size() || rows.temperature.size() != rows.row.size()) {
    throw std::out_of_range("target and temperature must be of the length of row");
  }
  const auto outside = [](std::span<const std::int64_t> places, std::int64_t size) {
    return std::ranges::any_of(places, [&](std::int64_t at) { return at < 0 || at >= size; });
  };
  if (outside(rows.row, rows.num_rows)) {
    throw std::out_of_range("a row lies outside the logits");
  }
  if (outside(rows.target, rows.vocabulary)) {
    throw std::out_of_range("a target lies outside the vocabulary");
  }
}

void read_rows(const LogitRows& rows, const RowSums& sums, int num_threads) {
  for_some_rows(rows, num_threads,
                [&](std::size_t first, std::size_t last) { read_some(rows, sums, first, last); });
}

void write_row_gradients(const LogitRows& rows, const RowSums& sums, const RowSlopes& slopes,
                         Elements gradient, int num_threads) {
  for_some_rows(rows, num_threads, [&](std::size_t first, std::size_t last) {
    write_some(rows, sums, slopes, gradient, first, last);
  });
}

}  // namespace finestep
