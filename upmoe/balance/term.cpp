#include "upmoe/balance/term.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "upmoe/balance/registry.h"
#include "upmoe/base/plugin.h"
#include "upmoe/routing/sequences.h"

namespace upmoe::balance {
namespace {

struct ScopeOption {
  Choice scope;
  void visit(auto&& field) { field(scope, "scope", "the tokens that the loss is a function of"); }
};

const std::vector<std::string> kScopes = {"sequence", "micro-batch", "step"};

double coefficient_of(std::string_view text, const std::string& all) {
  double out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  require_asked(error == std::errc() && end == text.data() + text.size() && std::isfinite(out) && out >= 0,
                "'{}': the coefficient '{}' is not a number of 0 or more", all, printable(text));
  return out;
}

// Takes out of `values` what `Options` knows.
template <class Options>
Options taken(Values& values, Options options) {
  Values mine;
  options.visit([&](auto& /*field*/, const char* name, const char* /*help*/) {
    if (auto node = values.extract(name)) mine.insert(std::move(node));
  });
  options.visit([&](auto& field, const char* name, const char* /*help*/) {
    if (const auto it = mine.find(name); it != mine.end()) option_value::read(field, name, it->second);
  });
  return options;
}

// 1 for each real token, 0 for padding: [T] in the dtype of `like`.
at::Tensor real(const MicroBatch& batch, std::int64_t tokens, const at::Tensor& like) {
  return batch.valid_T.defined() ? batch.valid_T.to(like.scalar_type()) : at::ones({tokens}, like.options());
}

}  // namespace

Term::Term(std::string_view text, LossShape shape) {
  const std::string all = printable(text);
  NamedValues asked = parse_named_values(text);
  const std::size_t colon = std::min(asked.name.find(':'), asked.name.size());
  info_ = &find_plugin(losses(), asked.name.substr(0, colon), "balancing loss");
  coefficient_ = colon < asked.name.size()
                     ? coefficient_of(std::string_view(asked.name).substr(colon + 1), all)
                     : info_->coefficient;
  const auto scope = static_cast<std::size_t>(info_->scope);
  const std::string word = taken(asked.values, ScopeOption{{kScopes[scope], kScopes}}).scope.value;
  scope_ = static_cast<Scope>(std::ranges::find(kScopes, word) - kScopes.begin());
  schedule_ = taken(asked.values, Schedule{});
  require_asked(schedule_.warmup >= 0 && schedule_.end >= 0, "'{}': warmup and end are 0 or more", all);
  require_asked(schedule_.schedule.value == "constant" || schedule_.until > schedule_.warmup,
                "'{}': a {} schedule needs `until`, the step at which it ends, and after the warm-up", all,
                schedule_.schedule.value);
  loss_ = info_->make(shape, asked.values);
}

double Term::coefficient(std::int64_t step) const {
  if (step < schedule_.warmup)
    return coefficient_ * static_cast<double>(step + 1) / static_cast<double>(schedule_.warmup);
  if (schedule_.schedule.value == "constant") return coefficient_;
  const double gone = std::min(1.0, static_cast<double>(step - schedule_.warmup) /
                                        static_cast<double>(schedule_.until - schedule_.warmup)),
               left = schedule_.schedule.value == "linear" ? 1 - gone
                                                           : (1 + std::cos(std::numbers::pi * gone)) / 2;
  return coefficient_ * (schedule_.end + (1 - schedule_.end) * left);
}

bool Term::needs_totals(const StepSize& step) const {
  return scope_ == Scope::step && !info_->linear && step.micro_batches > 1;
}

at::Tensor Term::totals(const MicroBatch& batch) const {
  const at::NoGradGuard none;
  std::vector<at::Tensor> of_layers;
  for (const routing::Routing& routing : batch.layers) {
    const at::Tensor u_TM = loss_->of_tokens(routing);
    of_layers.push_back((u_TM * real(batch, u_TM.size(0), u_TM).unsqueeze(1)).sum(0));
  }
  const at::Tensor out_LM = at::stack(of_layers);
  return info_->joint ? out_LM.sum(0, /*keepdim=*/true) : out_LM;
}

at::Tensor Term::part(const at::Tensor& of_tokens_TM, const MicroBatch& batch, const StepSize& step,
                      const at::Tensor& total_M, std::int64_t layers) const {
  const at::Tensor real_T = real(batch, of_tokens_TM.size(0) / layers, of_tokens_TM).repeat({layers}),
                   u_TM = of_tokens_TM * real_T.unsqueeze(1);
  if (scope_ == Scope::sequence) {
    const std::int64_t T = of_tokens_TM.size(0) / layers;
    const routing::Sequences sequences = routing::sequences_of(batch.runs, T, u_TM.device());
    const at::Tensor of_T = sequences.of_T.repeat({layers}),
                     sum_SM =
                         at::zeros({sequences.number, u_TM.size(1)}, u_TM.options()).index_add(0, of_T, u_TM),
                     tokens_S = at::zeros({sequences.number}, u_TM.options()).index_add(0, of_T, real_T);
    const at::Tensor value_S = loss_->value(sum_SM, tokens_S.clamp_min(1));
    return (value_S * (tokens_S > 0)).sum() / static_cast<double>(std::max<std::int64_t>(1, step.sequences));
  }
  const at::Tensor sum_1M = u_TM.sum(0, /*keepdim=*/true);
  if (scope_ == Scope::micro_batch)
    return loss_->value(sum_1M, real_T.sum(0, /*keepdim=*/true).clamp_min(1)).squeeze(0) /
           static_cast<double>(step.micro_batches);
  const at::Tensor tokens_1 =
      at::ones({1}, u_TM.options()) * static_cast<double>(std::max<std::int64_t>(1, step.tokens) * layers);
  if (info_->linear || step.micro_batches == 1) return loss_->value(sum_1M, tokens_1).squeeze(0);
  // The loss is a function of the sums of the whole step. Its derivative there, times this micro-batch's
  // share of the sums, has the gradient that this micro-batch has in it; its value is an equal share.
  const at::Tensor at_1M =
      total_M.to(u_TM.scalar_type()).unsqueeze(0).detach().clone().set_requires_grad(true);
  at::Tensor whole, slope_1M;
  {
    const at::AutoGradMode enabled(true);
    whole = loss_->value(at_1M, tokens_1).squeeze(0);
    slope_1M = torch::autograd::grad({whole}, {at_1M})[0];
  }
  const at::Tensor moving = (slope_1M * sum_1M).sum();
  return moving - moving.detach() + whole.detach() / static_cast<double>(step.micro_batches);
}

at::Tensor Term::loss(const MicroBatch& batch, const StepSize& step, const at::Tensor& totals) const {
  require(step.micro_batches >= 1 && step.sequences >= 0 && step.tokens >= 0,
          "balancing loss '{}': a step of {} micro-batches, {} sequences and {} tokens", info_->name,
          step.micro_batches, step.sequences, step.tokens);
  require(!needs_totals(step) || totals.defined(), "balancing loss '{}': the totals of the step are missing",
          info_->name);
  std::vector<at::Tensor> of_layers;
  for (const routing::Routing& routing : batch.layers) of_layers.push_back(loss_->of_tokens(routing));
  const auto total = [&](std::size_t l) {
    return totals.defined() ? totals.select(0, static_cast<std::int64_t>(l)) : totals;
  };
  if (info_->joint) return part(at::cat(of_layers), batch, step, total(0), std::ssize(of_layers));
  at::Tensor sum;
  for (std::size_t l = 0; l < of_layers.size(); ++l) {
    const at::Tensor one = part(of_layers[l], batch, step, total(l), 1);
    sum = sum.defined() ? sum + one : one;
  }
  return sum;
}

void require_fit(const LossInfo& loss, const routing::RouterInfo& router, const routing::RouterShape& shape,
                 const Values& router_options) {
  const std::string why = loss.why_not(router.traits(shape, router_options));
  require_asked(why.empty(), "the balancing loss '{}' can't be trained with the router '{}': {}", loss.name,
                router.name, why);
}

}  // namespace upmoe::balance
