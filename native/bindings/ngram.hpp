#pragma once

#include <nanobind/nanobind.h>

namespace byteloom {
void bind_ngram(nanobind::module_& module);
}
