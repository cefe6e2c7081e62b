#include "tests/routing/cases.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "upmoe/random/normal.h"

namespace upmoe::routing::test {
namespace {

// They gain nothing from more, and wait for each other on a machine that is busy.
[[maybe_unused]] const bool kOneThread = (at::set_num_threads(1), true);

}  // namespace

std::string Case::name() const {
  std::string out = info->name;
  for (const auto& [option, value] : values) out += "_" + option + "_" + value;
  std::ranges::replace_if(
      out, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return out;
}

RouterShape Case::shape(std::int64_t experts, std::int64_t per_token) const {
  return {.experts = experts,
          .per_token = per_token,
          .hidden = experts,
          .vocabulary = kVocabulary,
          .key = Rng(7)};
}

std::unique_ptr<Router> Case::make(std::int64_t experts, std::int64_t per_token) const {
  return info->make(shape(experts, per_token), values);
}

void PrintTo(const Case& one, std::ostream* out) { *out << one.name(); }

std::vector<Case> cases() {
  const std::vector<Values> with_topk = {
      {{"noise", "gaussian"}, {"noise-for", "both"}},
      {{"noise", "gumbel"}, {"capacity", "1.5"}},
      {{"jitter", "0.2"}},
      {{"capacity", "1"}},
      {{"capacity", "1"}, {"drop", "probability"}},
  };
  std::vector<Case> out;
  for (const RouterInfo& info : routers()) {
    out.push_back({&info, {}});
    std::set<std::string> options;
    for (const OptionInfo& option : info.options) {
      options.insert(option.name);
      const std::vector<std::string> choices =
          option.type == "flag" ? std::vector<std::string>{"true", "false"} : option.choices;
      for (const std::string& choice : choices)
        if (choice != option.preset) out.push_back({&info, {{option.name, choice}}});
    }
    for (const Values& values : with_topk)
      if (std::ranges::all_of(values, [&](const auto& value) { return options.contains(value.first); }))
        out.push_back({&info, values});
  }
  return out;
}

at::Tensor random_logits(std::int64_t tokens, std::int64_t experts, std::uint64_t seed) {
  at::Tensor out = at::empty({tokens, experts});
  normals(Rng(seed), 0, {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out;
}

Call call_of(const at::Tensor& logits_TE, bool training) {
  Call out;
  out.x_TH = logits_TE;
  out.gate_EH = at::eye(logits_TE.size(1), logits_TE.options());
  out.token_id_T = at::arange(logits_TE.size(0), at::kLong).remainder(kVocabulary);
  out.training = training;
  out.key = Rng(3);
  return out;
}

at::Tensor dense_weights(const Routing& routing) {
  return at::zeros_like(routing.score_TX)
      .index_put({routing.token_N, routing.expert_N}, routing.weight_N, /*accumulate=*/true);
}

bool same(const Routing& a, const Routing& b, double tolerance) {
  return at::equal(a.token_N, b.token_N) && at::equal(a.expert_N, b.expert_N) &&
         at::equal(a.chosen_TM, b.chosen_TM) && at::allclose(a.weight_N, b.weight_N, tolerance, /*atol=*/0) &&
         at::allclose(a.score_TX, b.score_TX, tolerance, /*atol=*/0);
}

Routing part(const Routing& routing, std::int64_t begin, std::int64_t end) {
  const at::Tensor in = (routing.token_N >= begin) * (routing.token_N < end);
  Routing out;
  out.token_N = routing.token_N.masked_select(in) - begin;
  out.expert_N = routing.expert_N.masked_select(in);
  out.weight_N = routing.weight_N.masked_select(in);
  out.score_TX = routing.score_TX.narrow(0, begin, end - begin);
  out.chosen_TM = routing.chosen_TM.narrow(0, begin, end - begin);
  return out;
}

}  // namespace upmoe::routing::test
