#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "upmoe/checkpoint/dense_model.h"
#include "upmoe/router_init/router_init.h"
#include "upmoe/target/target.h"
#include "upmoe/upcycle/method.h"

namespace upmoe {

// What is asked for; all that decides the bytes of the output is in it.
struct ConvertRequest {
  std::string source;  // as the user named it: a folder or a hub id
  bool from_hub = false;
  std::filesystem::path folder;  // where it lies
  std::string method = "drop", router_init = "auto", target = "mixtral";
  Values method_options, router_options;
  std::int64_t experts = 8, per_token = 2;
  std::uint64_t seed = 0;
  bool keep_tied = false;
  std::uint64_t max_shard_bytes = 5'000'000'000;
  bool replace = false;            // the output, if it is there; decides no byte of it
  std::vector<std::string> allow;  // what upmoe advises against, by the names of convert/allowances.h
};

// Where a tensor of the output comes from.
struct Origin {
  enum class Kind { dense, expert, router };
  Kind kind = Kind::dense;
  std::size_t weight = 0;  // of the dense model's weights: what is copied, or the matrix an expert is made of
  std::int64_t layer = -1, expert = -1;
};

struct PlannedTensor {
  TensorInfo info;  // begin and end within the data of its file
  Origin origin;
};

struct PlannedFile {
  std::string name;
  std::string header;
  std::vector<PlannedTensor> tensors;  // in the order of their data
  std::uint64_t bytes = 0;             // of the whole file
};

// A conversion, decided to the byte before a weight is read.
struct Plan {
  ConvertRequest request;
  DenseModel source;
  std::unique_ptr<Method> method;
  std::unique_ptr<RouterInit> router_init;
  const Target* target = nullptr;
  MoeShape shape;
  bool tied = false;                                       // whether the head stays the embedding
  std::vector<OptionInfo> method_options, router_options;  // resolved
  std::string torch_dtype;

  std::vector<PlannedFile> files;
  std::uint64_t data_bytes = 0, file_bytes = 0;
  std::uint64_t parameters = 0, active_parameters = 0;
  std::uint64_t peak_memory = 0;   // bytes, a forecast
  std::string not_exact_because;   // empty: computes at first what the dense model does
  std::vector<std::string> notes;  // what a user should know, a sentence each
};

// Opens and checks the source and lays out the output. Throws Error or UsageError.
Plan make_plan(const ConvertRequest& request);

// The keys of upcycle/method.h, of this plan's seed.
Rng layer_key(const Plan& plan, std::int64_t layer);
Rng weight_key(const Plan& plan, const DenseWeight& weight);

}  // namespace upmoe
