// Times the engine's operations. Reads a job a line from stdin, writes the seconds of a run and a checksum of
// the result; engine_bench.py asks this program and engine_peer.py in turn. Short runs are repeated, and
// their median is written. Jobs:
//   layer T H F E K DTYPE EXPERTS forward|step   an MoE layer; EXPERTS: of every pair, separated by commas;
//                                                step: with the gradients of x and of all weights
//   mm M K N DTYPE                               a plain product, as ATen computes it
//   peak DTYPE                                   a GFLOP of products that stay in each core's cache
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/tiles.h"

namespace {

using at::Tensor;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// As in engine_peer.py: of as many runs as fit into 0.2 s after the first, or of that one.
template <class F>
double median_seconds(F run) {
  const auto timed = [&] {
    const double start = now();
    run();
    return now() - start;
  };
  const double first = timed();
  std::vector<double> all;
  for (double left = 0.2; left >= first && all.size() < 21; left -= all.back()) all.push_back(timed());
  if (all.empty()) return first;
  std::ranges::nth_element(all, all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2));
  return all[all.size() / 2];
}

at::ScalarType dtype_of(const std::string& name) {
  upmoe::require(name == "float32" || name == "bfloat16", "dtype '{}' is not timed", name);
  return name == "float32" ? at::kFloat : at::kBFloat16;
}

// The same numbers in engine_peer.py: no generator, so that they cost nothing.
Tensor numbers(std::vector<std::int64_t> shape, at::ScalarType dtype, double scale) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  Tensor out = at::empty(shape, at::TensorOptions(dtype));
  const Tensor period =
      ((at::arange(1009, at::TensorOptions(at::kFloat)) * 367).remainder(1009) / 1009 - 0.5) * scale;
  out.view({-1}).narrow(0, 0, count / 1009 * 1009).view({-1, 1009}).copy_(period);
  out.view({-1}).narrow(0, count / 1009 * 1009, count % 1009).copy_(period.narrow(0, 0, count % 1009));
  return out;
}

struct Layer {
  std::string shape;  // that it was made for
  std::vector<Tensor> leaves;
  upmoe::ops::ExpertWeights weights;
};

void make(Layer& layer, const std::string& shape, std::int64_t H, std::int64_t F, std::int64_t E,
          at::ScalarType dtype) {
  if (layer.shape == shape) return;
  layer = {};  // gives its memory back first
  const Tensor gate_up = numbers({E, 2 * F, H}, dtype, 0.1), down = numbers({E, H, F}, dtype, 0.1);
  for (std::int64_t e = 0; e < E; ++e) {
    layer.weights.gate_FH.push_back(gate_up[e].narrow(0, 0, F));
    layer.weights.up_FH.push_back(gate_up[e].narrow(0, F, F));
    layer.weights.down_HF.push_back(down[e]);
  }
  for (auto* all : {&layer.weights.gate_FH, &layer.weights.up_FH, &layer.weights.down_HF})
    layer.leaves.insert(layer.leaves.end(), all->begin(), all->end());
  layer.shape = shape;
}

void time_layer(Layer& layer, std::istream& job) {
  std::int64_t T, H, F, E, K;
  std::string dtype_name, experts, mode;
  job >> T >> H >> F >> E >> K >> dtype_name >> experts >> mode;
  upmoe::require(!job.fail(), "a layer is given as: layer T H F E K DTYPE EXPERTS forward|step");
  const at::ScalarType dtype = dtype_of(dtype_name);
  make(layer, fmt::format("{} {} {} {}", H, F, E, dtype_name), H, F, E, dtype);
  Tensor expert_P = at::empty({T * K}, at::TensorOptions(at::kLong));
  std::istringstream list(experts);
  for (std::int64_t p = 0; p < T * K; ++p, list.ignore(1)) list >> expert_P.data_ptr<std::int64_t>()[p];
  const Tensor token_P = at::arange(T, at::TensorOptions(at::kLong)).repeat_interleave(K);
  Tensor x = numbers({T, H}, dtype, 4), weight_P = numbers({T * K}, at::kFloat, 1).abs();
  const bool step = mode == "step";
  std::vector<Tensor> leaves = layer.leaves;
  leaves.insert(leaves.end(), {x, weight_P});
  for (Tensor& leaf : leaves) leaf.requires_grad_(step);
  const Tensor dy = numbers({T, H}, dtype, 1);
  const at::AutoGradMode recorded(step);
  Tensor y;
  std::vector<Tensor> gradients;
  const double seconds = median_seconds([&] {
    y = upmoe::ops::experts(x, token_P, expert_P, weight_P, layer.weights);
    if (step) gradients = torch::autograd::grad({y}, leaves, {dy});
  });
  const Tensor& checked = step ? gradients[gradients.size() - 2] : y;
  fmt::print("{:.9f} {:.6g}\n", seconds, checked.abs().to(at::kDouble).mean().item<double>());
}

void time_mm(std::istream& job) {
  std::int64_t M, K, N;
  std::string dtype;
  job >> M >> K >> N >> dtype;
  upmoe::require(!job.fail(), "a product is given as: mm M K N DTYPE");
  const Tensor x = numbers({M, K}, dtype_of(dtype), 1), w = numbers({N, K}, dtype_of(dtype), 1);
  Tensor out = at::empty({M, N}, x.options());
  fmt::print("{:.9f} 0\n", median_seconds([&] { at::mm_out(out, x, w.t()); }));
}

void time_peak(std::istream& job) {
  std::string dtype;
  job >> dtype;
  upmoe::require(!job.fail(), "the peak is asked for as: peak DTYPE");
  constexpr std::int64_t M = 512, K = 512, N = 64, kTimes = 200;
  const std::int64_t tiles = at::get_num_threads();
  const Tensor x = numbers({tiles, M, K}, dtype_of(dtype), 1), w = numbers({tiles, K, N}, dtype_of(dtype), 1),
               out = at::empty({tiles, M, N}, at::TensorOptions(at::kFloat));
  const double seconds = median_seconds([&] {
    upmoe::ops::for_each_tile(tiles, [&](std::int64_t tile) {
      for (std::int64_t i = 0; i < kTimes; ++i) upmoe::ops::product(x[tile], w[tile], out[tile]);
    });
  });
  fmt::print("{:.9f} 0\n", seconds / (2e-9 * M * K * N * kTimes * static_cast<double>(tiles)));
}

}  // namespace

int main() try {
  upmoe::ops::keep_freed_memory();  // as upmoe-engine does
  Layer layer;
  for (std::string line; std::getline(std::cin, line); std::fflush(stdout)) {
    std::istringstream job(line);
    std::string what;
    job >> what;
    if (what == "layer")
      time_layer(layer, job);
    else if (what == "mm")
      time_mm(job);
    else if (what == "peak")
      time_peak(job);
    else
      upmoe::fail("unknown job '{}'", what);
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "engine_bench: {}\n", error.what());
  return 1;
}
