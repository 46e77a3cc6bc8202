// exp(x) for |x| <= 20, plain enough for the compiler to vectorise a loop around it.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace finestep {

// x = n ln 2 + r with |r| <= ln 2 / 2. exp(r) is the polynomial with the smallest relative error
// among those of its degree that are 1 at 0; the coefficients of r, r^2, ... stand highest first.

// Degree 10: within 4e-15 of exp(x).
inline constexpr std::array kExactExponential{
    0x1.27279ed1bbf13p-22, 0x1.72f993b7af18cp-19, 0x1.a01b6d08ba15ap-16, 0x1.a0197a40d0e11p-13,
    0x1.6c16c0c092728p-10, 0x1.1111112d4dc76p-7,  0x1.555555559348dp-5,  0x1.555555554bbeap-3,
    0x1.ffffffffffe17p-2,  0x1.000000000001dp+0};

// Degree 7: within 5e-11, a thousandth of what float32 can tell.
inline constexpr std::array kSingleExponential{
    0x1.9e8ecdb127904p-13, 0x1.6d95696e08561p-10, 0x1.11130b23868a9p-7, 0x1.555481a907569p-5,
    0x1.55555350a4e78p-3,  0x1.000000424eba3p-1,  0x1.00000000e588fp+0};

// Exactly 1 at 0; a NaN stays one.
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

}  // namespace finestep
