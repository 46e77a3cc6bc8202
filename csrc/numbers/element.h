// Numbers in memory, in the types that tensors have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace finestep {

// In the order of kDtypes in python/tensor.h.
enum class Dtype : std::uint8_t { float32, float64, bfloat16, float16 };

constexpr std::int64_t size_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return 4;
    case Dtype::float64:
      return 8;
    case Dtype::bfloat16:
    case Dtype::float16:
      break;
  }
  return 2;
}

// Elements of a tensor that is not ours; `data` is null where it is not given.
struct ConstElements {
  const void* data = nullptr;
  Dtype dtype = Dtype::float32;

  // Those from element `first` on.
  [[nodiscard]] ConstElements from(std::int64_t first) const {
    const auto* bytes = static_cast<const std::byte*>(data);
    return {.data = data == nullptr ? nullptr : bytes + (first * size_bytes(dtype)),
            .dtype = dtype};
  }
};

// The same, to be written.
struct Elements {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;

  [[nodiscard]] Elements from(std::int64_t first) const {
    auto* bytes = static_cast<std::byte*>(data);
    return {.data = data == nullptr ? nullptr : bytes + (first * size_bytes(dtype)),
            .dtype = dtype};
  }
};

// out[i] = from[first + i] for i < count. Exact.
void widen(ConstElements from, std::int64_t first, std::int64_t count, double* out);

// to[first + i] = factor * value[i] for i < count, rounded to nearest. A 16-bit float is rounded
// from a float32, as torch does it.
void narrow(const double* value, double factor, std::int64_t count, Elements to,
            std::int64_t first);

// to[first + i] = value for i < count, rounded as by narrow().
void fill(Elements to, double value, std::int64_t first, std::int64_t count);

// to[first + i] = 0 for i < count.
void clear(Elements to, std::int64_t first, std::int64_t count);

}  // namespace finestep
