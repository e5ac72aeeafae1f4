// Python's view of native/coding. The GIL is released for all work on bytes.
#include "bindings/coding.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "coding/byte_models.hpp"
#include "coding/range_coder.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using Tables = nb::ndarray<const uint32_t, nb::shape<-1, 257>, nb::c_contig, nb::device::cpu>;
using Grams = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr const char* kNoStream = "the stream is damaged, cut off, or was made with another model";

nb::bytes to_bytes(const std::vector<uint8_t>& data) {
    return nb::bytes(reinterpret_cast<const char*>(data.data()), data.size());
}

nb::tuple to_stream(const std::pair<std::vector<uint8_t>, size_t>& stream) {
    return nb::make_tuple(to_bytes(stream.first), stream.second);
}

void check_tables(const Tables& tables, const Ids& rows) {
    for (size_t i = 0; i < tables.shape(0); ++i) {
        if (!is_table(tables.data() + i * kTableSize)) {
            throw nb::value_error("a table must rise from 0 to 16384 and give every byte a share");
        }
    }
    for (size_t i = 0; i < rows.size(); ++i) {
        if (rows.data()[i] >= tables.shape(0)) throw nb::value_error("a row is not one of the tables");
    }
}

void encode(RangeEncoder& encoder, nb::handle data, const Tables& tables, const Ids& rows) {
    const Bytes text(data);
    if (rows.size() != text.size()) throw nb::value_error("give one row for every byte");
    const nb::gil_scoped_release free;
    check_tables(tables, rows);
    for (size_t i = 0; i < text.size(); ++i) {
        encoder.encode(tables.data() + rows.data()[i] * kTableSize, text.data()[i]);
    }
}

// A decoder that owns its stream.
class PyDecoder {
  public:
    explicit PyDecoder(nb::handle data) {
        const Bytes bytes(data);
        stream_.assign(bytes.data(), bytes.data() + bytes.size());
        decoder_ = std::make_unique<RangeDecoder>(stream_.data(), stream_.size());
    }

    nb::bytes decode(const Tables& tables, const Ids& rows) {
        std::vector<uint8_t> text;
        bool past_end = false;
        {
            const nb::gil_scoped_release free;
            check_tables(tables, rows);
            text.reserve(rows.size());
            for (size_t i = 0; i < rows.size() && !past_end; ++i) {
                text.push_back(decoder_->decode(tables.data() + rows.data()[i] * kTableSize));
                past_end = decoder_->is_past_end();
            }
        }
        if (past_end) throw nb::value_error(kNoStream);
        return to_bytes(text);
    }

    void finish() const {
        if (!decoder_->is_complete()) throw nb::value_error(kNoStream);
    }

  private:
    std::vector<uint8_t> stream_;
    std::unique_ptr<RangeDecoder> decoder_;
};

template <class Model>
nb::ndarray<nb::numpy, uint32_t, nb::ndim<2>> cumulative(const Model& model, const std::vector<nb::object>& prefixes) {
    std::vector<Bytes> texts;
    texts.reserve(prefixes.size());
    for (const auto& prefix : prefixes) texts.emplace_back(prefix);
    auto tables = std::make_unique<std::vector<uint32_t>>(texts.size() * kTableSize);
    {
        const nb::gil_scoped_release free;
        for (size_t i = 0; i < texts.size(); ++i) {
            typename Model::Cursor cursor(model);
            for (size_t at = 0; at < texts[i].size(); ++at) cursor.push(texts[i].data()[at]);
            std::copy_n(cursor.table(), kTableSize, tables->data() + i * kTableSize);
        }
    }
    uint32_t* data = tables->data();
    nb::capsule owner(tables.get(), [](void* all) noexcept { delete static_cast<std::vector<uint32_t>*>(all); });
    tables.release();
    return {data, {texts.size(), kTableSize}, owner};
}

template <class Model>
nb::class_<Model> bind_model(nb::module_& module, const char* name, const char* what) {
    return nb::class_<Model>(module, name, what)
        .def("cumulative", &cumulative<Model>, "prefixes"_a, "uint32 [n, 257]: the table after each prefix.")
        .def(
            "encode",
            [](const Model& self, nb::handle data) {
                const Bytes text(data);
                std::pair<std::vector<uint8_t>, size_t> stream;
                {
                    const nb::gil_scoped_release free;
                    stream = encode_with(self, text.data(), text.size());
                }
                return to_stream(stream);
            },
            "data"_a.none(), "The stream, and how many bits of it count.")
        .def(
            "decode",
            [](const Model& self, nb::handle stream, uint64_t size) {
                const Bytes bytes(stream);
                std::optional<std::vector<uint8_t>> text;
                {
                    const nb::gil_scoped_release free;
                    text = decode_with(self, bytes.data(), bytes.size(), size);
                }
                if (!text) throw nb::value_error(kNoStream);
                return to_bytes(*text);
            },
            "stream"_a.none(), "size"_a, "The `size` bytes of which the stream was made.");
}

std::shared_ptr<FixedModel> make_fixed(const Tables& tables) {
    if (tables.shape(0) != 1 || !is_table(tables.data())) throw nb::value_error("give one table");
    Table table;
    std::copy_n(tables.data(), kTableSize, table.begin());
    return std::make_shared<FixedModel>(table);
}

std::shared_ptr<CountModel> make_count(const Grams& grams, const Ids& counts, size_t order) {
    if (grams.size() != counts.size()) throw nb::value_error("give one count for every string");
    const nb::gil_scoped_release free;
    return std::make_shared<CountModel>(grams.data(), counts.data(), grams.size(), order);
}

}  // namespace

void bind_coding(nb::module_& module) {
    nb::class_<RangeEncoder>(module, "RangeEncoder", "Codes bytes by tables: uint32 [m, 257], and a row for each byte.")
        .def(nb::init<>())
        .def("encode", &encode, "data"_a.none(), "tables"_a, "rows"_a)
        .def(
            "finish", [](RangeEncoder& self) { return to_stream(self.finish()); },
            "The stream, and how many bits of it count.");

    nb::class_<PyDecoder>(module, "RangeDecoder", "Reads what RangeEncoder wrote, by the same tables.")
        .def(nb::init<nb::handle>(), "stream"_a.none())
        .def("decode", &PyDecoder::decode, "tables"_a, "rows"_a)
        .def("finish", &PyDecoder::finish, "Raises ValueError unless the stream ends here.");

    bind_model<FixedModel>(module, "FixedByteModel", "One table, whatever came before.")
        .def(nb::new_(&make_fixed), "table"_a, "uint32 [1, 257]");
    bind_model<CountModel>(module, "CountByteModel", "Counts of a corpus.")
        .def(nb::new_(&make_count), "grams"_a, "counts"_a, "order"_a,
             "grams: uint64, sorted; seven bytes from the highest down and the length. counts: uint32.");
    bind_model<AdaptiveModel>(module, "AdaptiveByteModel", "Counts of the bytes coded so far.")
        .def(nb::init<size_t>(), "order"_a);
}

}  // namespace byteloom
