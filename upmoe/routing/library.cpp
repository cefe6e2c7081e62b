// The routers as operators of torch, torch.ops.upmoe.route and what belongs to it: for Python, where
// python/upmoe/routing.py gives them names, shapes and defaults. They are made of ATen's operators, so
// gradients are theirs.
#include <torch/library.h>

#include "upmoe/base/error.h"
#include "upmoe/base/plugin.h"
#include "upmoe/routing/registry.h"

namespace upmoe::routing {
namespace {

using at::Tensor;

struct Made {
  std::unique_ptr<Router> router;
  std::vector<State> states;
};

// `state`: all of its parameters and buffers, or none.
Made make(const std::string& text, at::IntArrayRef shape, std::int64_t seed, std::int64_t layer,
          at::TensorList state, at::Device device) {
  require(shape.size() == 4, "route: the shape has {} numbers; it is experts, k, hidden size and vocabulary",
          shape.size());
  constexpr std::int64_t kMostExperts = 1 << 20;
  require(1 <= shape[0] && shape[0] <= kMostExperts && 1 <= shape[1] && shape[1] <= shape[0] &&
              shape[2] >= 1 && shape[3] >= 0 && shape[3] <= std::int64_t{1} << 31,
          "route: top-{} of {} experts, hidden size {}, vocabulary {}", shape[1], shape[0], shape[2],
          shape[3]);
  const NamedValues asked = parse_named_values(text);
  Made out;
  out.router =
      find_plugin(routers(), asked.name, "router")
          .make({.experts = shape[0],
                 .per_token = shape[1],
                 .hidden = shape[2],
                 .vocabulary = shape[3],
                 .key =
                     Rng(static_cast<std::uint64_t>(seed)).at("router").at(static_cast<std::uint64_t>(layer)),
                 .device = device},
                asked.values);
  out.states = out.router->parameters();
  for (const State& buffer : out.router->buffers()) out.states.push_back(buffer);
  require(state.empty() || state.size() == out.states.size(), "route: {} states, and the router '{}' has {}",
          state.size(), asked.name, out.states.size());
  for (std::size_t i = 0; i < state.size(); ++i) {
    const at::Tensor& mine = *out.states[i].value;
    require(state[i].sizes() == mine.sizes() && (state[i].scalar_type() == mine.scalar_type() ||
                                                 (state[i].is_floating_point() && mine.is_floating_point())),
            "route: the state '{}' of the router '{}' has another shape or dtype", out.states[i].name,
            asked.name);
    *out.states[i].value = state[i];
  }
  return out;
}

std::vector<Tensor> values(const Made& made) {
  std::vector<Tensor> out;
  for (const State& state : made.states) out.push_back(*state.value);
  return out;
}

std::vector<Run> runs_of(at::IntArrayRef numbers) {
  require(numbers.size() % 3 == 0, "route: {} numbers of runs, which have three each", numbers.size());
  std::vector<Run> out;
  for (std::size_t i = 0; i < numbers.size(); i += 3)
    out.push_back({.sequence = numbers[i], .position = numbers[i + 1], .tokens = numbers[i + 2]});
  return out;
}

std::vector<Tensor> route(const Tensor& x, const Tensor& gate, const std::string& router,
                          at::IntArrayRef shape, at::TensorList state, const std::optional<Tensor>& token_id,
                          const std::optional<Tensor>& valid, at::IntArrayRef runs,
                          const std::optional<Tensor>& replay, bool training, std::int64_t seed,
                          std::int64_t layer, std::int64_t step) {
  const Made made = make(router, shape, seed, layer, state, x.device());
  require(gate.dim() == 2 && gate.size(0) == shape[0] && gate.size(1) == shape[2],
          "route: the router is made for {} experts and a hidden size of {}, and the weight is another's",
          shape[0], shape[2]);
  Call call;
  call.x_TH = x;
  call.gate_EH = gate;
  call.token_id_T = token_id.value_or(Tensor());
  call.valid_T = valid.value_or(Tensor());
  call.runs = runs_of(runs);
  call.replay_TM = replay.value_or(Tensor());
  call.training = training;
  call.key = Rng(static_cast<std::uint64_t>(seed))
                 .at("router")
                 .at(static_cast<std::uint64_t>(step))
                 .at(static_cast<std::uint64_t>(layer));
  const Routing r = made.router->route(call);
  return {r.token_N, r.expert_N,  r.weight_N, r.score_TX,  r.chosen_TM,
          r.load_X,  r.logits_TX, r.extra_TH, r.chance_TX, r.loss};
}

std::vector<Tensor> state(const std::string& router, at::IntArrayRef shape, std::int64_t seed,
                          std::int64_t layer) {
  return values(make(router, shape, seed, layer, {}, at::kCPU));
}

std::vector<std::string> state_names(const std::string& router, at::IntArrayRef shape) {
  std::vector<std::string> out;
  for (const State& one : make(router, shape, 0, 0, {}, at::kCPU).states) out.push_back(one.name);
  return out;
}

std::vector<Tensor> after_step(const std::string& router, at::IntArrayRef shape, at::TensorList state,
                               const Tensor& load, std::int64_t tokens, std::int64_t step,
                               double learning_rate) {
  const Made made = make(router, shape, 0, 0, state, load.device());
  require(load.dim() == 1 && load.scalar_type() == at::kLong && load.size(0) >= shape[0] && tokens >= 0 &&
              step >= 0,
          "route: a step has a load of Long [experts], and no negative number of tokens or step");
  for (const State& one : made.router->buffers()) *one.value = one.value->clone();
  made.router->after_step({.load_X = load, .tokens = tokens, .step = step, .learning_rate = learning_rate});
  return values(made);
}

}  // namespace
}  // namespace upmoe::routing

TORCH_LIBRARY_FRAGMENT(upmoe, m) {
  using namespace upmoe::routing;
  m.def(
      "route(Tensor x, Tensor gate, str router, int[] shape, Tensor[] state, Tensor? token_id=None, Tensor? "
      "valid=None, "
      "int[] runs=[], Tensor? replay=None, bool training=False, int seed=0, int layer=0, int step=0) "
      "-> Tensor[]",
      &route);
  m.def("router_state(str router, int[] shape, int seed=0, int layer=0) -> Tensor[]", &state);
  m.def("router_state_names(str router, int[] shape) -> str[]", &state_names);
  m.def(
      "router_after_step(str router, int[] shape, Tensor[] state, Tensor load, int tokens, int step, "
      "float learning_rate) -> Tensor[]",
      &after_step);
}
