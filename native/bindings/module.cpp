#include <nanobind/nanobind.h>

#include "bindings/bpe.hpp"
#include "bindings/cache.hpp"
#include "bindings/coding.hpp"
#include "bindings/identify.hpp"
#include "bindings/ngram.hpp"
#include "bindings/segment.hpp"
#include "bindings/subword.hpp"
#include "bindings/suffix.hpp"
#include "bindings/words.hpp"

NB_MODULE(_native, module) {
    module.doc() = "byteloom's native kernels.";
    byteloom::bind_bpe(module);
    byteloom::bind_segment(module);
    byteloom::bind_cache(module);
    byteloom::bind_coding(module);
    byteloom::bind_subword(module);
    byteloom::bind_suffix(module);
    byteloom::bind_ngram(module);
    byteloom::bind_identify(module);
    byteloom::bind_words(module);
}
