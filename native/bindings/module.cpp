#include <nanobind/nanobind.h>

#include "bindings/bpe.hpp"

NB_MODULE(_native, module) {
    module.doc() = "byteloom's native kernels.";
    byteloom::bind_bpe(module);
}
