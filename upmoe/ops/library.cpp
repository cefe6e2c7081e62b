#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"

// The functions of ops.h as operators of torch, torch.ops.upmoe.*: with gradients, and with shapes alone
// (Meta). C++ goes through them too, so Python runs the same code. Loading the library registers them.
namespace upmoe::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The operator that has the type of the function `like`.
template <class F>
auto find(const char* name, F* /*like*/) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}
#define UPMOE_OP(name)                                        \
  ([]() -> const auto& {                                      \
    static const auto op = find("upmoe::" #name, &raw::name); \
    return op;                                                \
  }())

variable_list append(variable_list first, std::initializer_list<at::TensorList> others) {
  for (const at::TensorList other : others) first.insert(first.end(), other.begin(), other.end());
  return first;
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, double eps) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    context->saved_data["eps"] = eps;
    return UPMOE_OP(rms_norm).call(x, weight, eps);
  }
  static variable_list backward(AutogradContext* context, const variable_list& dy) {
    const variable_list saved = context->get_saved_variables();
    const auto [dx, dweight] =
        UPMOE_OP(rms_norm_backward).call(dy[0], saved[0], saved[1], context->saved_data["eps"].toDouble());
    return {dx, dweight, Variable()};
  }
};

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* context, const Tensor& gate, const Tensor& up) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({gate, up});
    return UPMOE_OP(swiglu).call(gate, up);
  }
  static variable_list backward(AutogradContext* context, const variable_list& da) {
    const variable_list saved = context->get_saved_variables();
    const auto [dgate, dup] = UPMOE_OP(swiglu_backward).call(da[0], saved[0], saved[1]);
    return {dgate, dup};
  }
};

struct Rotate : torch::autograd::Function<Rotate> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({cos, sin});
    return UPMOE_OP(rotate).call(x, cos, sin);
  }
  static variable_list backward(AutogradContext* context, const variable_list& dy) {
    const variable_list saved = context->get_saved_variables();
    return {UPMOE_OP(rotate).call(dy[0], saved[0], saved[1].neg()), Variable(), Variable()};
  }
};

struct Experts : torch::autograd::Function<Experts> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& token, const Tensor& expert,
                        const Tensor& weight, at::TensorList gate, at::TensorList up, at::TensorList down) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, gate_PF, up_PF] = UPMOE_OP(experts_kept).call(x, token, expert, weight, gate, up, down);
    context->save_for_backward(append({x, token, expert, weight, gate_PF, up_PF}, {gate, up, down}));
    bool for_weights = false;
    for (const at::TensorList weights : {gate, up, down})
      for (const Tensor& w : weights) for_weights = for_weights || w.requires_grad();
    context->saved_data["for_weights"] = for_weights;
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& dy) {
    const variable_list saved = context->get_saved_variables();
    const std::size_t E = (saved.size() - 6) / 3;
    const at::TensorList all(saved.data() + 6, 3 * E), gate = all.slice(0, E), up = all.slice(E, E),
                                                       down = all.slice(2 * E, E);
    const bool for_weights = context->saved_data["for_weights"].toBool();
    const auto [dx, dweight, dgate, dup, ddown] = UPMOE_OP(experts_backward)
                                                      .call(dy[0], saved[0], saved[1], saved[2], saved[3],
                                                            gate, up, down, saved[4], saved[5], for_weights);
    const variable_list first = {dx, Variable(), Variable(), dweight};
    return for_weights ? append(first, {dgate, dup, ddown}) : append(first, {variable_list(3 * E)});
  }
};

struct ExpertsStacked : torch::autograd::Function<ExpertsStacked> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& token, const Tensor& expert,
                        const Tensor& weight, const Tensor& gate_up, const Tensor& down) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, gate_PF, up_PF] =
        UPMOE_OP(experts_stacked_kept).call(x, token, expert, weight, gate_up, down);
    context->save_for_backward({x, token, expert, weight, gate_up, down, gate_PF, up_PF});
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& dy) {
    const variable_list s = context->get_saved_variables();
    const auto [dx, dweight, dgate_up, ddown] =
        UPMOE_OP(experts_stacked_backward).call(dy[0], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    return {dx, Variable(), Variable(), dweight, dgate_up, ddown};
  }
};

