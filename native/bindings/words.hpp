#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_words(nanobind::module_& module);
}
