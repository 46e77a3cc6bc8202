// 16-bit floats as bits, to and from float32. Plain enough to be vectorised inside a loop.
#pragma once

#include <bit>
#include <cstdint>

namespace finestep {

// bfloat16 is the upper half of a float32.
[[gnu::always_inline]] inline float from_bfloat16(std::uint16_t half) {
  return std::bit_cast<float>(std::uint32_t{half} << 16U);
}

[[gnu::always_inline]] inline std::uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
  return static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0U);
}

// float16: 5 bits of exponent, 10 of fraction. Shifted into place, its exponent is 112 too small;
// a multiplication mends that, also for subnormal numbers.
[[gnu::always_inline]] inline float from_float16(std::uint16_t half) {
  const std::uint32_t magnitude = (half & 0x7fffU) << 13U;
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude | 0x7f800000U;
  return std::bit_cast<float>(sign | (magnitude < 0x0f800000U ? finite : special));
}

[[gnu::always_inline]] inline std::uint16_t to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  const std::uint32_t normal =
      (magnitude - (112U << 23U) + 0x0fffU + ((magnitude >> 13U) & 1U)) >> 13U;
  // The last bit of 0.5F is worth the smallest subnormal float16.
  const auto shifted = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F);
  const std::uint32_t subnormal = shifted - std::bit_cast<std::uint32_t>(0.5F);
  std::uint32_t half = magnitude < (113U << 23U) ? subnormal : normal;
  half = magnitude >= 0x477ff000U ? 0x7c00U : half;
  half = magnitude > 0x7f800000U ? 0x7e00U : half;
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace finestep
