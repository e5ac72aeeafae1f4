// A libFuzzer target for native/bpe: trains on one part of the input, encodes the other, and compares the fast encoder
// with the general one; then the same for a list of merges that is nothing but noise.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bpe/decoder.hpp"
#include "bpe/merge_encoder.hpp"
#include "bpe/trainer.hpp"

namespace {

using byteloom::HeapEncoder;
using byteloom::MergeEncoder;

void require(bool holds) {
    if (!holds) std::abort();
}

// `mask` makes letters of several bytes: those that are equal under it have one id.
void compare_encoders(const std::vector<uint32_t>& left, const std::vector<uint32_t>& right, const uint8_t* text,
                      size_t size, uint8_t mask) {
    std::array<uint32_t, 256> byte_ids;
    std::vector<uint32_t> made;
    std::vector<std::string> texts;
    for (uint32_t b = 0; b < 256; ++b) {
        byte_ids[b] = b & mask;
        texts.emplace_back(1, static_cast<char>(b));
    }
    for (size_t k = 0; k < left.size(); ++k) {
        made.push_back(static_cast<uint32_t>(256 + k));
        texts.push_back(texts[left[k]] + texts[right[k]]);
        if (texts.back().size() > 1 << 16) return;
    }
    const auto encoder = std::make_shared<MergeEncoder>(byte_ids, left, right, made);
    const auto expected = HeapEncoder(byte_ids.data(), left, right, made).encode(text, size);

    const auto ids = encoder->encode(text, size);
    require(ids == expected);
    require(encoder->count(text, size) == ids.size());

    MergeEncoder::Stream stream(encoder);
    std::vector<uint32_t> streamed;
    for (size_t at = 0; at < size;) {
        const size_t block = std::min<size_t>(size - at, 1 + text[at] * 7);
        for (uint32_t id : stream.feed(text + at, block)) streamed.push_back(id);
        at += block;
    }
    for (uint32_t id : stream.finish()) streamed.push_back(id);
    require(streamed == expected);

    const byteloom::Decoder decoder(texts);
    std::optional<size_t> bad;
    const size_t bytes = decoder.decoded_size(ids.data(), ids.size(), bad);
    require(!bad && bytes == size);
    std::vector<uint8_t> decoded(bytes + byteloom::Decoder::kSlack);
    decoder.decode(ids.data(), ids.size(), decoded.data());
    require(std::equal(text, text + size, decoded.begin(), [&](uint8_t a, uint8_t b) { return (a & mask) == b; }));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 8) return 0;
    const size_t n_merges = data[0], least = 1 + data[1] % 4, longest = data[2] % 40;
    const int threads = 1 + data[3] % 3;
    const size_t document = 1 + data[4], repeat = 1 + data[5] % 64;
    const uint8_t* text = data + 6;
    size -= 6;
    const uint8_t mask = data[1] & 0x80 ? 0x3F : 0xFF;
    std::vector<uint8_t> letters(text, text + size);  // trained on; encoded are the bytes themselves
    for (auto& letter : letters) letter &= mask;

    std::array<uint8_t, 256> order;
    for (size_t b = 0; b < 256; ++b) order[b] = static_cast<uint8_t>(b ^ data[4]);
    byteloom::TrainOptions options;
    options.merges = n_merges;
    options.min_frequency = least;
    options.max_token_length = static_cast<uint32_t>(longest);
    std::vector<std::vector<byteloom::Merge>> results;
    for (options.threads = 1; options.threads <= threads; ++options.threads) {
        byteloom::TrainerFor<uint16_t> trainer(order);
        for (size_t at = 0; at < size; at += document) trainer.add(letters.data() + at, std::min(document, size - at));
        results.push_back(trainer.train(options));
        const auto& one = results.front();
        const auto& now = results.back();
        require(one.size() == now.size());
        for (size_t k = 0; k < one.size(); ++k) {
            require(one[k].left == now[k].left && one[k].right == now[k].right && one[k].count == now[k].count);
        }
    }

    // A text long enough for lanes, with periods that they disagree on.
    std::string longer;
    for (size_t i = 0; i < repeat; ++i) longer.append(reinterpret_cast<const char*>(text), size - i % size);
    const auto* bytes = reinterpret_cast<const uint8_t*>(longer.data());
    std::vector<uint32_t> left, right;
    for (const auto& merge : results.front()) {
        left.push_back(merge.left);
        right.push_back(merge.right);
    }
    compare_encoders(left, right, bytes, longer.size(), mask);

    left.clear();
    right.clear();
    for (size_t i = 0; i + 1 < size && left.size() < n_merges; i += 2) {
        const auto known = static_cast<uint32_t>(256 + left.size());
        left.push_back(text[i] % 3 == 0 ? letters[i] : known - 1 - text[i] % std::min<uint32_t>(known, 40));
        right.push_back(text[i + 1] % 3 == 0 ? letters[i + 1]
                                             : known - 1 - text[i + 1] % std::min<uint32_t>(known, 40));
    }
    compare_encoders(left, right, bytes, std::min<size_t>(longer.size(), 20000), mask);
    return 0;
}
