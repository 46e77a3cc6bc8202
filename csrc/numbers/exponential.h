// exp(x) on the two ranges that losses need, plain enough for the compiler to vectorise loops.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <type_traits>

namespace finestep {

// x = n ln 2 + r with |r| <= ln 2 / 2; 2^n is made from its bits. exp(r) is the polynomial with the
// smallest relative error among those of its degree that are 1 at 0; the coefficients of r, r^2,
// ... stand highest first.

// Degree 10: within 4e-15 of exp(x) for |x| <= 20.
inline constexpr std::array kExactExponential{
    0x1.27279ed1bbf13p-22, 0x1.72f993b7af18cp-19, 0x1.a01b6d08ba15ap-16, 0x1.a0197a40d0e11p-13,
    0x1.6c16c0c092728p-10, 0x1.1111112d4dc76p-7,  0x1.555555559348dp-5,  0x1.555555554bbeap-3,
    0x1.ffffffffffe17p-2,  0x1.000000000001dp+0};

// Degree 7: within 5e-11, a thousandth of what float32 can tell.
inline constexpr std::array kSingleExponential{
    0x1.9e8ecdb127904p-13, 0x1.6d95696e08561p-10, 0x1.11130b23868a9p-7, 0x1.555481a907569p-5,
    0x1.55555350a4e78p-3,  0x1.000000424eba3p-1,  0x1.00000000e588fp+0};

// exp(x) for |x| <= 20. Exactly 1 at 0; a NaN stays one.
template <std::size_t kDegree>
[[gnu::always_inline]] inline double exponential(double x,
                                                 const std::array<double, kDegree>& coefficients) {
  constexpr double kRoundToInteger = 0x1.8p52;  // adding it leaves n in the low bits
  const double shifted = x * std::numbers::log2e + kRoundToInteger;
  const double r = x - (shifted - kRoundToInteger) * std::numbers::ln2;
  const double* coefficient = coefficients.data();
  double p = coefficient[0];
#pragma GCC unroll 16
  for (std::size_t i = 1; i < kDegree; ++i) {
    p = p * r + coefficient[i];
  }
  p = p * r + 1.0;
  const std::uint64_t exponent = std::bit_cast<std::uint64_t>(shifted) + 1023U;
  return p * std::bit_cast<double>(exponent << 52U);
}

// The lowest x that falling_exponential takes; below it 2^n would leave the normal numbers.
template <typename Real>
constexpr Real kLowestExponent = static_cast<Real>(std::is_same_v<Real, float> ? -87 : -708);

// exp(x) for kLowestExponent <= x <= 0, within 2e-7 of its value and exactly 1 at 0; a NaN stays
// one. exp(r) = 1 + r + r^2 q(r), where q has the smallest relative error (3.2e-9).
[[gnu::always_inline]] inline float falling_exponential(float x) {
  constexpr float kRoundToInteger = 0x1.8p23F;
  const float shifted = x * std::numbers::log2e_v<float> + kRoundToInteger;
  const float n = shifted - kRoundToInteger;
  // ln 2 in two parts, of which the first has few bits: n times it is exact.
  constexpr float kHigh = 0x1.62e4p-1F;  // NOLINT(modernize-use-std-numbers)
  constexpr float kLow = 0x1.7f7d1cp-20F;
  const float r = (x - n * kHigh) - n * kLow;
  float q = 0x1.6a1f62p-10F;
  q = q * r + 0x1.123ccap-7F;
  q = q * r + 0x1.555904p-5F;
  q = q * r + 0x1.55548ep-3F;
  q = q * r + 0x1.fffffcp-2F;
  const float p = 1.0F + (r + r * r * q);
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) + 127U;
  return p * std::bit_cast<float>(exponent << 23U);
}

template <std::size_t kPlace>
constexpr double kExactCoefficient = kExactExponential[kPlace];

// The same in float64, within 4e-16. The polynomial is written out with constants that are known
// when it is read: with a loop over the array g++ contracts products and sums differently, and the
// last bit of an entropy changes.
[[gnu::always_inline]] inline double falling_exponential(double x) {
  constexpr double kRoundToInteger = 0x1.8p52;
  const double shifted = x * std::numbers::log2e + kRoundToInteger;
  const double n = shifted - kRoundToInteger;
  constexpr double kHigh = 0x1.62e42fefap-1;  // NOLINT(modernize-use-std-numbers)
  constexpr double kLow = 0x1.cf79abc9e3b3ap-40;
  const double r = (x - n * kHigh) - n * kLow;
  double p = kExactCoefficient<0>;
  p = p * r + kExactCoefficient<1>;
  p = p * r + kExactCoefficient<2>;
  p = p * r + kExactCoefficient<3>;
  p = p * r + kExactCoefficient<4>;
  p = p * r + kExactCoefficient<5>;
  p = p * r + kExactCoefficient<6>;
  p = p * r + kExactCoefficient<7>;
  p = p * r + kExactCoefficient<8>;
  p = p * r + kExactCoefficient<9>;
  p = p * r + 1.0;
  const std::uint64_t exponent = std::bit_cast<std::uint64_t>(shifted) + 1023U;
  return p * std::bit_cast<double>(exponent << 52U);
}

}  // namespace finestep
