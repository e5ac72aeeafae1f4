#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_segment(nanobind::module_& module);
}
