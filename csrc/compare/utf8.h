// UTF-8 as Python's decoder understands it: no surrogates, nothing longer than needed.
#pragma once

#include <string>
#include <string_view>

namespace finestep {

bool valid_utf8(std::string_view bytes);

// The text without the bytes that are no part of a character: b.decode(errors="ignore").
std::string without_invalid_utf8(std::string_view bytes);

}  // namespace finestep
