// Encoding in blocks: what is emitted is final, memory does not grow with the text.
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

    // Takes the next bytes; calls emit(token) for every token that is final by now, in order.
    template <class Emit>
    void feed(const uint8_t* text, size_t size, Emit emit) {
        while (size > 0) {
            const size_t block = std::min(size, kBlock);
            const size_t known = last_.size();
            last_.resize(known + block);
            encoder_.extend(text, block, last_.data() + known - 1);
            text += block;
            size -= block;
            const size_t final = meeting_point();
            emit_until(final, emit);
            // Keep last[] from the emitted end, and as far before it as a token can reach back.
            const size_t keep_from = final > encoder_.longest() ? final - encoder_.longest() : 0;
            if (keep_from > 0) {
                last_.erase(last_.begin(), last_.begin() + static_cast<ptrdiff_t>(keep_from));
                emitted_ = final - keep_from;
            }
        }
    }

    // Ends the text: emits the rest, and is ready for another text.
    template <class Emit>
    void finish(Emit emit) {
        emit_until(last_.size() - 1, emit);
        last_.assign(1, Node{0});
        emitted_ = 0;
    }

  private:
    static constexpr size_t kBlock = 64 << 10;  // bytes; last[] of a block stays in the second-level cache

    // The last position that the encoding passes whatever follows: every future token starts at one of the
    // last longest() positions, so it is where the chains walked back from all of them meet.
    size_t meeting_point() {
        const size_t n = last_.size() - 1;
        const size_t reach = std::min<size_t>(encoder_.longest(), n - emitted_);
        on_chain_.assign(n + 1 - emitted_, 0);
        size_t chains = 0;
        for (size_t i = n - reach + (reach == encoder_.longest() ? 1 : 0); i <= n; ++i) {
            on_chain_[i - emitted_] = 1;
            ++chains;
        }
        for (size_t i = n; i > emitted_; --i) {
            if (!on_chain_[i - emitted_]) continue;
            if (chains == 1) return i;
            --chains;
            const size_t start = i - encoder_.length(last_[i]);
            if (!on_chain_[start - emitted_]) {
                on_chain_[start - emitted_] = 1;
                ++chains;
            }
        }
        return emitted_;
    }

    template <class Emit>
    void emit_until(size_t end, Emit emit) {
        pending_.clear();
        for (size_t i = end; i > emitted_; i -= encoder_.length(last_[i])) pending_.push_back(last_[i]);
        for (size_t i = pending_.size(); i-- > 0;) emit(encoder_.token(pending_[i]));
        emitted_ = end;
    }

    const IntervalEncoder<Node>& encoder_;
    std::vector<Node> last_;  // last_[0] stands for the position of the first byte kept
    size_t emitted_ = 0;      // index into last_: everything before it has been emitted
    std::vector<uint8_t> on_chain_;
    std::vector<Node> pending_;
};

}  // namespace byteloom