struct TokenNll : torch::autograd::Function<TokenNll> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& head,
                        const Tensor& target) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({hidden, head, target});
    return UPMOE_OP(token_nll).call(hidden, head, target);
  }
  static variable_list backward(AutogradContext* context, const variable_list& dnll) {
    const variable_list saved = context->get_saved_variables();
    const auto [dhidden, dhead] = UPMOE_OP(token_nll_backward).call(dnll[0], saved[0], saved[1], saved[2]);
    return {dhidden, dhead, Variable()};
  }
};

Tensor rms_norm_autograd(const Tensor& x, const Tensor& weight, double eps) {
  return RmsNorm::apply(x, weight, eps);
}
Tensor swiglu_autograd(const Tensor& gate, const Tensor& up) { return Swiglu::apply(gate, up); }
Tensor rotate_autograd(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  return Rotate::apply(x, cos, sin);
}
Tensor token_nll_autograd(const Tensor& hidden, const Tensor& head, const Tensor& target) {
  return TokenNll::apply(hidden, head, target);
}
Tensor experts_autograd(const Tensor& x, const Tensor& token, const Tensor& expert, const Tensor& weight,
                        at::TensorList gate, at::TensorList up, at::TensorList down) {
  bool recorded = x.requires_grad() || weight.requires_grad();
  for (const at::TensorList weights : {gate, up, down})
    for (const Tensor& w : weights) recorded = recorded || w.requires_grad();
  if (recorded && at::GradMode::is_enabled()) return Experts::apply(x, token, expert, weight, gate, up, down);
  const at::AutoDispatchBelowADInplaceOrView below;  // keeps nothing
  return UPMOE_OP(experts).call(x, token, expert, weight, gate, up, down);
}

Tensor experts_stacked_autograd(const Tensor& x, const Tensor& token, const Tensor& expert,
                                const Tensor& weight, const Tensor& gate_up, const Tensor& down) {
  const bool recorded =
      x.requires_grad() || weight.requires_grad() || gate_up.requires_grad() || down.requires_grad();
  if (recorded && at::GradMode::is_enabled())
    return ExpertsStacked::apply(x, token, expert, weight, gate_up, down);
  const at::AutoDispatchBelowADInplaceOrView below;
  return UPMOE_OP(experts_stacked).call(x, token, expert, weight, gate_up, down);
}

bool is_recorded(std::initializer_list<Tensor> inputs) {
  return at::GradMode::is_enabled() &&
         std::ranges::any_of(inputs, [](const Tensor& x) { return x.requires_grad(); });
}
// These have gradients because they are made of ATen's operations where one is asked for.
Tensor linear_autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (is_recorded({x, weight, bias.value_or(x)}))
    return reference::linear(x, weight, bias.value_or(Tensor()));
  const at::AutoDispatchBelowADInplaceOrView below;
  return UPMOE_OP(linear).call(x, weight, bias);
}
Tensor attention_autograd(const Tensor& q, const Tensor& k, const Tensor& v,
                          const std::optional<Tensor>& mask) {
  if (is_recorded({q, k, v})) return raw::attention_composed(q, k, v, mask);
  const at::AutoDispatchBelowADInplaceOrView below;
  return UPMOE_OP(attention).call(q, k, v, mask);
}

