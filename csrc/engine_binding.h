// What the bindings of the CPU engines share: tensors become the pointers of argument structs.
#pragma once

#include "binding.h"
#include "product_layout.h"

namespace ecgtwin {

// Data of a contiguous CPU tensor that must have exactly `numel` elements of type T (uint32_t: int32 tensors).
template <typename T>
const T* data_of(const char* op, const std::string& name, const at::Tensor& tensor, int64_t numel) {
  constexpr at::ScalarType expected = std::is_same_v<T, float>     ? at::kFloat
                                      : std::is_same_v<T, int64_t> ? at::kLong
                                                                   : at::kInt;
  TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == expected, op, ": ", name,
              " must be a contiguous ", expected, " tensor on the CPU, but it is ", tensor.scalar_type(), " on ",
              tensor.device(), " with strides ", tensor.strides());
  TORCH_CHECK(tensor.numel() == numel, op, ": ", name, " must have ", numel, " elements, but it has ", tensor.numel());
  return reinterpret_cast<const T*>(tensor.const_data_ptr());
}

// One index in 0..limit for each of `batch` records.
inline const int64_t* indices(const char* op, const char* name, const at::Tensor& tensor, int64_t batch, int64_t limit) {
  const int64_t* values = data_of<int64_t>(op, name, tensor, batch);
  for (int64_t i = 0; i < batch; ++i)
    TORCH_CHECK(values[i] >= 0 && values[i] < limit, op, ": ", name, " must be in 0..", limit - 1, ", but one is ",
                values[i]);
  return values;
}

// Hands out the tensors of a list one after the other.
class TensorReader {
 public:
  TensorReader(const char* op, const char* name, at::TensorList list) : op_(op), name_(name), list_(list) {}

  template <typename T>
  const T* next(int64_t numel) {
    TORCH_CHECK(at_ < list_.size(), op_, ": ", name_, " must have more than ", list_.size(), " tensors");
    const std::string name = std::string(name_) + "[" + std::to_string(at_) + "]";
    return data_of<T>(op_, name, list_[at_++], numel);
  }
  bool done() const { return at_ == list_.size(); }

 private:
  const char* op_;
  const char* name_;
  at::TensorList list_;
  size_t at_ = 0;
};

inline ProductLayout layout_for(const char* op, bool bfloat16) {
  const ProductLayout layout = product_layout(cpu_level(), bfloat16);
  TORCH_CHECK(layout.rows > 0, op, ": this CPU, or the level it is set to, has no ", bfloat16 ? "bfloat16" : "float32",
              " kernels");
  return layout;
}

}  // namespace ecgtwin
