#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_coding(nanobind::module_& module);
}
