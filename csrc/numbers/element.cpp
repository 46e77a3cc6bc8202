#include "numbers/element.h"

#include <algorithm>

#include "numbers/clones.h"
#include "numbers/half.h"

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
      const auto* data = static_cast<const Bfloat16*>(from.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(static_cast<float>(data[i]));
      }
      break;
    }
    case Dtype::float16: {
      const auto* data = static_cast<const Float16*>(from.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(static_cast<float>(data[i]));
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
      auto* data = static_cast<Bfloat16*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = Bfloat16::nearest(static_cast<float>(factor * value[i]));
      }
      break;
    }
    case Dtype::float16: {
      auto* data = static_cast<Float16*>(to.data) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        data[i] = Float16::nearest(static_cast<float>(factor * value[i]));
      }
      break;
    }
  }
}

void fill(Elements to, double value, std::int64_t first, std::int64_t count) {
  const auto single = static_cast<float>(value);
  switch (to.dtype) {
    case Dtype::float32:
      std::fill_n(static_cast<float*>(to.data) + first, count, single);
      break;
    case Dtype::float64:
      std::fill_n(static_cast<double*>(to.data) + first, count, value);
      break;
    case Dtype::bfloat16:
      std::fill_n(static_cast<Bfloat16*>(to.data) + first, count, Bfloat16::nearest(single));
      break;
    case Dtype::float16:
      std::fill_n(static_cast<Float16*>(to.data) + first, count, Float16::nearest(single));
      break;
  }
}

void clear(Elements to, std::int64_t first, std::int64_t count) { fill(to, 0, first, count); }

}  // namespace finestep
