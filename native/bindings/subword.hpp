#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_subword(nanobind::module_& module);
}
