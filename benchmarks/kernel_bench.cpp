// The kernels on one core, at every level of instructions that this processor has. GB/s are bytes of weights,
// Gn/s normals. H: hidden size, I: neurons of the dense FFN.
//   taskset -c 1 build/dev/benchmarks/kernel_bench --benchmark_repetitions=5
//   --benchmark_report_aggregates_only
#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

#include "upmoe/base/hash.h"
#include "upmoe/base/isa.h"
#include "upmoe/random/normal.h"
#include "upmoe/random/sample.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/tensor/gather.h"
#include "upmoe/tensor/moments.h"

namespace {

using namespace upmoe;

// The FFNs of SmolLM2-135M, Llama 3.2 1B and Llama 3 8B; I decides, so H is cut to keep a run short.
struct Ffn {
  std::int64_t I, H;
};
constexpr Ffn kFfns[] = {{1536, 576}, {8192, 2048}, {14336, 1024}};
constexpr std::int64_t kExperts = 8;

std::vector<std::byte> weights(std::int64_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  normals(Rng(1), 0, 0, 0.02f, x);
  std::vector<std::byte> out(2 * x.size());
  from_float(x, Dtype::bf16, out);
  return out;
}

// A block that the converter fills, again and again: 4 MiB.
std::vector<std::byte>& block() {
  static std::vector<std::byte> bytes(4 << 20);
  return bytes;
}

void measure(benchmark::State& state, Isa isa, std::uint64_t bytes, const std::function<void()>& work) {
  const Isa before = active_isa();
  set_active_isa(isa);
  for (auto _ : state) {
    work();
    benchmark::ClobberMemory();
  }
  const double gigabytes = static_cast<double>(bytes) * static_cast<double>(state.iterations()) / 1e9;
  state.counters["GB/s"] = benchmark::Counter(gigabytes, benchmark::Counter::kIsRate);
  set_active_isa(before);
}

void add(const std::string& name, Isa isa, std::function<void(benchmark::State&, Isa)> run) {
  benchmark::RegisterBenchmark((name + "/" + std::string(isa_name(isa))).c_str(), std::move(run), isa)
      ->Unit(benchmark::kMillisecond);
}

// All of `count` rows or columns: shuffled, or those of one of 8 experts.
void gathers(benchmark::State& state, Isa isa, Ffn ffn, bool columns, bool all) {
  const std::vector<std::byte> dense = weights(ffn.I * ffn.H);
  std::vector<std::int32_t> index =
      all ? permutation(Rng(2), ffn.I) : choose(Rng(2), ffn.I / kExperts, ffn.I);
  const StoredMatrix in{dense, columns ? ffn.H : ffn.I, columns ? ffn.I : ffn.H, 2};
  const std::uint64_t total = 2 * index.size() * static_cast<std::uint64_t>(ffn.H);
  measure(state, isa, total, [&] {
    for (std::uint64_t at = 0; at < total; at += block().size()) {
      const auto out = std::span(block()).first(std::min<std::uint64_t>(block().size(), total - at));
      columns ? gather_columns(in, index, at, out) : gather_rows(in, index, at, out);
    }
  });
}

void draws(benchmark::State& state, Isa isa, bool narrow) {
  std::vector<float> x(4096);  // as convert/fill draws: a piece at a time, then to the type of the tensor
  const std::span<std::byte> out = std::span(block()).first(2 * x.size());
  std::uint64_t at = 0;
  measure(state, isa, narrow ? out.size() : 4 * x.size(), [&] {
    normals(Rng(1), at += x.size(), 0, 0.02f, x);
    if (narrow) from_float(x, Dtype::bf16, out);
  });
  state.counters["Gn/s"] = benchmark::Counter(static_cast<double>(state.iterations() * x.size()) / 1e9,
                                              benchmark::Counter::kIsRate);
}

void converts(benchmark::State& state, Isa isa, bool widen) {
  std::vector<float> x(4096);
  const std::vector<std::byte> stored = weights(4096);
  const std::span<std::byte> out = std::span(block()).first(stored.size());
  to_float(Dtype::bf16, stored, x);
  measure(state, isa, stored.size(), [&] {
    if (widen)
      to_float(Dtype::bf16, stored, x);
    else
      from_float(x, Dtype::bf16, out);
  });
}

void statistics(benchmark::State& state, Isa isa, Ffn ffn, bool columns) {
  const std::vector<std::byte> dense = weights(ffn.I * ffn.H);
  measure(state, isa, dense.size(), [&] {
    benchmark::DoNotOptimize(columns ? column_moments(Dtype::bf16, dense, ffn.H, ffn.I)
                                     : row_moments(Dtype::bf16, dense, ffn.I, ffn.H));
  });
}

void add_all() {
  for (const Isa isa : available_isas()) {
    for (const Ffn ffn : kFfns) {
      const std::string size = "/I=" + std::to_string(ffn.I);
      const auto gather = [&](const std::string& name, bool columns, bool all) {
        add(name + size, isa,
            [=](benchmark::State& state, Isa on) { gathers(state, on, ffn, columns, all); });
      };
      gather("gather_rows/shuffled", /*columns=*/false, /*all=*/true);
      gather("gather_rows/one_of_8", /*columns=*/false, /*all=*/false);
      gather("gather_columns/shuffled", /*columns=*/true, /*all=*/true);
      gather("gather_columns/one_of_8", /*columns=*/true, /*all=*/false);
      for (const bool columns : {false, true})
        add((columns ? "column_moments" : "row_moments") + size, isa,
            [=](benchmark::State& state, Isa on) { statistics(state, on, ffn, columns); });
    }
    add("normals/float", isa, [](benchmark::State& state, Isa on) { draws(state, on, /*narrow=*/false); });
    add("normals/bf16", isa, [](benchmark::State& state, Isa on) { draws(state, on, /*narrow=*/true); });
    add("bf16_to_float", isa, [](benchmark::State& state, Isa on) { converts(state, on, /*widen=*/true); });
    add("float_to_bf16", isa, [](benchmark::State& state, Isa on) { converts(state, on, /*widen=*/false); });
  }
  // Its kernels are those of the library that it comes from.
  add("xxh3", available_isas().back(), [](benchmark::State& state, Isa on) {
    measure(state, on, block().size(), [] { benchmark::DoNotOptimize(xxh3(block())); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
