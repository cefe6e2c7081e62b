// E: experts, F: neurons of one, H: hidden size. gate_FH, up_FH, down_HF.
#include "upmoe/inspect/inspect.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/parallel.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/dense_model.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/inspect/moe_weights.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/target/registry.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/tensor/finite.h"
#include "upmoe/tensor/moments.h"

namespace upmoe {
namespace {

constexpr std::int64_t kMostCompared = 32;  // experts whose likeness is taken, evenly chosen among more

std::vector<float> floats(const View& view, std::int64_t row) {
  std::vector<float> out(static_cast<std::size_t>(view.cols));
  to_float(view.dtype, view.row(row), out);
  return out;
}

struct LayerFindings {
  std::vector<std::int64_t> same_as;  // of each expert: the first expert that is identical to it
  double cosine_sum = 0, cosine_least = 2, cosine_most = -2;
  std::int64_t pairs = 0;
  double router_std = 0, logit_std = 0;
  std::string not_finite;  // where the first such number is, of those that were looked at

  template <class... Args>
  void look_for_not_finite(const View& view, std::int64_t row, fmt::format_string<Args...> where,
                           Args&&... args) {
    if (!not_finite.empty()) return;
    const std::array shape = {view.rows, view.cols};
    const std::string what =
        not_finite_text(view.dtype, shape, static_cast<std::uint64_t>(row * view.cols), view.row(row));
    if (!what.empty()) not_finite = fmt::format(where, std::forward<Args>(args)...) + " has " + what;
  }
};

// Like memcmp, over all three matrices.
int compare(const MoeWeights& moe, std::int64_t l, std::int64_t a, std::int64_t b) {
  for (const Matrix matrix : kMatrices) {
    const View one = moe.expert(l, a, matrix), other = moe.expert(l, b, matrix);
    if (one.dtype != other.dtype) return one.dtype < other.dtype ? -1 : 1;
    if (const int order = std::memcmp(one.bytes.data(), other.bytes.data(), one.bytes.size()); order != 0)
      return order;
  }
  return 0;
}

std::uint64_t hash_of(const MoeWeights& moe, std::int64_t l, std::int64_t e) {
  std::uint64_t hash = 0;
  for (const Matrix matrix : kMatrices) hash = xxh3(moe.expert(l, e, matrix).bytes, hash);
  return hash;
}

// Only experts whose first rows agree are read whole, and only those of one hash are compared: by halves
// among those that are known, since who wants to can make many of one hash.
void find_identical(const MoeWeights& moe, std::int64_t l, LayerFindings& found) {
  std::map<std::uint64_t, std::vector<std::int64_t>> by_first_rows;
  for (std::int64_t e = 0; e < moe.shape().experts; ++e) {
    found.same_as.push_back(e);
    by_first_rows[xxh3(moe.expert(l, e, Matrix::gate).row(0), xxh3(moe.expert(l, e, Matrix::down).row(0)))]
        .push_back(e);
  }
  for (const auto& [first_rows, experts] : by_first_rows) {
    if (experts.size() == 1) continue;
    std::map<std::uint64_t, std::vector<std::int64_t>>
        known;  // by hash; of one hash: ascending, all different
    for (const std::int64_t e : experts) {
      std::vector<std::int64_t>& others = known[hash_of(moe, l, e)];
      const auto place = std::ranges::partition_point(others, [&](std::int64_t other) {
        const int order = compare(moe, l, other, e);
        if (order == 0) found.same_as[static_cast<std::size_t>(e)] = other;
        return order < 0;
      });
      if (found.same_as[static_cast<std::size_t>(e)] == e) others.insert(place, e);
    }
  }
}

// Cosines between experts over a sample of rows of all three matrices.
void find_likeness(const MoeWeights& moe, std::int64_t l, std::int64_t rows, LayerFindings& found) {
  const std::int64_t E = moe.shape().experts, n = std::min(E, kMostCompared);
  const auto at = [n](std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * n + b); };
  std::vector<double> dots(static_cast<std::size_t>(n * n));
  for (const Matrix matrix : kMatrices) {
    const std::int64_t all = moe.expert(l, 0, matrix).rows, taken = std::min(rows, all);
    for (std::int64_t i = 0; i < taken; ++i) {
      std::vector<std::vector<float>> row;
      for (std::int64_t a = 0; a < n; ++a) {
        const std::int64_t e = a * E / n, r = i * all / taken;
        const View view = moe.expert(l, e, matrix);
        found.look_for_not_finite(view, r, "layer {}, expert {}: {}", l, e, matrix_name(matrix));
        row.push_back(floats(view, r));
      }
      for (std::int64_t a = 0; a < n; ++a)
        for (std::int64_t b = 0; b <= a; ++b) {
          double dot = 0;
          for (std::size_t k = 0; k < row[0].size(); ++k)
            dot += static_cast<double>(row[static_cast<std::size_t>(a)][k]) *
                   row[static_cast<std::size_t>(b)][k];
          dots[at(a, b)] += dot;
        }
    }
  }
  for (std::int64_t a = 0; a < n; ++a)
    for (std::int64_t b = 0; b < a; ++b) {
      const double length = std::sqrt(dots[at(a, a)]) * std::sqrt(dots[at(b, b)]);
      const double cosine = length > 0 ? dots[at(a, b)] / length : 0;
      found.cosine_sum += cosine;
      found.cosine_least = std::min(found.cosine_least, cosine);
      found.cosine_most = std::max(found.cosine_most, cosine);
      ++found.pairs;
    }
}

void find_router(const MoeWeights& moe, std::int64_t l, LayerFindings& found) {
  const View router = moe.router(l), norm = moe.ffn_norm(l);
  for (std::int64_t e = 0; e < router.rows; ++e) found.look_for_not_finite(router, e, "layer {}: router", l);
  found.look_for_not_finite(norm, 0, "layer {}: norm in front of the router", l);
  Moments all;
  for (const Moments& row : row_moments(router.dtype, router.bytes, router.rows, router.cols))
    all = combine(all, row);
  found.router_std = all.deviation();
  double squares = 0;
  for (const float gamma : floats(norm, 0)) squares += static_cast<double>(gamma) * gamma;
  found.logit_std = found.router_std * std::sqrt(squares);
}

// Groups of experts that are identical in every layer.
std::vector<std::vector<std::int64_t>> groups(const std::vector<LayerFindings>& layers, std::int64_t E) {
  std::vector<std::size_t> group_E(static_cast<std::size_t>(E));  // in all layers so far
  for (const LayerFindings& layer : layers) {
    std::map<std::pair<std::size_t, std::int64_t>, std::size_t> finer;
    for (std::size_t e = 0; e < group_E.size(); ++e)
      group_E[e] = finer.try_emplace({group_E[e], layer.same_as[e]}, finer.size()).first->second;
  }
  std::map<std::size_t, std::vector<std::int64_t>> members;  // groups are numbered by their first
  for (std::size_t e = 0; e < group_E.size(); ++e)
    members[group_E[e]].push_back(static_cast<std::int64_t>(e));
  std::vector<std::vector<std::int64_t>> out;
  for (auto& [group, experts] : members)
    if (experts.size() > 1) out.push_back(std::move(experts));
  return out;
}

void look_at_experts(Inspection& out, const MoeWeights& moe, std::int64_t rows, std::size_t threads) {
  const auto L = static_cast<std::size_t>(moe.num_layers());
  const std::int64_t E = moe.shape().experts;
  std::vector<LayerFindings> layers(L);
  parallel_for(L, threads, [&](std::size_t i) {
    const auto l = static_cast<std::int64_t>(i);
    find_identical(moe, l, layers[i]);
    find_likeness(moe, l, rows, layers[i]);
    find_router(moe, l, layers[i]);
    for (std::int64_t e = 0; e < E; ++e)
      for (const Matrix matrix : kMatrices) release(moe.expert(l, e, matrix).bytes);
  });
  out.identical_experts = groups(layers, E);
  out.looked_at = fmt::format(
      "the routers, the norms in front of them, and {} rows of each matrix of {} experts in each layer", rows,
      std::min(E, kMostCompared));
  Inspection::Likeness likeness{0, 2, -2};
  Inspection::Routers routers{0, layers[0].router_std, layers[0].router_std, 0};
  std::int64_t pairs = 0;
  for (const LayerFindings& layer : layers) {
    for (std::int64_t e = 0; e < E; ++e)
      if (layer.same_as[static_cast<std::size_t>(e)] != e) {
        ++out.layers_with_identical;
        break;
      }
    likeness = {likeness.mean + layer.cosine_sum, std::min(likeness.least, layer.cosine_least),
                std::max(likeness.most, layer.cosine_most)};
    pairs += layer.pairs;
    routers = {routers.std_mean + layer.router_std / static_cast<double>(L),
               std::min(routers.std_least, layer.router_std), std::max(routers.std_most, layer.router_std),
               routers.logit_std + layer.logit_std / static_cast<double>(L)};
    if (!layer.not_finite.empty()) out.not_finite.push_back(layer.not_finite);
  }
  if (!out.not_finite.empty()) return;
  if (pairs > 0) {
    likeness.mean /= static_cast<double>(pairs);
    out.likeness = likeness;
  }
  out.routers = routers;
}

void count_parameters(Inspection& out, const Weights& weights) {
  for (const auto& [name, entry] : weights.entries()) {
    std::uint64_t count = 1;
    for (const std::int64_t size : entry.info->shape) count *= static_cast<std::uint64_t>(size);
    out.parameters += count;
    out.dtypes[std::string(upmoe::name(entry.info->dtype))] += count;
  }
  const auto most = std::ranges::max_element(out.dtypes, {}, [](const auto& item) { return item.second; });
  if (most != out.dtypes.end()) out.dtype = most->first;
  out.num_shards = weights.num_shards();
  out.active_parameters = out.parameters;
}

}  // namespace

