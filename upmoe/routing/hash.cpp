// The experts of a token are those of its id in the vocabulary, by a table that is made once from the seed
// and saved with the model: nothing is learned, nothing can collapse, and every expert has the same number of
// ids. One uses it as the baseline that a learned router has to beat. With `gate` the layer's router weight
// learns how much each of them counts. Roller et al., "Hash Layers For Large Sparse Models",
// arXiv:2106.04426.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "upmoe/base/error.h"
#include "upmoe/random/sample.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

// V ids of the vocabulary, T tokens, E experts, K experts of one token.
namespace upmoe::routing {
namespace {

// The ids are dealt out in random order: every E of them get all experts, shuffled, and what is the first
// expert of one is the second of another. So each place of the table has each expert V/E times, up to one.
at::Tensor table_of(const RouterShape& shape) {
  const std::int64_t V = shape.vocabulary, E = shape.experts, K = shape.per_token;
  const at::Tensor out = at::empty({V, K}, at::kLong);
  auto* table = out.mutable_data_ptr<std::int64_t>();
  const std::vector<std::int32_t> id = permutation(shape.key.at("ids"), V);
  std::vector<std::int32_t> expert;
  for (std::int64_t i = 0; i < V; ++i) {
    if (i % E == 0) expert = permutation(shape.key.at("experts").at(static_cast<std::uint64_t>(i / E)), E);
    for (std::int64_t k = 0; k < K; ++k)
      table[id[static_cast<std::size_t>(i)] * K + k] = expert[static_cast<std::size_t>((i + k) % E)];
  }
  return out.to(shape.device);
}

class Hash final : public Router {
 public:
  struct Options {
    bool gate = false;
    void visit(auto&& field) {
      field(gate, "gate", "weights by a softmax of the logits of a token's experts, instead of 1/k");
    }
  };
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& options) {
    return {.needs_token_ids = true,
            .has_logits = options.gate,
            .choice_is_trained = false,
            .balances_itself = true};
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not =
                "of the released architectures deepseek_v4 alone has experts by token id, and its "
                "attention is another"};
  }
  Hash(const RouterShape& shape, const Options& options) : shape_(shape), options_(options) {
    require_asked(shape.vocabulary > 0,
                  "the router 'hash' needs the size of the model's vocabulary, and it is not known");
    require(1 <= shape.per_token && shape.per_token <= shape.experts, "top-{} of {} experts", shape.per_token,
            shape.experts);
    table_VK_ = table_of(shape);
  }
  std::vector<State> buffers() override { return {{"table", &table_VK_}}; }

 private:
  at::Tensor logits(const Call& call) const override {
    return options_.gate ? Router::logits(call) : at::Tensor();
  }

  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    const at::Tensor expert_TK =
        call.replay_TM.defined() ? call.replay_TM : table_VK_.index_select(0, ids(call));
    if (logits_TE.defined())
      return from_topk(expert_TK, logits_TE.gather(1, expert_TK).softmax(/*dim=*/-1), logits_TE.softmax(-1));
    const at::ScalarType wide = call.x_TH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor weight_TK = at::zeros_like(expert_TK, wide) + 1 / static_cast<double>(shape_.per_token);
    return from_topk(
        expert_TK, weight_TK,
        weight_TK.new_zeros({weight_TK.size(0), shape_.experts}).scatter(1, expert_TK, weight_TK));
  }

  // Those of padding may be anything. A GPU refuses what is beyond the table by itself, in its own words.
  at::Tensor ids(const Call& call) const {
    require(call.token_id_T.defined(), "{}the router 'hash' goes by token ids, and there are none",
            call.where);
    const at::Tensor id_T =
        call.valid_T.defined() ? at::where(call.valid_T, call.token_id_T, at::Scalar(0)) : call.token_id_T;
    if (!id_T.is_cpu() || id_T.numel() == 0) return id_T;
    const std::int64_t V = table_VK_.size(0), least = id_T.min().item<std::int64_t>(),
                       most = id_T.max().item<std::int64_t>();
    require(0 <= least && most < V, "{}token id {}, and the table of the router 'hash' has {} ids, from 0",
            call.where, least < 0 ? least : most, V);
    return id_T;
  }

  RouterShape shape_;
  Options options_;
  at::Tensor table_VK_;
};

}  // namespace

RouterInfo hash() {
  return info<Hash>("hash", "experts by token id, from a fixed table",
                    "S = table[id]; g = 1/k, or softmax(z_S) with gate", "arXiv:2106.04426");
}

}  // namespace upmoe::routing
