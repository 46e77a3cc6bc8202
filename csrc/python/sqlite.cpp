#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "python/bindings.h"
#include "python/gil.h"
#include "python/sql_values.h"
#include "sql/expansion.h"
#include "sql/growth.h"
#include "sql/precheck.h"
#include "sql/query.h"
#include "sql/runner.h"
#include "sql/spider_query.h"
#include "sql/sqlite_library.h"
#include "sql/stored_rows.h"
#include "sql/tokens.h"

namespace py = pybind11;

namespace finestep {
namespace {

// The rows of our own queries on one database, in turn; None for one that fails.
py::typing::List<py::typing::Optional<PyRows>> own_rows(const SqliteLibrary& library,
                                                        const py::str& path,
                                                        const py::typing::List<py::str>& queries,
                                                        int max_instructions) {
  const auto file = py::cast<std::string>(checked(PyUnicode_EncodeFSDefault(path.ptr())));
  const FileIdentity identity = file_identity(file);
  Connection connection(library.api(), identity, access_to(identity));
  py::typing::List<py::typing::Optional<PyRows>> results;
  for (const auto& query : queries) {
    const std::string sql = utf8_of(query);
    StoredRows rows;
    bool is_whole = false;
    {
      const ReleasedGil released;
      is_whole = run_own_query(connection, sql, max_instructions, rows);
    }
    bool is_invalid = false;
    results.append(is_whole ? py::object(rows_of(rows.bytes(), rows.num_rows(), rows.num_columns(),
                                                 is_invalid))
                            : py::none());
  }
  return results;
}

}  // namespace

void bind_sqlite(py::module_& module) {
  py::class_<SqliteLibrary, std::shared_ptr<SqliteLibrary>>(
      module, "SqliteLibrary",
      "One opened SQLite library. `file` is a library, or a module that uses one.")
      .def(py::init<const std::string&>(), py::arg("file"))
      .def_property_readonly("path", &SqliteLibrary::path)
      .def_property_readonly("version", &SqliteLibrary::version)
      .def_property_readonly("compile_options", &SqliteLibrary::compile_options);
  module.def("own_rows", &own_rows, py::arg("library"), py::arg("path"), py::arg("queries"),
             py::arg("max_instructions"),
             "Rows of queries that are trusted, None for one that fails. Raises RuntimeError for a "
             "database that cannot be read.");
  module.def(
      "spider_query",
      [](std::string_view sql, bool keep_distinct) {
        SpiderQuery query = spider_query(sql, keep_distinct);
        return std::tuple(std::move(query.text), query.drops_distinct);
      },
      py::arg("sql"), py::arg("keep_distinct"),
      "The query as the test-suite evaluator runs it, and whether that drops the word DISTINCT.");
  module.def(
      "expanded_ctes",
      [](std::string_view sql) { return expanded_ctes(sql_tokens_without_space(sql)); },
      py::arg("sql"), "How many copies of common table expressions a query expands to.");
  module.def(
      "grown_terms",
      [](std::string_view sql, std::int64_t enough) {
        return grown_terms(sql_tokens_without_space(sql), enough);
      },
      py::arg("sql"), py::arg("enough"),
      "How many terms a query's expressions grow to while it is prepared, up to `enough`.");
  module.def(
      "formats_are_literal",
      [](std::string_view sql) { return formats_are_literal(sql_tokens_without_space(sql)); },
      py::arg("sql"), "Whether every call of printf has a literal pattern of bounded width.");
}

}  // namespace finestep
