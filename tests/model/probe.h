#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>

#include <map>
#include <string>

#include "upmoe/base/error.h"
#include "upmoe/format/safetensors.h"
#include "upmoe/model/load.h"

// Runs a model on given tokens and gives all that can be compared with transformers.
namespace upmoe::test {

using NamedTensors = std::map<std::string, at::Tensor>;

// Copies; I64 and F32.
inline NamedTensors read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  NamedTensors out;
  for (const TensorInfo& info : file.tensors()) {
    require(info.dtype == Dtype::i64 || info.dtype == Dtype::f32, "{} is neither I64 nor F32", info.name);
    out[info.name] = at::from_blob(const_cast<std::byte*>(file.data(info).data()), info.shape,
                                   info.dtype == Dtype::i64 ? at::kLong : at::kFloat)
                         .clone();
  }
  return out;
}

// in: token I64 [B, T]; if there: document, position I64 [B, T]; target I64 [B, T], -1 is not scored.
// out: F32, logits [B, T, V]; with target: loss [] (mean over what is scored) and grad.NAME of each weight.
inline NamedTensors run_probe(const std::filesystem::path& folder, const NamedTensors& in) {
  const auto given = [&](const char* name) { return in.contains(name) ? in.at(name) : at::Tensor(); };
  model::Model model = model::load(folder);
  const at::Tensor target = given("target");
  NamedTensors out;
  if (target.defined())
    for (const auto& [name, value] : model::named_weights(model))
      *value = value->clone().set_requires_grad(true);
  if (model.config.llama.tie_word_embeddings) model.head_VH = model.embedding_VH;
  const at::Tensor hidden =
      model::hidden_states(model, {given("token"), given("position"), given("document")});
  out["logits"] = model::logits(model, hidden).detach();
  if (!target.defined()) return out;
  const at::Tensor nll_N = ops::token_nll(hidden.flatten(0, 1), model.head_VH, target.flatten());
  const at::Tensor loss = nll_N.sum() / (target >= 0).sum();
  loss.backward();
  out["loss"] = loss.detach();
  for (const auto& [name, value] : model::named_weights(model))
    out["grad." + name] = value->grad().defined() ? value->grad() : value->detach() * 0;
  return out;
}

}  // namespace upmoe::test
