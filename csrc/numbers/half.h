// The two 16-bit floats, and how to compute with any stored float, plain enough for the compiler to
// vectorise.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace finestep {

// bfloat16: the upper half of a float32.
struct Bfloat16 {
  std::uint16_t bits;

  [[gnu::always_inline]] explicit operator float() const {
    return std::bit_cast<float>(std::uint32_t{bits} << 16U);
  }

  [[gnu::always_inline]] static Bfloat16 nearest(float value) {
    const auto single = std::bit_cast<std::uint32_t>(value);
    const auto rounded = (single + 0x7fffU + ((single >> 16U) & 1U)) >> 16U;
    return {static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0U)};
  }
};

// float16: 5 bits of exponent, 10 of fraction.
struct Float16 {
  std::uint16_t bits;

  // Shifted into place, the exponent is 112 too small; a multiplication corrects that, also for
  // subnormal numbers.
  [[gnu::always_inline]] explicit operator float() const {
    const std::uint32_t magnitude = (bits & 0x7fffU) << 13U;
    const std::uint32_t sign = (bits & 0x8000U) << 16U;
    const auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
    const std::uint32_t special = magnitude | 0x7f800000U;
    return std::bit_cast<float>(sign | (magnitude < 0x0f800000U ? finite : special));
  }

  [[gnu::always_inline]] static Float16 nearest(float value) {
    const auto single = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (single >> 16U) & 0x8000U;
    const std::uint32_t magnitude = single & 0x7fffffffU;
    const std::uint32_t normal =
        (magnitude - (112U << 23U) + 0x0fffU + ((magnitude >> 13U) & 1U)) >> 13U;
    // The last bit of 0.5F is worth the smallest subnormal float16.
    const auto shifted = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F);
    const std::uint32_t subnormal = shifted - std::bit_cast<std::uint32_t>(0.5F);
    std::uint32_t half = magnitude < (113U << 23U) ? subnormal : normal;
    half = magnitude >= 0x477ff000U ? 0x7c00U : half;
    half = magnitude > 0x7f800000U ? 0x7e00U : half;
    return {static_cast<std::uint16_t>(sign | half)};
  }
};

// What stored floats are computed in: float64 in float64, all others in float32.
template <typename Stored>
using RealOf = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// Exact.
template <typename Stored>
[[gnu::always_inline]] inline RealOf<Stored> widened(Stored stored) {
  return static_cast<RealOf<Stored>>(stored);
}

// Rounded to nearest.
template <typename Stored>
[[gnu::always_inline]] inline Stored narrowed(RealOf<Stored> value) {
  if constexpr (std::is_floating_point_v<Stored>) {
    return value;
  } else {
    return Stored::nearest(value);
  }
}

}  // namespace finestep
