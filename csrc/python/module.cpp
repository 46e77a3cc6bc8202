// The compiled module, finestep_fast._core: views in, GIL released, work done, result out. Only
// this folder includes Python's headers.
#include <pybind11/pybind11.h>

#include "python/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() =
      "The compiled CPU core of finestep_fast. Its entry points are StepBatch, finestep_fast.ops "
      "and finestep_fast.sql.";
  finestep::bind_settings(module);
  finestep::bind_losses(module);
  finestep::bind_logit_rows(module);
  finestep::bind_comparison(module);
  finestep::bind_sqlite(module);
  finestep::bind_engine(module);
  finestep::bind_workers(module);
}
