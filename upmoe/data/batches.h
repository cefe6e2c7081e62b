#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "upmoe/data/interleave.h"
#include "upmoe/data/token_file.h"

namespace upmoe {

// Training batches. Nothing here has a state: batch n is a pure function of the data, the options and n, so a
// run goes on where it was by knowing n, and any thread or rank may make any part of any batch.
//
// A sample is T + 1 consecutive tokens of one file, T of which are inputs and T targets; sample i of a file
// begins at token i * T, so what is a target once is an input once. A file's samples come in a shuffled
// order, another one in each epoch, and each once in an epoch. With several files, Interleave says whose turn
// it is.
struct BatchOptions {
  std::int64_t sequences = 8, length = 1024;  // B, T
  std::uint64_t seed = 0;
};

struct BatchSource {
  const TokenFile* file = nullptr;                // has to outlive the Batches
  std::span<const std::int64_t> document_starts;  // the same; empty: the file is one document
  double weight = 1;                              // share of the samples, against the other sources'
};

// Both are [B, T+1]. Inputs of row b are its tokens 0 to T - 1, targets 1 to T.
struct Batch {
  std::int64_t sequences = 0, length = 0;  // B, T
  std::vector<std::int32_t> token;
  // Number of the document within the row, from 0 on. Position t attends to positions of its own document,
  // and its target is scored if that is too: document[t] == document[t + 1].
  std::vector<std::int32_t> document;
};

class Batches {
 public:
  // Throws Error when a file is too short for one sample.
  Batches(std::vector<BatchSource> sources, const BatchOptions& options);

  Batch at(std::int64_t n) const { return samples(n * options_.sequences, options_.sequences); }
  // Samples first, first + 1, ... of the endless sequence of which batch n is the n-th B: what a rank or a
  // micro-batch takes.
  Batch samples(std::int64_t first, std::int64_t count) const;

  // Where a sample of the sequence comes from.
  struct Place {
    std::size_t source;
    std::int64_t epoch;  // of that source, from 0 on
    std::int64_t begin;  // token of its file
  };
  Place place(std::int64_t sample) const;

  // Samples that a source has in an epoch.
  std::int64_t samples_of(std::size_t source) const;
  const BatchOptions& options() const { return options_; }

 private:
  std::vector<BatchSource> sources_;
  BatchOptions options_;
  Interleave interleave_;
};

}  // namespace upmoe
