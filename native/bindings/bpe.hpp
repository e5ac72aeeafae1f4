#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_bpe(nanobind::module_& module);
}