// Shapes alone.
Tensor like(const Tensor& x) { return at::empty_like(x, at::MemoryFormat::Contiguous); }
std::vector<Tensor> like_all(at::TensorList all) {
  std::vector<Tensor> out;
  for (const Tensor& x : all) out.push_back(like(x));
  return out;
}
at::ScalarType wide(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

std::tuple<Tensor, Tensor, Tensor> experts_kept_meta(const Tensor& x, const Tensor& token, const Tensor&,
                                                     const Tensor&, at::TensorList gate, at::TensorList,
                                                     at::TensorList) {
  const auto kept = [&] { return at::empty_symint({token.sym_size(0), gate[0].sym_size(0)}, x.options()); };
  return {like(x), kept(), kept()};
}
raw::ExpertGradients experts_backward_meta(const Tensor&, const Tensor& x, const Tensor&, const Tensor&,
                                           const Tensor& weight, at::TensorList gate, at::TensorList up,
                                           at::TensorList down, const Tensor&, const Tensor&,
                                           bool for_weights) {
  if (!for_weights) return {like(x), like(weight), {}, {}, {}};
  return {like(x), like(weight), like_all(gate), like_all(up), like_all(down)};
}

std::tuple<Tensor, Tensor, Tensor> experts_stacked_kept_meta(const Tensor& x, const Tensor& token,
                                                             const Tensor&, const Tensor&, const Tensor&,
                                                             const Tensor& down) {
  const auto kept = [&] { return at::empty_symint({token.sym_size(0), down.sym_size(2)}, x.options()); };
  return {like(x), kept(), kept()};
}

std::optional<Tensor> if_defined(const Tensor& x) {
  return x.defined() ? std::make_optional(x) : std::nullopt;
}

Tensor linear_meta(const Tensor& x, const Tensor& weight, const std::optional<Tensor>&) {
  std::vector<c10::SymInt> shape = x.sym_sizes().vec();
  shape.back() = weight.sym_size(0);
  return at::empty_symint(shape, x.options());
}

}  // namespace

Tensor rms_norm(const Tensor& x_NH, const Tensor& weight_H, double eps) {
  return UPMOE_OP(rms_norm).call(x_NH, weight_H, eps);
}
Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF) { return UPMOE_OP(swiglu).call(gate_NF, up_NF); }
Tensor rotate(const Tensor& x_BTQD, const Tensor& cos_BTd, const Tensor& sin_BTd) {
  return UPMOE_OP(rotate).call(x_BTQD, cos_BTd, sin_BTd);
}
Tensor linear(const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O) {
  return UPMOE_OP(linear).call(x_NI, weight_OI, if_defined(bias_O));
}
Tensor attention(const Tensor& q_BTQD, const Tensor& k_BSGD, const Tensor& v_BSGD, const Tensor& mask_B1TS) {
  return UPMOE_OP(attention).call(q_BTQD, k_BSGD, v_BSGD, if_defined(mask_B1TS));
}
Tensor experts(const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P, const Tensor& weight_P,
               const ExpertWeights& experts) {
  return UPMOE_OP(experts).call(x_NH, token_P, expert_P, weight_P, experts.gate_FH, experts.up_FH,
                                experts.down_HF);
}
Tensor token_nll(const Tensor& hidden_NH, const Tensor& head_VH, const Tensor& target_N) {
  return UPMOE_OP(token_nll).call(hidden_NH, head_VH, target_N);
}

}  // namespace upmoe::ops

using namespace upmoe::ops;

