// Tensors as this module's functions take them: an address, a size and a dtype.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "numbers/element.h"

namespace finestep {

// A contiguous tensor, alive as long as the call. `dtype` is an index into kDtypes.
struct Memory {
  void* address = nullptr;
  std::int64_t size = 0;
  int dtype = 0;
};
inline constexpr std::array kDtypes{"float32", "float64", "bfloat16", "float16", "int64"};
inline constexpr int kInt64 = 4;

// What is looked up in torch once, not again for each tensor.
struct Torch {
  pybind11::object tensor = pybind11::module_::import("torch").attr("Tensor");
  std::array<pybind11::object, kDtypes.size()> dtypes;
  pybind11::str dtype = "dtype";
  pybind11::str is_contiguous = "is_contiguous";
  pybind11::str data_ptr = "data_ptr";
  pybind11::str numel = "numel";
  pybind11::str dispatch = "__torch_dispatch__";
  pybind11::object no_dispatch = tensor.attr(dispatch);
  pybind11::str is_cpu = "is_cpu";
  pybind11::str is_neg = "is_neg";

  Torch() {
    const auto torch = pybind11::module_::import("torch");
    for (std::size_t i = 0; i < kDtypes.size(); ++i) {
      dtypes[i] = torch.attr(kDtypes[i]);
    }
  }

  static const Torch& get() {
    PYBIND11_CONSTINIT static pybind11::gil_safe_call_once_and_store<Torch> stored;
    return stored.call_once_and_store_result([] { return Torch(); }).get_stored();
  }
};

inline void require(bool holds, const char* what) {
  if (!holds) {
    throw std::invalid_argument(what);
  }
}

inline std::span<const std::int64_t> positions(const Memory& memory) {
  require(memory.dtype == kInt64, "positions must be int64");
  return {static_cast<const std::int64_t*>(memory.address), static_cast<std::size_t>(memory.size)};
}

inline Elements output(const Memory& memory, std::int64_t size) {
  require(memory.size == size && 0 <= memory.dtype && memory.dtype < kInt64,
          "a float tensor has another size or dtype than the other arguments require");
  return {.data = memory.address, .dtype = static_cast<Dtype>(memory.dtype)};
}

inline ConstElements input(const Memory& memory, std::int64_t size) {
  const auto elements = output(memory, size);
  return {.data = elements.data, .dtype = elements.dtype};
}

inline ConstElements input(const std::optional<Memory>& memory, std::int64_t size) {
  return memory ? input(*memory, size) : ConstElements{};
}

inline std::vector<double> numbers(const Memory& memory, std::int64_t size) {
  std::vector<double> values(static_cast<std::size_t>(size));
  widen(input(memory, size), 0, size, values.data());
  return values;
}

}  // namespace finestep

// Converts a tensor to a `Memory` argument.
template <>
struct pybind11::detail::type_caster<finestep::Memory> {
  PYBIND11_TYPE_CASTER(finestep::Memory, const_name("torch.Tensor"));

  bool load(handle given, bool /*convert*/) {
    const auto& torch = finestep::Torch::get();
    if (!isinstance(given, torch.tensor)) {
      return false;
    }
    const auto call = [&](const str& method) {
      auto result = reinterpret_steal<object>(PyObject_CallMethodNoArgs(given.ptr(), method.ptr()));
      if (!result) {  // as for a wrapper of torch.func, which has no storage
        throw error_already_set();
      }
      return result;
    };
    const auto dtype = getattr(given, torch.dtype);
    const auto* known = std::ranges::find_if(
        torch.dtypes, [&](const object& candidate) { return candidate.is(dtype); });
    if (known == torch.dtypes.end() || !call(torch.is_contiguous).cast<bool>()) {
      return false;
    }
    // Its memory would not be read as torch reads it, or there is none.
    if (!getattr(given, torch.dispatch).is(torch.no_dispatch) ||
        !getattr(given, torch.is_cpu).cast<bool>() || call(torch.is_neg).cast<bool>()) {
      return false;
    }
    value.dtype = static_cast<int>(known - torch.dtypes.begin());
    value.address = PyLong_AsVoidPtr(call(torch.data_ptr).ptr());
    value.size = call(torch.numel).cast<std::int64_t>();
    return value.address != nullptr || value.size == 0;  // zeros that torch never wrote have none
  }
};
