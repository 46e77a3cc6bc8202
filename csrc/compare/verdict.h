// What comes of a comparison that may have to give up.
#pragma once

#include <cstdint>

namespace finestep {

enum class Verdict : std::uint8_t { different, equal, undecided };

}  // namespace finestep
