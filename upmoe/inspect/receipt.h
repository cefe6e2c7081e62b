#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace upmoe {

// One thing that a conversion promised, and where it does not hold.
struct Promise {
  std::string name;  // "neurons", for programs
  std::string text;  // what was promised and how often, for people
  std::vector<std::string> broken;
};

// What the bytes of a Mixture of Experts say about the dense model it is said to come from.
struct Receipt {
  std::int64_t num_layers = 0, num_experts = 0, top_k = 0;
  std::int64_t dense_size = 0, expert_size = 0;  // neurons of the dense FFN, and of an expert

  // Of one expert in one layer: how many of its neurons are, byte for byte, one of the dense FFN.
  struct Kept {
    std::int64_t gate = 0, up = 0, down = 0;  // in this matrix, whatever they are in the others
    std::int64_t paired = 0;                  // in gate and up, of one and the same dense neuron
    std::int64_t whole = 0;                   // in all three
    std::int64_t moved = 0;  // of the paired: those that stand elsewhere than in the dense FFN
  };
  std::vector<std::vector<Kept>> kept;  // [layer][expert]
  // Of each layer: dense neurons that at least one expert has, paired.
  std::vector<std::int64_t> covered;

  // Weights outside the FFNs.
  struct Other {
    std::string name;
    std::string what;  // "differs", "is missing", "is additional", "is [2, 4] instead of [4, 4]"
  };
  std::int64_t others = 0;     // that the dense model has
  std::int64_t identical = 0;  // of them
  std::vector<Other> not_identical;
  bool head_written_out = false;               // lm_head, which the dense model has tied to the embedding
  std::map<std::string, std::int64_t> dtypes;  // tensors whose type changed: "BF16 to F32"

  // From upmoe.json.
  std::string method;  // empty: there is no upmoe.json, and nothing is promised
  std::vector<Promise> promises;
  std::vector<std::string> notes;  // what is no promise, or could not be checked
  bool promised_exact = false;     // computes at first what the dense model does
  std::string not_exact_because;

  bool holds() const {
    for (const Promise& promise : promises)
      if (!promise.broken.empty()) return false;
    return true;
  }
};

// Compares every byte of a Mixture of Experts with the dense model in `against`, and asks the method that
// upmoe.json names for what it promised. Reads both once; memory does not depend on their size. Throws Error
// when the two can't belong together.
Receipt make_receipt(const std::filesystem::path& moe, const std::filesystem::path& against,
                     std::size_t threads = 1);

}  // namespace upmoe
