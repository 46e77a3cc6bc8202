#include "sql/sqlite_library.h"

#include <dlfcn.h>

#include <string>
#include <vector>

#include "sql/query_memory.h"

namespace finestep {
namespace {

template <typename Function>
void find(void* library, const std::string& name, Function*& function, const std::string& file) {
  void* const symbol = dlsym(library, name.c_str());
  if (symbol == nullptr) {
    throw NoSqliteLibrary(file + ": has no function " + name);
  }
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): what dlsym is made for.
  function = reinterpret_cast<Function*>(symbol);
}

}  // namespace

SqliteLibrary::SqliteLibrary(const std::string& file, LibraryUse use) {
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in practice
    throw NoSqliteLibrary(reason != nullptr ? reason : file + ": cannot be opened");
  }
  const auto symbol = [&](const std::string& name, auto& function) {
    find(library, "sqlite3_" + name, function, file);
  };
  symbol("libversion", api_.libversion);
  symbol("compileoption_get", api_.compileoption_get);
  symbol("threadsafe", api_.threadsafe);
  symbol("initialize", api_.initialize);
  symbol("hard_heap_limit64", api_.hard_heap_limit64);
  symbol("open_v2", api_.open_v2);
  symbol("close_v2", api_.close_v2);
  symbol("busy_timeout", api_.busy_timeout);
  symbol("extended_errcode", api_.extended_errcode);
  symbol("errmsg", api_.errmsg);
  symbol("limit", api_.limit);
  symbol("db_config", api_.db_config);
  symbol("set_authorizer", api_.set_authorizer);
  symbol("progress_handler", api_.progress_handler);
  symbol("prepare_v2", api_.prepare_v2);
  symbol("finalize", api_.finalize);
  symbol("step", api_.step);
  symbol("stmt_readonly", api_.stmt_readonly);
  symbol("stmt_isexplain", api_.stmt_isexplain);
  symbol("bind_parameter_count", api_.bind_parameter_count);
  symbol("column_count", api_.column_count);
  symbol("column_name", api_.column_name);
  symbol("column_text", api_.column_text);
  symbol("column_bytes", api_.column_bytes);
  symbol("column_value", api_.column_value);
  symbol("value_type", api_.value_type);
  symbol("value_int64", api_.value_int64);
  symbol("value_double", api_.value_double);
  symbol("value_blob", api_.value_blob);
  symbol("value_bytes", api_.value_bytes);
  Dl_info info{};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): what dladdr is made for.
  const bool known = dladdr(reinterpret_cast<void*>(api_.libversion), &info) != 0;
  path_ = known && info.dli_fname != nullptr ? info.dli_fname : file;
  if (api_.threadsafe() == 0) {
    throw NoSqliteLibrary(path_ + ": was built without support for threads");
  }
  if (use == LibraryUse::one_thread) {
    SqliteConfig config = nullptr;
    symbol("config", config);
    counts_memory_ = configure_for_one_thread(config);
  }
  if (api_.initialize() != kSqliteOk) {
    throw NoSqliteLibrary(path_ + ": cannot be initialised");
  }
}

std::string SqliteLibrary::version() const { return api_.libversion(); }

std::vector<std::string> SqliteLibrary::compile_options() const {
  std::vector<std::string> options;
  int i = 0;
  for (const char* option = api_.compileoption_get(i); option != nullptr;
       option = api_.compileoption_get(++i)) {
    options.emplace_back(option);
  }
  return options;
}

void SqliteLibrary::limit_heap(std::int64_t max_bytes) const {
  const std::int64_t before = api_.hard_heap_limit64(-1);
  if (before == 0 || max_bytes < before) {
    api_.hard_heap_limit64(max_bytes);
  }
}

void SqliteLibrary::limit_query(std::int64_t max_bytes) const {
  if (counts_memory_) {
    limit_query_memory(max_bytes);
  } else {
    limit_heap(max_bytes);
  }
}

}  // namespace finestep
