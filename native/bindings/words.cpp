// Python's view of native/words. The GIL is released for all work on bytes.
#include "bindings/words.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "bindings/buffers.hpp"
#include "bindings/encoders.hpp"
#include "words/splitter.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;

std::shared_ptr<WordSplitter> make_splitter(size_t fixed, size_t max_bytes, uint32_t first) {
    if (max_bytes < 1 || first > UINT32_MAX - 512) throw nb::value_error("words hold a byte at least");
    return std::make_shared<WordSplitter>(fixed, max_bytes, first);
}

}  // namespace

void bind_words(nb::module_& module) {
    nb::class_<WordSplitter> splitter(module, "WordSplitter", "Splits bytes into words.");
    splitter.def(nb::new_(&make_splitter), "fixed"_a, "max_bytes"_a, "first"_a,
                 "fixed: length of every word, 0 for the words of text. first: the id of byte 0 inside a word; those "
                 "that end one are 256 higher.");
    def_encoder(splitter);
    splitter.def(
        "lengths",
        [](const WordSplitter& self, nb::handle data) {
            return encode_document(data, [&](const Bytes& text) { return self.lengths(text.data(), text.size()); });
        },
        "data"_a.none(), "uint32 [words]: bytes of each word.");
    bind_stream<WordSplitter::Stream, WordSplitter>(module, "WordStream", "Splits a text that comes in pieces.");
}

}  // namespace byteloom
