// Encoding in blocks: what is given out is final, memory does not grow with the text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bpe/encoder.hpp"

namespace byteloom {

template <class Node>
class IntervalStream {
  public:
    explicit IntervalStream(const IntervalEncoder<Node>& encoder) : encoder_(encoder), last_(1, Node{0}) {}

    // Takes the next bytes; calls give(ids, count) with the ids that are final by now, in order.
    template <class Give>
    void feed(const uint8_t* text, size_t size, Give give) {
        while (size > 0) {
            const size_t block = std::min(size, kBlock);
            const size_t known = last_.size();
            last_.resize(known + block);
            encoder_.extend(text, block, last_.data() + known - 1, lanes_);
            text += block;
            size -= block;
            give_until(meeting_point(), give);
            forget();
        }
    }

    // Ends the text: gives the rest, and is ready for another text.
    template <class Give>
    void finish(Give give) {
        give_until(last_.size() - 1, give);
        last_.assign(1, Node{0});
        given_ = 0;
    }

  private:
    static constexpr size_t kBlock = 32 << 10;  // bytes; last[] of a block stays in the second-level cache

    // The last position that the encoding passes whatever follows. The next token will start at one of the last
    // longest() positions, so it is where the chains of tokens walked back from all of them meet.
    size_t meeting_point() {
        const size_t end = last_.size() - 1;
        const size_t first = end - given_ >= encoder_.longest() ? end - encoder_.longest() + 1 : given_;
        on_chain_.assign(end + 1 - given_, 0);
        std::fill(on_chain_.begin() + static_cast<ptrdiff_t>(first - given_), on_chain_.end(), 1);
        size_t chains = end - first + 1;
        for (size_t i = end; i > given_; --i) {
            if (!on_chain_[i - given_]) continue;
            if (chains == 1) return i;
            --chains;
            const size_t start = i - encoder_.length(last_[i]) - given_;
            chains += on_chain_[start] ^ 1;
            on_chain_[start] = 1;
        }
        return given_;
    }

    template <class Give>
    void give_until(size_t end, Give give) {
        if (end == given_) return;
        // The walk back is a chain of loads. Looking all lengths up beforehand, which is none, makes its links short.
        const size_t size = end - given_;
        Node* const step = steps_.of(size + 1);  // length of the token that ends at given_ + i
        for (size_t i = 1; i <= size; ++i) step[i] = encoder_.length(last_[given_ + i]);
        uint32_t* const ids = ids_.of(size);
        size_t first = size;
        for (size_t i = size; i > 0; i -= step[i]) ids[--first] = last_[given_ + i];
        for (size_t i = first; i < size; ++i) ids[i] = encoder_.id(static_cast<Node>(ids[i]));
        give(ids + first, size - first);
        given_ = end;
    }

    // Keeps last[] from the given end on, and as far before it as a token can reach back.
    void forget() {
        if (given_ <= encoder_.longest()) return;
        const size_t drop = given_ - encoder_.longest();
        last_.erase(last_.begin(), last_.begin() + static_cast<ptrdiff_t>(drop));
        given_ -= drop;
    }

    const IntervalEncoder<Node>& encoder_;
    std::vector<Node> last_;  // last_[i] is the last token of the text up to i bytes after the first that is kept
    size_t given_ = 0;        // index into last_: the ids up to there have been given
    std::vector<uint8_t> on_chain_;
    Scratch<Node> steps_, lanes_;
    Scratch<uint32_t> ids_;
};

}  // namespace byteloom
