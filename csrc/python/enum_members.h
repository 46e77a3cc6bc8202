// Members of an enumeration for many results.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>

namespace finestep {

// Python's members of an enumeration with `kSize` values, each made when it is first asked for:
// making one costs as much as the rest of a short result. For one call, under the GIL.
template <typename Enum, std::size_t kSize>
class EnumMembers {
 public:
  const pybind11::object& operator[](Enum value) {
    auto& member = members_.at(static_cast<std::size_t>(value));
    if (!member) {
      member = pybind11::cast(value);
    }
    return member;
  }

 private:
  std::array<pybind11::object, kSize> members_;
};

}  // namespace finestep
