// Settings that Python makes by name.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace finestep {

// A field of a settings class, and its name in Python.
template <typename Settings, typename Value>
struct Field {
  const char* name;
  Value Settings::* member;
};

template <typename Settings, typename Value>
Field(const char*, Value Settings::*) -> Field<Settings, Value>;

// Adds a class that is made from all of its fields, each by its name, and shows them.
template <typename Settings, typename... Values>
void bind_fields(pybind11::module_& module, const char* name, const char* doc,
                 Field<Settings, Values>... field) {
  pybind11::class_<Settings> bound(module, name, doc);
  bound.def(pybind11::init([field...](Values... value) {
              Settings settings;
              ((settings.*field.member = value), ...);
              return settings;
            }),
            pybind11::kw_only(), pybind11::arg(field.name)...);
  (bound.def_readonly(field.name, field.member), ...);
}

}  // namespace finestep
