#pragma once
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/convert/convert.h"
#include "upmoe/model/load.h"

// Tiny models in float32, and what runs them. Shape letters: B sequences, T positions, V vocabulary.
namespace upmoe::test {

// They gain nothing from more, and wait for each other on a machine that is busy.
inline const bool kOneThread = (at::set_num_threads(1), true);

// A dense Llama or Mistral, and with `experts` what `drop` makes of it.
inline std::filesystem::path make_tiny_model(const std::filesystem::path& folder, TinyOptions options,
                                             std::int64_t experts = 0) {
  options.dtype = Dtype::f32;
  make_tiny_llama(folder / "dense", options);
  if (experts == 0) return folder / "dense";
  ConvertRequest request;
  request.source = (folder / "dense").string();
  request.folder = folder / "dense";
  request.experts = experts;
  convert(make_plan(request), folder / "moe", {.threads = 1});
  return folder / "moe";
}

// Ids below `vocab` without a visible order, the same for each call.
inline at::Tensor some_tokens(std::int64_t B, std::int64_t T, std::int64_t vocab = 64) {
  const at::Tensor i = at::arange(B * T, at::kLong);
  return (i * i * 7 + i * 13 + 5).remainder(vocab).view({B, T});
}

// The largest difference in units of the largest number.
inline double relative_difference(const at::Tensor& found, const at::Tensor& wanted) {
  return ((found - wanted).abs().max() / wanted.abs().max()).item<double>();
}

}  // namespace upmoe::test
