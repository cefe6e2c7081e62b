// What each router costs beside softmax_topk, and as a share of the MoE layer that it is in: forward on 4,096
// tokens, in evaluation and in training, all by turns; the minimum of the runs. H, F: hidden size and neurons
// of an expert.
//   build/release/benchmarks/router_bench [RUNS [H F]]
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <vector>

#include "upmoe/ops/ops.h"
#include "upmoe/random/normal.h"
#include "upmoe/routing/registry.h"

namespace {

using namespace upmoe;

constexpr std::int64_t T = 4096, K = 2, kVocabulary = 49152, kSequence = 1024;

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed, double sigma) {
  at::Tensor out = at::empty(shape);
  normals(Rng(seed), 0, 0, static_cast<float>(sigma),
          {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out;
}

struct Layer {
  routing::Call call;
  ops::ExpertWeights experts;
};

Layer make_layer(std::int64_t E, std::int64_t H, std::int64_t F) {
  Layer out;
  out.call.x_TH = normal({T, H}, 1, 1).to(at::kBFloat16);
  out.call.gate_EH = normal({E, H}, 2, 0.02);
  out.call.token_id_T = (at::arange(T, at::kLong) * 7919).remainder(kVocabulary);
  for (std::int64_t s = 0; s < T / kSequence; ++s)
    out.call.runs.push_back({.sequence = s, .position = 0, .tokens = kSequence});
  for (std::int64_t e = 0; e < E; ++e) {
    const auto seed = static_cast<std::uint64_t>(10 + 3 * e);
    out.experts.gate_FH.push_back(normal({F, H}, seed, 0.02).to(at::kBFloat16));
    out.experts.up_FH.push_back(normal({F, H}, seed + 1, 0.02).to(at::kBFloat16));
    out.experts.down_HF.push_back(normal({H, F}, seed + 2, 0.02).to(at::kBFloat16));
  }
  return out;
}

double seconds(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Times {
  double evaluation = 1e9, training = 1e9;
};

void measure(std::int64_t E, std::int64_t H, std::int64_t F, int runs) {
  const Layer layer = make_layer(E, H, F);
  std::vector<std::unique_ptr<routing::Router>> routers;
  for (const routing::RouterInfo& info : routing::routers())
    routers.push_back(
        info.make({.experts = E, .per_token = K, .hidden = H, .vocabulary = kVocabulary, .key = Rng(5)}, {}));
  std::vector<Times> times(routers.size());
  double experts = 1e9;
  for (int run = 0; run < runs; ++run) {
    for (std::size_t r = 0; r < routers.size(); ++r)
      for (const bool training : {false, true}) {
        const at::AutoGradMode gradients(training);
        routing::Call call = layer.call;
        call.training = training;
        double& best = training ? times[r].training : times[r].evaluation;
        best = std::min(best, seconds([&] { routers[r]->route(call); }));
      }
    const at::NoGradGuard none;
    const routing::Routing routing = routers[0]->route(layer.call);
    experts = std::min(experts, seconds([&] {
                         ops::experts(layer.call.x_TH, routing.token_N, routing.expert_N, routing.weight_N,
                                      layer.experts);
                       }));
  }
  const double whole = times[0].evaluation + experts;
  fmt::print("\ntop-{} of {} experts, {} tokens, H {}, F {}: a layer takes {:.1f} ms in bf16\n", K, E, T, H,
             F, 1e3 * whole);
  fmt::print("{:<20} {:>11} {:>9} {:>9} {:>11} {:>9} {:>9}\n", "router", "evaluation", "x plain", "of layer",
             "training", "x plain", "of layer");
  for (std::size_t r = 0; r < routers.size(); ++r)
    fmt::print("{:<20} {:>8.2f} ms {:>9.2f} {:>7.1f} % {:>8.2f} ms {:>9.2f} {:>7.1f} %\n",
               routing::routers()[r].name, 1e3 * times[r].evaluation,
               times[r].evaluation / times[0].evaluation, 100 * times[r].evaluation / whole,
               1e3 * times[r].training, times[r].training / times[0].training,
               100 * times[r].training / whole);
}

}  // namespace

int main(int argc, char** argv) {
  const int runs = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  const std::int64_t H = argc > 3 ? std::atoll(argv[2]) : 576, F = argc > 3 ? std::atoll(argv[3]) : 1536;
  double load = 0;
  static_cast<void>(::getloadavg(&load, 1));
  fmt::print("{} threads, load {:.2f}, minimum of {} runs by turns\n", at::get_num_threads(), load, runs);
  for (const std::int64_t E : {8, 64}) measure(E, H, F, runs);
}
