#include "element.h"

#include <algorithm>

#include "clones.h"
#include "half.h"

namespace finestep {

FINESTEP_CLONES void widen(ConstElements from, std::int64_t first, std::int64_t count,
                           double* out) {
  switch (from.dtype) {
    case Dtype::float32: {
      const auto* data = static_cast<const float*>(from.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(data[i]);
      }
      break;
    }
    case Dtype::float64: {
      const auto* data = static_cast<const double*>(from.data) + first;
      std::copy_n(data, count, out);
      break;
    }
    case Dtype::bfloat16: {
      const auto* data = static_cast<const std::uint16_t*>(from.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(from_bfloat16(data[i]));
      }
      break;
    }
    case Dtype::float16: {
      const auto* data = static_cast<const std::uint16_t*>(from.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(from_float16(data[i]));
      }
      break;
    }
  }
}

FINESTEP_CLONES void narrow(const double* value, double factor, std::int64_t count, Elements to,
                            std::int64_t first) {
  switch (to.dtype) {
    case Dtype::float32: {
      auto* data = static_cast<float*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = static_cast<float>(factor * value[i]);
      }
      break;
    }
    case Dtype::float64: {
      auto* data = static_cast<double*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = factor * value[i];
      }
      break;
    }
    case Dtype::bfloat16: {
      auto* data = static_cast<std::uint16_t*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = to_bfloat16(static_cast<float>(factor * value[i]));
      }
      break;
    }
    case Dtype::float16: {
      auto* data = static_cast<std::uint16_t*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = to_float16(static_cast<float>(factor * value[i]));
      }
      break;
    }
  }
}

void clear(Elements to, std::int64_t first, std::int64_t count) {
  switch (to.dtype) {
    case Dtype::float32:
      std::fill_n(static_cast<float*>(to.data) + first, count, 0.0F);
      break;
    case Dtype::float64:
      std::fill_n(static_cast<double*>(to.data) + first, count, 0.0);
      break;
    case Dtype::bfloat16:
    case Dtype::float16:
      std::fill_n(static_cast<std::uint16_t*>(to.data) + first, count, std::uint16_t{0});
      break;
  }
}

}  // namespace finestep
