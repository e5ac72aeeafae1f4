#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_cache(nanobind::module_& module);
}
