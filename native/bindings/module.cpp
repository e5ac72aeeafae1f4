#include <nanobind/nanobind.h>

NB_MODULE(_native, module) { module.doc() = "byteloom's native kernels."; }
