// Python's view of native/bpe. The GIL is released for all work on bytes.
#include "bindings/bpe.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/buffers.hpp"
#include "bindings/encoders.hpp"
#include "bpe/tokenizer.hpp"
#include "bpe/trainer.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using MergeArray = nb::ndarray<const uint32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

std::vector<uint32_t> encode(const Tokenizer& tokenizer, const Bytes& text) {
    std::vector<uint32_t> ids;
    ids.reserve(text.size() / 2 + 16);
    tokenizer.encode(text.data(), text.size(),
                     [&](const uint32_t* some, size_t count) { ids.insert(ids.end(), some, some + count); });
    if (ids.capacity() > ids.size() * 2) ids.shrink_to_fit();
    return ids;
}

std::shared_ptr<Tokenizer> make_tokenizer(const std::array<uint32_t, 256>& byte_ids, const MergeArray& merges,
                                          const std::vector<nb::bytes>& texts) {
    std::vector<uint32_t> left, right, result;
    for (size_t k = 0; k < merges.shape(0); ++k) {
        left.push_back(merges(k, 0));
        right.push_back(merges(k, 1));
        result.push_back(merges(k, 2));
    }
    std::vector<std::string> own;
    own.reserve(texts.size());
    for (const auto& text : texts) own.emplace_back(text.c_str(), text.size());
    const nb::gil_scoped_release free;
    return std::make_shared<Tokenizer>(byte_ids, std::move(left), std::move(right), std::move(result), own);
}

nb::bytes decode(const Tokenizer& tokenizer, const Ids& ids) {
    std::optional<size_t> bad;
    const size_t size = tokenizer.decoded_size(ids.data(), ids.size(), bad);
    if (bad) {
        const std::string id = std::to_string(ids.data()[*bad]), position = std::to_string(*bad);
        throw nb::value_error(("id " + id + " at position " + position + " is not in the vocabulary of " +
                               std::to_string(tokenizer.vocab_size()) + " tokens")
                                  .c_str());
    }
    // Decoded in place, into a bytes object that is made a little too long and then cut.
    PyObject* out = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size + Tokenizer::kSlack));
    if (out == nullptr) throw nb::python_error();
    {
        uint8_t* start = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(out));
        const nb::gil_scoped_release free;
        tokenizer.decode(ids.data(), ids.size(), start);
    }
    if (_PyBytes_Resize(&out, static_cast<Py_ssize_t>(size)) != 0) throw nb::python_error();
    return nb::steal<nb::bytes>(out);
}

// Training: documents are added one by one, so that they need not be in memory together, and then trained on
// once.
class PyTrainer {
  public:
    PyTrainer(size_t merges, const std::array<uint8_t, 256>& symbol_of_byte) : merges_(merges) {
        // Internal ids reach 256 + merges - 1; the two largest slot values are marks.
        if (256 + merges <= 0xFFFE) {
            trainer_ = std::make_unique<TrainerFor<uint16_t>>(symbol_of_byte);
        } else {
            trainer_ = std::make_unique<TrainerFor<uint32_t>>(symbol_of_byte);
        }
    }

    void add(nb::handle document) {
        const Bytes bytes(document);
        const nb::gil_scoped_release free;
        trainer_->add(bytes.data(), bytes.size());
    }

    void retain(const std::vector<bool>& keep) { trainer_->retain(keep); }

    nb::list train(uint64_t min_frequency, uint32_t max_token_length, int threads,
                   const std::vector<nb::bytes>& forbidden, nb::object progress) {
        TrainOptions options;
        options.merges = merges_;
        options.min_frequency = min_frequency;
        options.max_token_length = max_token_length;
        options.threads = threads;
        for (const auto& text : forbidden) options.forbidden.emplace_back(text.c_str(), text.size());

        std::exception_ptr raised;  // by the callback: Ctrl-C above all
        auto next_call = std::chrono::steady_clock::now();
        options.keep_going = [&](size_t done, size_t total) {
            if (std::chrono::steady_clock::now() < next_call) return true;
            const nb::gil_scoped_acquire gil;
            try {
                if (PyErr_CheckSignals() != 0) throw nb::python_error();
                if (!progress.is_none()) progress(done, total);
            } catch (...) {
                raised = std::current_exception();
                return false;
            }
            next_call = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
            return true;
        };
        std::vector<Merge> merges;
        {
            const nb::gil_scoped_release free;
            merges = trainer_->train(options);
        }
        if (raised) std::rethrow_exception(raised);
        nb::list result;
        for (const auto& merge : merges) result.append(nb::make_tuple(merge.left, merge.right, merge.count));
        return result;
    }

  private:
    size_t merges_;
    std::unique_ptr<Trainer> trainer_;
};

}  // namespace

void bind_bpe(nb::module_& module) {
    nb::class_<Tokenizer>(module, "BPETokenizer", "Encoder and decoder of one merge list; all ids are public.")
        .def(nb::new_(&make_tokenizer), "byte_ids"_a, "merges"_a, "texts"_a,
             "byte_ids: 256 ids. merges: uint32 [n, 3], left, right and result in rank order. texts: bytes "
             "of each id.")
        .def_prop_ro("is_exact_fast", &Tokenizer::is_exact_fast)
        .def_prop_ro("vocab_size", &Tokenizer::vocab_size)
        .def(
            "encode",
            [](const Tokenizer& self, nb::handle data) {
                return encode_document(data, [&](const Bytes& text) { return encode(self, text); });
            },
            "data"_a.none())
        .def(
            "encode_batch",
            [](const Tokenizer& self, const std::vector<nb::object>& documents, int threads) {
                return encode_documents(documents, threads, [&](const Bytes& text) { return encode(self, text); });
            },
            "documents"_a, "threads"_a)
        .def(
            "count",
            [](const Tokenizer& self, nb::handle data) {
                const Bytes text(data);
                const nb::gil_scoped_release free;
                size_t tokens = 0;
                self.encode(text.data(), text.size(), [&](const uint32_t*, size_t count) { tokens += count; });
                return tokens;
            },
            "data"_a.none())
        .def("decode", &decode, "ids"_a);

    bind_stream<Tokenizer::Stream, Tokenizer>(module, "BPEStream", "Encodes a text that comes in pieces.");

    nb::class_<PyTrainer>(module, "BPETrainer", "Collects documents, then learns at most `merges` merges from them.")
        .def(nb::init<size_t, const std::array<uint8_t, 256>&>(), "merges"_a, "symbol_of_byte"_a)
        .def("add", &PyTrainer::add, "document"_a)
        .def("retain", &PyTrainer::retain, "keep"_a)
        .def("train", &PyTrainer::train, "min_frequency"_a, "max_token_length"_a, "threads"_a, "forbidden"_a,
             "progress"_a.none());
}

}  // namespace byteloom
