#include "sql/query_memory.h"

#include <cstddef>
#include <cstdlib>
#include <limits>

#include "sql/sqlite_api.h"

namespace finestep {
namespace {

// SQLite's `sqlite3_mem_methods`.
struct MemoryMethods {
  void* (*allocate)(int);
  void (*release)(void*);
  void* (*resize)(void*, int);
  int (*size)(void*);
  int (*round_up)(int);
  int (*begin)(void*);
  void (*end)(void*);
  void* data;
};

constexpr int kConfigSingleThread = 1;
constexpr int kConfigMalloc = 4;
constexpr int kConfigMemoryStatus = 9;

// Stands before every block. Blocks stay aligned as those of malloc are.
struct alignas(std::max_align_t) BlockHead {
  int size;
};

// For the one thread that uses SQLite.
struct Count {
  std::int64_t bytes = 0;
  std::int64_t limit = std::numeric_limits<std::int64_t>::max();
};
Count& count() {
  static Count counted;
  return counted;
}

BlockHead* head_of(void* block) { return static_cast<BlockHead*>(block) - 1; }

bool fits(std::int64_t more) { return count().bytes + more <= count().limit; }

// NOLINTBEGIN(cppcoreguidelines-no-malloc,cppcoreguidelines-owning-memory): it is an allocator.
void* allocate(int size) {
  if (!fits(size)) {
    return nullptr;
  }
  auto* const head =
      static_cast<BlockHead*>(std::malloc(sizeof(BlockHead) + static_cast<std::size_t>(size)));
  if (head == nullptr) {
    return nullptr;
  }
  head->size = size;
  count().bytes += size;
  return head + 1;
}

void release(void* block) {
  BlockHead* const head = head_of(block);
  count().bytes -= head->size;
  std::free(head);
}

void* resize(void* block, int size) {
  const int before = head_of(block)->size;
  if (!fits(std::int64_t{size} - before)) {
    return nullptr;
  }
  auto* const head = static_cast<BlockHead*>(
      std::realloc(head_of(block), sizeof(BlockHead) + static_cast<std::size_t>(size)));
  if (head == nullptr) {
    return nullptr;
  }
  head->size = size;
  count().bytes += std::int64_t{size} - before;
  return head + 1;
}
// NOLINTEND(cppcoreguidelines-no-malloc,cppcoreguidelines-owning-memory)

int size_of(void* block) { return block == nullptr ? 0 : head_of(block)->size; }

int round_up(int size) { return (size + 7) / 8 * 8; }

int begin(void* /*unused*/) { return kSqliteOk; }

void end(void* /*unused*/) {}

}  // namespace

bool configure_for_one_thread(SqliteConfig config) {
  static const MemoryMethods methods{.allocate = allocate,
                                     .release = release,
                                     .resize = resize,
                                     .size = size_of,
                                     .round_up = round_up,
                                     .begin = begin,
                                     .end = end,
                                     .data = nullptr};
  // NOLINTBEGIN(cppcoreguidelines-pro-type-vararg): SQLite's interface
  return config(kConfigSingleThread) == kSqliteOk && config(kConfigMemoryStatus, 0) == kSqliteOk &&
         config(kConfigMalloc, &methods) == kSqliteOk;
  // NOLINTEND(cppcoreguidelines-pro-type-vararg)
}

void limit_query_memory(std::int64_t max_bytes) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() - count().bytes;
  count().limit = max_bytes < most ? count().bytes + max_bytes : most + count().bytes;
}

}  // namespace finestep
