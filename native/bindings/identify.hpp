#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_identify(nanobind::module_& module);
}
