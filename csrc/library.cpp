// Every operator's schema in one place, and the Python module _C: facts about the build, no operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu_level.h"
#include "observer.h"
#include "product_layout.h"

TORCH_LIBRARY(ecgtwin_fast, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("modulated_layer_norm(Tensor x, Tensor shift, Tensor scale, float eps=1e-6) -> Tensor", tags);
  m.def(
      "modulated_layer_norm_backward(Tensor grad, Tensor x, Tensor scale, float eps) -> (Tensor, Tensor, Tensor)", tags);
  m.def(
      "gated_residual(Tensor x, Tensor gate, Tensor y, Tensor shift, Tensor scale, float eps=1e-6) -> (Tensor, Tensor)",
      tags);
  m.def(
      "gated_residual_backward(Tensor grad_sum, Tensor grad_norm, Tensor sum, Tensor gate, Tensor y, Tensor scale, "
      "float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      tags);
  m.def("rope_embed(Tensor x, Tensor weight, Tensor bias) -> Tensor", tags);
  m.def("rope_embed_backward(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor)", tags);
  m.def(
      "multihead_attention(Tensor query, Tensor key, Tensor value, Tensor? bias, int heads) -> (Tensor, Tensor)", tags);
  m.def(
      "multihead_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor? bias, "
      "Tensor out, Tensor statistics, int heads) -> (Tensor, Tensor, Tensor)",
      tags);
  m.def(
      "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps=1e-5) -> (Tensor, Tensor)", tags);
  m.def(
      "group_norm_silu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor statistics, int groups) -> "
      "(Tensor, Tensor, Tensor)",
      tags);
  m.def("tanh_gelu(Tensor x) -> Tensor", tags);
  m.def("tanh_gelu_backward(Tensor grad, Tensor x) -> Tensor", tags);
  m.def(
      "sampler_step(Tensor x, Tensor eps, Tensor? x0_prev, Tensor? noise, Tensor coefficients, SymInt seed, "
      "SymInt first_index, SymInt step) -> (Tensor, Tensor)",
      tags);
  m.def(
      "sampler_step_(Tensor(a!) x, Tensor(b!) x0, Tensor eps, Tensor? noise, Tensor coefficients, Tensor keys) -> ()");
  m.def(
      "cpu_conditions(Tensor[] weights, Tensor input, Tensor? positions, Tensor score_bias, int[] counts, int heads, "
      "float eps, bool bfloat16) -> (Tensor[], Tensor[], Tensor[])");
  m.def(
      "cpu_denoise(Tensor[] network, Tensor[] blocks, Tensor[] keys, Tensor[] scores, Tensor[] values, "
      "Tensor condition_of, Tensor time, Tensor base, Tensor base_of, Tensor? x_init, Tensor? noise, "
      "Tensor coefficients, int heads, int ratio, int length, bool bfloat16, int seed, int first_index, int group, "
      "int edit_step, Tensor? token_counts, Tensor? edit_scales, int threads, Tensor(a!) status) -> Tensor");
  m.def(
      "cpu_extract(Tensor[] network, Tensor[] blocks, Tensor[] keys, Tensor[] scores, Tensor[] values, "
      "Tensor condition_of, Tensor latents, int heads, int ratio, bool bfloat16, int threads) -> Tensor");
  m.def(
      "cpu_decode(Tensor[] weights, int[] layers, Tensor latents, int leads, float eps, bool bfloat16, int threads, "
      "Tensor(a!) status) -> Tensor");
  m.def(
      "cuda_trajectory(Tensor[] network, Tensor modulation, Tensor base_of, Tensor[] conditions, Tensor coefficients, "
      "Tensor? noise, Tensor(a!) latents, Tensor(b!) clean, Tensor(c!) taken, int head, int seed, int first_index, "
      "int first_step, bool draws, int blocks) -> ()");
  m.def("cuda_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
}

namespace {

const char* const kLevels[] = {"generic", "avx2", "avx512", "avx512bf16"};

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

std::string set_cpu_level(const std::string& name) {
  for (int level = 0; level < ecgtwin::kCpuLevels; ++level)
    if (name == kLevels[level]) {
      ecgtwin::set_cpu_level(static_cast<ecgtwin::CpuLevel>(level));
      return kLevels[static_cast<int>(ecgtwin::cpu_level())];
    }
  throw pybind11::value_error("the CPU level must be generic, avx2, avx512 or avx512bf16, but it is " + name);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the build of ecgtwin_fast; importing it registers torch.ops.ecgtwin_fast.";
  m.attr("torch_version") = TORCH_VERSION;
#if defined(__clang__)
  m.attr("compiler") = __VERSION__;
#else
  m.attr("compiler") = "GCC " __VERSION__;
#endif
  m.attr("cpu_variants") = words(ECGTWIN_VARIANTS);
  m.attr("cuda_architectures") = words(ECGTWIN_ARCHITECTURES);
  m.attr("cpu_features") = ecgtwin::cpu_features();
  m.def("cpu_level", [] { return std::string(kLevels[static_cast<int>(ecgtwin::cpu_level())]); },
        "Instruction set that the CPU kernels use now.");
  m.def("best_cpu_level", [] { return std::string(kLevels[static_cast<int>(ecgtwin::best_cpu_level())]); },
        "Best instruction set of this CPU that kernels were built for.");
  m.def(
      "product_layout",
      [](bool bfloat16, bool narrow) {
        const auto layout = (narrow ? ecgtwin::narrow_layout : ecgtwin::product_layout)(ecgtwin::cpu_level(), bfloat16);
        return std::vector<int64_t>{layout.rows, layout.pack, layout.tile};
      },
      pybind11::arg("bfloat16"), pybind11::arg("narrow"),
      "(rows, pack, tile) of packed matrices at the level now in use (csrc/product_layout.h); rows 0: no kernels.");
  m.def("observe", &ecgtwin::set_observer, pybind11::arg("callable"),
        "Long operators called by this thread will call this now and then, without arguments; None ends it.");
  m.def("set_cpu_level", &set_cpu_level, pybind11::arg("level"),
        "Use this instruction set, or the best the CPU has if that is lower; returns the one now in use.");
}
