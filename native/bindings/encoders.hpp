// What every encoder lends to Python: one document, many on several threads, one that comes in pieces.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "bpe/threads.hpp"

namespace byteloom {

// The ids that encode(Bytes) gives for one document, with the GIL released.
template <class Encode>
IdArray encode_document(nb::handle document, Encode encode) {
    const Bytes text(document);
    std::vector<uint32_t> ids;
    {
        const nb::gil_scoped_release free;
        ids = encode(text);
    }
    return to_numpy(std::move(ids));
}

// The ids that encode(Bytes) gives for every document, with the GIL released. Documents differ in size by orders of
// magnitude, so each thread takes the next one when it is done with its last.
template <class Encode>
nb::list encode_documents(const std::vector<nb::object>& documents, int threads, Encode encode) {
    std::vector<Bytes> texts;
    texts.reserve(documents.size());
    for (const auto& document : documents) texts.emplace_back(document);
    std::vector<std::vector<uint32_t>> ids(texts.size());
    {
        const nb::gil_scoped_release free;
        std::atomic<size_t> next{0};
        std::exception_ptr failure;
        std::mutex first;
        run_parallel(std::max(1, std::min<int>(threads, static_cast<int>(texts.size()))), [&](int) {
            try {
                for (size_t i = next++; i < texts.size(); i = next++) ids[i] = encode(texts[i]);
            } catch (...) {
                const std::lock_guard lock(first);
                failure = std::current_exception();
            }
        });
        if (failure) std::rethrow_exception(failure);
    }
    nb::list result;
    for (auto& one : ids) result.append(to_numpy(std::move(one)));
    return result;
}

// Methods encode, encode_batch and count for a class that has encode(data, size) and count(data, size).
template <class Encoder>
void def_encoder(nb::class_<Encoder>& bound) {
    bound
        .def(
            "encode",
            [](const Encoder& self, nb::handle data) {
                return encode_document(data, [&](const Bytes& text) { return self.encode(text.data(), text.size()); });
            },
            nb::arg("data").none())
        .def(
            "encode_batch",
            [](const Encoder& self, const std::vector<nb::object>& documents, int threads) {
                return encode_documents(documents, threads,
                                        [&](const Bytes& text) { return self.encode(text.data(), text.size()); });
            },
            nb::arg("documents"), nb::arg("threads"))
        .def(
            "count",
            [](const Encoder& self, nb::handle data) {
                const Bytes text(data);
                const nb::gil_scoped_release free;
                return self.count(text.data(), text.size());
            },
            nb::arg("data").none());
}

// A class with feed(bytes) and finish(), made from the encoder that it streams.
template <class Stream, class Encoder>
void bind_stream(nb::module_& module, const char* name, const char* what) {
    nb::class_<Stream>(module, name, what)
        .def(nb::init<std::shared_ptr<const Encoder>>(), nb::arg("encoder"))
        .def(
            "feed",
            [](Stream& self, nb::handle data) {
                return encode_document(data, [&](const Bytes& text) { return self.feed(text.data(), text.size()); });
            },
            nb::arg("data").none(), "The ids that are final by now: uint32 [n].")
        .def(
            "finish",
            [](Stream& self) {
                std::vector<uint32_t> ids;
                {
                    const nb::gil_scoped_release free;
                    ids = self.finish();
                }
                return to_numpy(std::move(ids));
            },
            "Ends the text; the remaining ids.");
}

}  // namespace byteloom
