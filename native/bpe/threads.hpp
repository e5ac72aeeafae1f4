// A barrier that spins: the trainer meets it twice a merge, tens of thousands of times a second.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace byteloom {

inline void cpu_relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Thrown to the threads that wait at a barrier which another thread will never reach.
struct BrokenBarrier {};

class SpinBarrier {
  public:
    explicit SpinBarrier(int threads) : threads_(threads) {}

    // Releases all who wait, now and later, with BrokenBarrier.
    void break_up() { broken_.store(true, std::memory_order_release); }

    void wait() {
        if (broken_.load(std::memory_order_acquire)) throw BrokenBarrier{};
        if (threads_ == 1) return;
        const int round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        // Other programs may hold the core that the last thread needs, so give way after a short spin.
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
            if (broken_.load(std::memory_order_relaxed)) throw BrokenBarrier{};
            if (spins < 2000) {
                cpu_relax();
            } else {
                std::this_thread::yield();
            }
        }
    }

  private:
    const int threads_;
    std::atomic<bool> broken_{false};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> round_{0};
};

// Runs work(0) .. work(threads - 1) at the same time; work(0) runs on the calling thread. `work` must not
// throw.
inline void run_parallel(int threads, const std::function<void(int)>& work) {
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(threads > 1 ? threads - 1 : 0));
    for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
    work(0);
    for (auto& other : others) other.join();
}

}  // namespace byteloom
