// skippipe::format, for errors and for what the kernels' own build contains (README.md, "With a GPU"): that build takes
// the standard library's where there is one, so that it needs no fmt. All else uses fmt by its name.
#pragma once

#ifdef SKIPPIPE_STD_FORMAT
#include <format>
#define SKP_FORMAT_LIBRARY std
#else
#include <fmt/format.h>
#define SKP_FORMAT_LIBRARY fmt
#endif

namespace skippipe {

using SKP_FORMAT_LIBRARY::format;
using SKP_FORMAT_LIBRARY::format_string;

}  // namespace skippipe

#undef SKP_FORMAT_LIBRARY