TORCH_LIBRARY(upmoe, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("rms_norm_backward(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_backward(Tensor da, Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor");
  m.def(
      "experts(Tensor x, Tensor token, Tensor expert, Tensor weight, Tensor[] gate, Tensor[] up, "
      "Tensor[] down) -> Tensor");
  m.def(
      "experts_kept(Tensor x, Tensor token, Tensor expert, Tensor weight, Tensor[] gate, Tensor[] up, "
      "Tensor[] down) -> (Tensor, Tensor, Tensor)");
  m.def(
      "experts_backward(Tensor dy, Tensor x, Tensor token, Tensor expert, Tensor weight, Tensor[] gate, "
      "Tensor[] up, Tensor[] down, Tensor gate_rows, Tensor up_rows, bool for_weights) -> "
      "(Tensor, Tensor, Tensor[], Tensor[], Tensor[])");
  m.def(
      "experts_stacked(Tensor x, Tensor token, Tensor expert, Tensor weight, Tensor gate_up, Tensor down) -> "
      "Tensor");
  m.def(
      "experts_stacked_kept(Tensor x, Tensor token, Tensor expert, Tensor weight, Tensor gate_up, "
      "Tensor down) -> (Tensor, Tensor, Tensor)");
  m.def(
      "experts_stacked_backward(Tensor dy, Tensor x, Tensor token, Tensor expert, Tensor weight, "
      "Tensor gate_up, Tensor down, Tensor gate_rows, Tensor up_rows) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("token_nll(Tensor hidden, Tensor head, Tensor target) -> Tensor");
  m.def("token_nll_backward(Tensor dnll, Tensor hidden, Tensor head, Tensor target) -> (Tensor, Tensor)");
  m.def("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(upmoe, CompositeExplicitAutograd, m) {
  m.impl("rms_norm", raw::rms_norm);
  m.impl("rms_norm_backward", raw::rms_norm_backward);
  m.impl("swiglu", raw::swiglu);
  m.impl("swiglu_backward", raw::swiglu_backward);
  m.impl("rotate", raw::rotate);
  m.impl("experts", raw::experts);
  m.impl("experts_kept", raw::experts_kept);
  m.impl("experts_backward", raw::experts_backward);
  m.impl("experts_stacked", raw::experts_stacked);
  m.impl("experts_stacked_kept", raw::experts_stacked_kept);
  m.impl("experts_stacked_backward", raw::experts_stacked_backward);
  m.impl("token_nll", raw::token_nll);
  m.impl("token_nll_backward", raw::token_nll_backward);
  m.impl("linear", raw::linear);
  m.impl("attention", raw::attention);
}

TORCH_LIBRARY_IMPL(upmoe, Autograd, m) {
  m.impl("rms_norm", rms_norm_autograd);
  m.impl("swiglu", swiglu_autograd);
  m.impl("rotate", rotate_autograd);
  m.impl("experts", experts_autograd);
  m.impl("experts_stacked", experts_stacked_autograd);
  m.impl("token_nll", token_nll_autograd);
  m.impl("linear", linear_autograd);
  m.impl("attention", attention_autograd);
}

TORCH_LIBRARY_IMPL(upmoe, Meta, m) {
  m.impl("rms_norm", [](const Tensor& x, const Tensor&, double) { return like(x); });
  m.impl("rms_norm_backward", [](const Tensor&, const Tensor& x, const Tensor& weight, double) {
    return std::tuple(like(x), like(weight));
  });
  m.impl("swiglu", [](const Tensor& gate, const Tensor&) { return like(gate); });
  m.impl("swiglu_backward", [](const Tensor&, const Tensor& gate, const Tensor& up) {
    return std::tuple(like(gate), like(up));
  });
  m.impl("rotate", [](const Tensor& x, const Tensor&, const Tensor&) { return like(x); });
  m.impl("experts", [](const Tensor& x, const Tensor&, const Tensor&, const Tensor&, at::TensorList,
                       at::TensorList, at::TensorList) { return like(x); });
  m.impl("experts_stacked", [](const Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                               const Tensor&) { return like(x); });
  m.impl("experts_stacked_kept", experts_stacked_kept_meta);
  m.impl("experts_stacked_backward",
         [](const Tensor&, const Tensor& x, const Tensor&, const Tensor&, const Tensor& weight,
            const Tensor& gate_up, const Tensor& down, const Tensor&,
            const Tensor&) { return std::tuple(like(x), like(weight), like(gate_up), like(down)); });
  m.impl("experts_kept", experts_kept_meta);
  m.impl("experts_backward", experts_backward_meta);
  m.impl("token_nll", [](const Tensor& hidden, const Tensor&, const Tensor&) {
    return at::empty_symint({hidden.sym_size(0)}, hidden.options().dtype(wide(hidden)));
  });
  m.impl("linear", linear_meta);
  m.impl("attention",
         [](const Tensor& q, const Tensor&, const Tensor&, const std::optional<Tensor>&) { return like(q); });
  m.impl("token_nll_backward", [](const Tensor&, const Tensor& hidden, const Tensor& head, const Tensor&) {
    return std::tuple(like(hidden), like(head));
  });
}
