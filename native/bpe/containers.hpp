// What the trainer keeps its sequence and its pairs in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace byteloom {

// A growing array of slots. Large blocks grow by remapping, so growth neither copies nor doubles the resident size.
template <class Slot>
class SlotBuffer {
  public:
    SlotBuffer() = default;
    SlotBuffer(const SlotBuffer&) = delete;
    SlotBuffer& operator=(const SlotBuffer&) = delete;
    ~SlotBuffer() { std::free(data_); }

    Slot* data() { return data_; }
    size_t size() const { return size_; }
    void resize_down(size_t size) { size_ = size; }

    Slot* grow(size_t more) {
        if (size_ + more > capacity_) {
            const size_t wanted = std::max(size_ + more, capacity_ + capacity_ / 2);
            void* moved = std::realloc(static_cast<void*>(data_), wanted * sizeof(Slot));
            if (moved == nullptr) throw std::bad_alloc();
            data_ = static_cast<Slot*>(moved);
            capacity_ = wanted;
        }
        Slot* start = data_ + size_;
        size_ += more;
        return start;
    }

    // Random walks over a sequence of hundreds of megabytes miss the TLB at every step with 4 KiB pages.
    void prefer_huge_pages() {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        const uintptr_t page = 2u << 20, begin = (reinterpret_cast<uintptr_t>(data_) + page - 1) & ~(page - 1);
        const uintptr_t end = reinterpret_cast<uintptr_t>(data_ + size_) & ~(page - 1);
        if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
    }

  private:
    Slot* data_ = nullptr;
    size_t size_ = 0, capacity_ = 0;
};

inline uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }
inline uint64_t pair_hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
}

// Open-addressed map from a pair key to a value; linear probing, grows at 60 %. No deletion: nothing needs it.
template <class Value>
class PairMap {
  public:
    struct Entry {
        uint64_t key = kEmpty;
        Value value{};
    };

    PairMap() : entries_(1024) {}

    Value* find(uint64_t key) {
        for (size_t i = pair_hash(key) & mask();; i = (i + 1) & mask()) {
            if (entries_[i].key == key) return &entries_[i].value;
            if (entries_[i].key == kEmpty) return nullptr;
        }
    }

    Value& at(uint64_t key) {
        if ((used_ + 1) * 5 > entries_.size() * 3) rehash();
        for (size_t i = pair_hash(key) & mask();; i = (i + 1) & mask()) {
            if (entries_[i].key == key) return entries_[i].value;
            if (entries_[i].key == kEmpty) {
                entries_[i].key = key;
                ++used_;
                return entries_[i].value;
            }
        }
    }

    template <class Visit>
    void each(Visit visit) {
        for (auto& entry : entries_) {
            if (entry.key != kEmpty) visit(entry.key, entry.value);
        }
    }

    void clear() {
        used_ = 0;
        entries_ = std::vector<Entry>(1024);
    }

  private:
    static constexpr uint64_t kEmpty = ~uint64_t{0};

    size_t mask() const { return entries_.size() - 1; }

    void rehash() {
        std::vector<Entry> old(entries_.size() * 2);
        old.swap(entries_);
        for (auto& entry : old) {
            if (entry.key == kEmpty) continue;
            size_t i = pair_hash(entry.key) & mask();
            while (entries_[i].key != kEmpty) i = (i + 1) & mask();
            entries_[i] = std::move(entry);
        }
    }

    std::vector<Entry> entries_;
    size_t used_ = 0;
};

}  // namespace byteloom
