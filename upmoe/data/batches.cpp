#include "upmoe/data/batches.h"

#include <algorithm>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/random/key.h"
#include "upmoe/random/sample.h"

namespace upmoe {
namespace {

std::vector<double> weights_of(const std::vector<BatchSource>& sources) {
  std::vector<double> out;
  for (const BatchSource& source : sources) out.push_back(source.weight);
  return out;
}

// For tokens begin, begin + 1, ... : how many documents have begun since the first of them.
void number_documents(std::span<const std::int64_t> starts, std::int64_t begin, std::span<std::int32_t> out) {
  auto next = std::ranges::upper_bound(starts, begin);
  std::int32_t number = 0;
  for (std::size_t t = 0; t < out.size(); ++t) {
    for (; next != starts.end() && *next <= begin + std::int64_t(t); ++next) ++number;
    out[t] = number;
  }
}

}  // namespace

Batches::Batches(std::vector<BatchSource> sources, const BatchOptions& options)
    : sources_(std::move(sources)), options_(options), interleave_(weights_of(sources_)) {
  require_asked(options.sequences > 0 && options.length > 0,
                "batches of {} sequences of {} tokens, expected at least 1 sequence of 1 token",
                options.sequences, options.length);
  for (std::size_t i = 0; i < sources_.size(); ++i)
    require(samples_of(i) > 0, "{}: {} tokens are too few for one sample of {} and its last target",
            printable(sources_[i].file->name()), sources_[i].file->size(), options.length);
}

std::int64_t Batches::samples_of(std::size_t source) const {
  return (sources_[source].file->size() - 1) / options_.length;
}

Batches::Place Batches::place(std::int64_t sample) const {
  const auto [source, number] = interleave_.at(sample);
  const std::int64_t count = samples_of(source), epoch = number / count;
  const Rng key = Rng(options_.seed).at("data").at(source).at(std::uint64_t(epoch));
  const auto i = std::int64_t(permuted(key, std::uint64_t(number % count), std::uint64_t(count)));
  return {source, epoch, i * options_.length};
}

Batch Batches::samples(std::int64_t first, std::int64_t count) const {
  const auto row = static_cast<std::size_t>(options_.length + 1);
  Batch batch{count, options_.length, std::vector<std::int32_t>(std::size_t(count) * row),
              std::vector<std::int32_t>(std::size_t(count) * row)};
  for (std::int64_t b = 0; b < count; ++b) {
    const Place from = place(first + b);
    const BatchSource& source = sources_[from.source];
    source.file->read(from.begin, std::span(batch.token).subspan(std::size_t(b) * row, row));
    number_documents(source.document_starts, from.begin,
                     std::span(batch.document).subspan(std::size_t(b) * row, row));
  }
  return batch;
}

}  // namespace upmoe
