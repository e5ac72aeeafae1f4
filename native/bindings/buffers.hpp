// Bytes in, arrays out, without copies.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace byteloom {

namespace nb = nanobind;

// A contiguous view of bytes that any object with the buffer protocol lends; released with the view.
class Bytes {
  public:
    explicit Bytes(nb::handle object) {
        if (PyUnicode_Check(object.ptr())) {
            throw nb::type_error("encode takes bytes-like data; call .encode('utf-8') first");
        }
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_ND | PyBUF_FORMAT) != 0) {
            PyErr_Clear();
            throw nb::type_error(
                "expected contiguous bytes-like data (bytes, bytearray, memoryview, mmap, uint8 array)");
        }
        if (view_.itemsize != 1 || view_.ndim != 1 ||
            (view_.format != nullptr && view_.format[0] != 'B' && view_.format[0] != 'c')) {
            PyBuffer_Release(&view_);
            throw nb::type_error("expected one dimension of unsigned bytes, such as a uint8 array");
        }
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    Bytes(Bytes&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    ~Bytes() {
        if (view_.obj != nullptr) PyBuffer_Release(&view_);
    }

    const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
    size_t size() const { return static_cast<size_t>(view_.len); }
    nb::object object() const { return nb::borrow(view_.obj); }  // who lends them

  private:
    Py_buffer view_{};
};

using IdArray = nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>;
using Ids = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Copies that outlive the GIL.
inline std::vector<std::string> to_strings(const std::vector<nb::bytes>& texts) {
    std::vector<std::string> own;
    own.reserve(texts.size());
    for (const auto& text : texts) own.emplace_back(text.c_str(), text.size());
    return own;
}

// A numpy array that owns the vector's memory.
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T>&& values) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owned->data();
    const size_t size = owned->size();
    nb::capsule owner(owned.get(), [](void* vector) noexcept { delete static_cast<std::vector<T>*>(vector); });
    owned.release();
    return nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {size}, owner);
}

}  // namespace byteloom
