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
#include "bpe/decoder.hpp"
#include "bpe/merge_encoder.hpp"
#include "bpe/trainer.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using MergeArray = nb::ndarray<const uint32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

std::shared_ptr<MergeEncoder> make_encoder(const std::array<uint32_t, 256>& byte_ids, const MergeArray& merges) {
    std::vector<uint32_t> left, right, result;
    for (size_t k = 0; k < merges.shape(0); ++k) {
        left.push_back(merges(k, 0));
        right.push_back(merges(k, 1));
        result.push_back(merges(k, 2));
    }
    const nb::gil_scoped_release free;
    return std::make_shared<MergeEncoder>(byte_ids, left, right, result);
}

nb::bytes decode(const Decoder& decoder, const Ids& ids) {
    std::optional<size_t> bad;
    const size_t size = decoder.decoded_size(ids.data(), ids.size(), bad);
    if (bad) {
        const std::string id = std::to_string(ids.data()[*bad]), position = std::to_string(*bad);
        throw nb::value_error(("id " + id + " at position " + position + " is not in the vocabulary of " +
                               std::to_string(decoder.vocab_size()) + " tokens")
                                  .c_str());
    }
    // Decoded in place, into a bytes object that is made a little too long and then cut.
    PyObject* out = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size + Decoder::kSlack));
    if (out == nullptr) throw nb::python_error();
    {
        uint8_t* start = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(out));
        const nb::gil_scoped_release free;
        decoder.decode(ids.data(), ids.size(), start);
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
    nb::class_<MergeEncoder> encoder(module, "BPEEncoder", "Encoder of one merge list; all ids are public.");
    encoder
        .def(nb::new_(&make_encoder), "byte_ids"_a, "merges"_a,
             "byte_ids: 256 ids. merges: uint32 [n, 3], left, right and result in rank order.")
        .def_prop_ro("is_exact_fast", &MergeEncoder::is_exact_fast);
    def_encoder(encoder);

    bind_stream<MergeEncoder::Stream, MergeEncoder>(module, "BPEStream", "Encodes a text that comes in pieces.");

    nb::class_<Decoder>(module, "Decoder", "The bytes of every id of a vocabulary.")
        .def(
            "__init__",
            [](Decoder* self, const std::vector<nb::bytes>& texts) { new (self) Decoder(to_strings(texts)); },
            "texts"_a)
        .def("decode", &decode, "ids"_a);

    nb::class_<PyTrainer>(module, "BPETrainer", "Collects documents, then learns at most `merges` merges from them.")
        .def(nb::init<size_t, const std::array<uint8_t, 256>&>(), "merges"_a, "symbol_of_byte"_a)
        .def("add", &PyTrainer::add, "document"_a)
        .def("retain", &PyTrainer::retain, "keep"_a)
        .def("train", &PyTrainer::train, "min_frequency"_a, "max_token_length"_a, "threads"_a, "forbidden"_a,
             "progress"_a.none());
}

}  // namespace byteloom
