#include "workers/progress.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

namespace finestep {

SharedProgress::SharedProgress(int descriptor) {
  void* const page =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (page == MAP_FAILED) {  // NOLINT(performance-no-int-to-ptr,cppcoreguidelines-*): a macro
    throw std::system_error(errno, std::generic_category(), "mapping a worker's page");
  }
  page_ = std::construct_at(static_cast<Progress*>(page));
}

SharedProgress::~SharedProgress() { munmap(page_, sizeof(Progress)); }

int SharedProgress::created() {
  const int descriptor = memfd_create("finestep-progress", MFD_CLOEXEC);
  if (descriptor < 0 || ftruncate(descriptor, sizeof(Progress)) != 0) {
    const int why = errno;
    close(descriptor);
    throw std::system_error(why, std::generic_category(), "making a worker's page");
  }
  return descriptor;
}

}  // namespace finestep
