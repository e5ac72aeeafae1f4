// A libFuzzer target for the splitter: the input says by which rule and how long words may be, and is the text. Words
// cover the text, none is empty or too long, and pieces give the ids of the whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "words/splitter.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 3) return 0;
    const size_t max_bytes = 1 + data[0] % 20u;
    const auto splitter = std::make_shared<const byteloom::WordSplitter>(data[1] % 8u, max_bytes, 7);
    const std::vector<uint8_t> text(data + 3, data + size);
    const auto ids = splitter->encode(text.data(), text.size());
    size_t at = 0;
    for (const uint32_t length : splitter->lengths(text.data(), text.size())) {
        if (length < 1 || length > max_bytes) std::abort();
        at += length;
        if (ids[at - 1] != 7u + 256 + text[at - 1]) std::abort();
    }
    if (at != text.size()) std::abort();
    byteloom::WordSplitter::Stream stream(splitter);
    std::vector<uint32_t> pieces;
    for (at = 0; at < text.size();) {
        const size_t step = 1 + data[2] % 7u, end = at + step < text.size() ? at + step : text.size();
        const auto some = stream.feed(text.data() + at, end - at);
        pieces.insert(pieces.end(), some.begin(), some.end());
        at = end;
    }
    const auto rest = stream.finish();
    pieces.insert(pieces.end(), rest.begin(), rest.end());
    if (pieces != ids) std::abort();
    return 0;
}
