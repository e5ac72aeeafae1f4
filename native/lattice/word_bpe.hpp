// Byte-pair encoding of weighted words over any alphabet of atoms.
//
// Semantics, those of Hugging Face's BpeTrainer: repeatedly join the pair of neighbours with the largest weighted
// number of windows (overlapping ones count, ties go to the smallest pair of ids), left to right in every word. Two
// pairs that make the same text make one unit. Words are short and few, millions of atoms in all: so a pair keeps the
// words where it was seen, and a merge goes through those.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bpe/containers.hpp"

namespace byteloom {

struct WordMerge {
    uint32_t left, right, result;
};

class WordBPE {
  public:
    // `units` are the texts of the atoms; words are added as their ids.
    explicit WordBPE(std::vector<std::string> units) : units_(std::move(units)) {
        for (uint32_t id = 0; id < units_.size(); ++id) id_of_.emplace(units_[id], id);
    }

    void add(const uint32_t* atoms, size_t size, int64_t weight) {
        words_.emplace_back(atoms, atoms + size);
        weights_.push_back(weight);
    }

    // Merges until there are `size` units or no pair has a weight of `least` >= 1.
    std::vector<WordMerge> train(size_t size, int64_t least) {
        for (uint32_t w = 0; w < words_.size(); ++w) {
            for (size_t i = 0; i + 1 < words_[w].size(); ++i) see(pair_key(words_[w][i], words_[w][i + 1]), w);
        }
        offer_seen();
        std::vector<WordMerge> merges;
        std::unordered_set<uint64_t> merged;
        while (units_.size() < size && !heap_.empty()) {
            Candidate top = heap_.top();
            heap_.pop();
            const int64_t count = counts_.at(top.key);
            if (count != top.count) {  // stale: counts fall with every merge of a neighbour
                if (count >= least) heap_.push({count, top.key, top.places});
                continue;
            }
            if (count < least) break;
            const auto left = static_cast<uint32_t>(top.key >> 32), right = static_cast<uint32_t>(top.key);
            const auto [found, is_new] =
                id_of_.emplace(units_[left] + units_[right], static_cast<uint32_t>(units_.size()));
            if (is_new) units_.push_back(found->first);
            const std::vector<uint32_t> places = std::move(places_[top.places]);
            places_[top.places].clear();
            for (uint32_t w : places) merge(w, left, right, found->second);
            // A pair may come about again, where another pair has made the text of one of its parts.
            if (merged.insert(top.key).second) merges.push_back({left, right, found->second});
            offer_seen();
        }
        return merges;
    }

  private:
    struct Candidate {
        int64_t count;
        uint64_t key;
        size_t places;  // index of the words where it was seen
        bool operator<(const Candidate& other) const {
            return count != other.count ? count < other.count : key > other.key;
        }
    };

    // A pair has one window more in a word.
    void see(uint64_t key, uint32_t word) {
        counts_.at(key) += weights_[word];
        const auto [found, is_new] = seen_.emplace(key, places_.size());
        if (is_new) places_.emplace_back();
        auto& words = places_[found->second];
        if (words.empty() || words.back() != word) words.push_back(word);
    }

    void offer_seen() {
        for (const auto& [key, places] : seen_) {
            if (const int64_t count = counts_.at(key); count > 0) heap_.push({count, key, places});
        }
        seen_.clear();
    }

    void merge(uint32_t w, uint32_t left, uint32_t right, uint32_t result) {
        auto& word = words_[w];
        size_t to = 0;
        for (size_t from = 0; from < word.size(); ++from) {
            if (word[from] != left || from + 1 == word.size() || word[from + 1] != right) {
                word[to++] = word[from];
                continue;
            }
            if (to > 0) {
                counts_.at(pair_key(word[to - 1], left)) -= weights_[w];
                see(pair_key(word[to - 1], result), w);
            }
            if (from + 2 < word.size()) {
                counts_.at(pair_key(right, word[from + 2])) -= weights_[w];
                see(pair_key(result, word[from + 2]), w);
            }
            word[to++] = result;
            ++from;
        }
        word.resize(to);
    }

    std::vector<std::string> units_;
    std::unordered_map<std::string, uint32_t> id_of_;
    std::vector<std::vector<uint32_t>> words_;
    std::vector<int64_t> weights_;
    PairMap<int64_t> counts_;
    std::vector<std::vector<uint32_t>> places_;
    std::unordered_map<uint64_t, size_t> seen_;  // since the last merge, with their index in places_
    std::priority_queue<Candidate> heap_;
};

}  // namespace byteloom
