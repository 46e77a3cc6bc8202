#include "sql/file_identity.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string_view>
#include <system_error>
#include <utility>

namespace finestep {
namespace {

constexpr std::chrono::seconds kQuietFor(1);

char hex_digit(unsigned value) { return std::string_view("0123456789abcdef").at(value & 15U); }

#ifdef __APPLE__
const timespec& modified(const struct stat& found) { return found.st_mtimespec; }
const timespec& changed(const struct stat& found) { return found.st_ctimespec; }
#else
const timespec& modified(const struct stat& found) { return found.st_mtim; }
const timespec& changed(const struct stat& found) { return found.st_ctim; }
#endif

void append(std::string& key, std::uint64_t number) { key += std::to_string(number) + ' '; }

void append_state(std::string& key, const struct stat& found) {
  append(key, static_cast<std::uint64_t>(found.st_size));
  for (const timespec& time : {modified(found), changed(found)}) {
    append(key, static_cast<std::uint64_t>(time.tv_sec));
    append(key, static_cast<std::uint64_t>(time.tv_nsec));
  }
}

bool is_recent(const struct stat& found) {
  const auto time = std::chrono::seconds(modified(found).tv_sec) +
                    std::chrono::nanoseconds(modified(found).tv_nsec);
  return std::chrono::system_clock::now().time_since_epoch() < time + kQuietFor;
}

// The file with a suffix beside a database, if it holds anything.
bool find_beside(const std::string& file, struct stat& found) {
  return stat(file.c_str(), &found) == 0 && found.st_size > 0;
}

// What the file format says of who may read it: 2 stands for a write-ahead log.
bool is_in_log_mode(const std::string& file) {
  constexpr std::streamoff kReadVersion = 19;
  std::ifstream opened(file, std::ios::binary);
  opened.seekg(kReadVersion);
  return opened.get() == 2;
}

}  // namespace

void unreadable(const std::string& path, const std::string& why) {
  throw UnreadableDatabase("database " + quoted_path(path) + ": " + why);
}

std::string quoted_path(const std::string& path) {
  const bool has_quote = path.find('\'') != std::string::npos;
  const char quote = has_quote && path.find('"') == std::string::npos ? '"' : '\'';
  std::string text(1, quote);
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      text += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      text += {'\\', 'x', hex_digit(byte >> 4U), hex_digit(byte)};
    } else {
      text.push_back(c);
    }
  }
  return text + quote;
}

FileIdentity file_identity(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    unreadable(path, "embedded null byte");
  }
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) {
    unreadable(path, std::generic_category().message(errno));
  }
  if (!S_ISREG(found.st_mode)) {
    unreadable(path, S_ISDIR(found.st_mode) ? "is a folder" : "is no file with content");
  }
  FileIdentity identity{.path = path,
                        .file = std::filesystem::absolute(path).string(),
                        .inode = {},
                        .key = {},
                        .is_recent = is_recent(found)};
  identity.inode = identity.file;
  identity.inode.push_back('\0');
  append(identity.inode, static_cast<std::uint64_t>(found.st_dev));
  append(identity.inode, static_cast<std::uint64_t>(found.st_ino));
  identity.key = identity.inode;
  append_state(identity.key, found);
  struct stat beside{};
  if (find_beside(identity.file + "-wal", beside)) {
    identity.has_log = true;
    identity.is_recent = identity.is_recent || is_recent(beside);
    identity.key += "wal ";
    append_state(identity.key, beside);
  }
  if (find_beside(identity.file + "-journal", beside)) {
    identity.has_journal = true;
    identity.key += "journal ";
    append_state(identity.key, beside);
  }
  return identity;
}

Access access_to(const FileIdentity& identity) {
  if (identity.has_log) {
    struct stat shared{};
    if (stat((identity.file + "-shm").c_str(), &shared) != 0) {
      unreadable(identity.path, kUnfinished);
    }
    return Access::with_locks;
  }
  if (identity.has_journal) {
    return Access::with_locks;
  }
  return identity.is_recent && !is_in_log_mode(identity.file) ? Access::with_locks
                                                              : Access::without_locks;
}

}  // namespace finestep