Inspection inspect(const std::filesystem::path& path, std::int64_t rows, std::size_t threads) {
  const Folder folder(path);
  const std::string where = (path / "config.json").string();
  const nlohmann::json config = parse_json_object(folder.config(), where);
  const auto type = config.find("model_type");
  require(type != config.end() && type->is_string(), "{}: has no model_type", printable(where));

  Inspection out{.model_type = type->get<std::string>()};
  if (folder.has("upmoe.json"))
    out.provenance = read_small_file(folder.file("upmoe.json", path.string()), 64u << 20);
  const auto target = std::ranges::find(target::targets(), out.model_type, &Target::model_type);
  if (target == target::targets().end()) {
    const DenseModel model(path);  // refuses what is neither
    out.num_layers = model.config().num_layers;
    out.hidden_size = model.config().hidden_size;
    out.expert_size = model.config().intermediate_size;
    out.tied = model.config().tie_word_embeddings;
    count_parameters(out, Weights(folder));
    return out;
  }
  const Weights weights(folder);
  try {
    const MoeWeights moe(weights, *target, config, printable(path.string()));
    count_parameters(out, weights);
    out.num_layers = moe.num_layers();
    out.num_experts = moe.shape().experts;
    out.top_k = moe.shape().per_token;
    out.hidden_size = moe.H();
    out.expert_size = moe.shape().expert_size;
    out.fused = moe.stacked();
    out.tied = config_flag(config, "tie_word_embeddings", false);
    look_at_experts(out, moe, rows, threads);
    weights.require_intact();
    const std::int64_t idle =
        (out.num_experts - out.top_k) * 3 * out.expert_size * out.hidden_size * out.num_layers;
    out.active_parameters -= static_cast<std::uint64_t>(idle);
  } catch (const nlohmann::json::type_error& error) {
    fail("{}: a value of the wrong type: {}", printable(where), printable(error.what()));
  }
  return out;
}

}  // namespace upmoe
