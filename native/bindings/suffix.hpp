#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_suffix(nanobind::module_& module);
}
