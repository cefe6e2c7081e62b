// fill() against a version so simple that it can be read off the definition in upcycle/draft.h, and under any
// cut.
#include "upmoe/convert/fill.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/random/normal.h"
#include "upmoe/random/sample.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

struct Case {
  Dtype dtype;
  std::int64_t rows, cols;
  bool neurons_in_columns;
  Draft draft;
  std::vector<std::byte> dense;

  Canvas canvas() const { return {dtype, rows, cols, neurons_in_columns, dense}; }
  std::size_t size() const { return static_cast<std::size_t>(bits(dtype)) / 8; }
};

float float_at(Dtype dtype, std::span<const std::byte> bytes, std::size_t i) {
  const auto size = static_cast<std::size_t>(bits(dtype)) / 8;
  float out = 0;
  to_float(dtype, bytes.subspan(i * size, size), std::span(&out, 1));
  return out;
}

void put(Dtype dtype, std::vector<std::byte>& bytes, std::size_t i, float value) {
  const auto size = static_cast<std::size_t>(bits(dtype)) / 8;
  from_float(std::span<const float>(&value, 1), dtype, std::span(bytes).subspan(i * size, size));
}

float drawn(const Draw& draw, std::uint64_t element) {
  float out = 0;
  normals(draw.key, element, static_cast<float>(draw.mean), static_cast<float>(draw.sigma),
          std::span(&out, 1));
  return out;
}

// Element by element.
std::vector<std::byte> reference(const Case& c) {
  std::vector<std::byte> out(c.dense.size());
  const std::size_t rows = static_cast<std::size_t>(c.rows), cols = static_cast<std::size_t>(c.cols);
  const auto* redraw = std::get_if<Redraw>(&c.draft);
  const auto* disturb = std::get_if<Disturb>(&c.draft);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < cols; ++k) {
      const std::size_t i = r * cols + k;
      std::memcpy(out.data() + i * c.size(), c.dense.data() + i * c.size(), c.size());
      if (const auto* constant = std::get_if<Constant>(&c.draft)) put(c.dtype, out, i, constant->value);
      if (const auto* draw = std::get_if<Draw>(&c.draft)) put(c.dtype, out, i, drawn(*draw, i));
      if (redraw == nullptr && disturb == nullptr) continue;
      const std::vector<std::int32_t>& neurons = redraw != nullptr ? redraw->neurons : disturb->neurons;
      const auto it = std::ranges::find(neurons, static_cast<std::int32_t>(c.neurons_in_columns ? k : r));
      if (it == neurons.end()) continue;
      const auto rank = static_cast<std::size_t>(it - neurons.begin());
      const std::size_t element = c.neurons_in_columns ? r * neurons.size() + rank : rank * cols + k;
      if (redraw != nullptr)
        put(c.dtype, out, i, drawn(redraw->draw, element));
      else
        put(c.dtype, out, i, float_at(c.dtype, c.dense, i) + drawn(disturb->draw, element));
    }
  return out;
}

Case arbitrary_case() {
  using rc::gen::inRange;
  Case c{.dtype = *rc::gen::element(Dtype::f32, Dtype::bf16, Dtype::f16),
         .rows = *inRange<std::int64_t>(1, 40),
         .cols = *inRange<std::int64_t>(1, 200),
         .neurons_in_columns = *rc::gen::arbitrary<bool>(),
         .draft = Copy{},
         .dense = {}};
  const Rng key(*rc::gen::arbitrary<std::uint64_t>());
  const auto count = static_cast<std::size_t>(c.rows * c.cols);
  std::vector<float> values(count);
  normals(key.at("dense"), 0, values);
  c.dense.resize(count * c.size());
  from_float(values, c.dtype, c.dense);
  const std::int64_t F = c.neurons_in_columns ? c.cols : c.rows;
  const Draw draw{key.at("values"), 0.25, 2.0};
  std::vector<std::int32_t> neurons = choose(key.at("neurons"), *inRange<std::int64_t>(0, F + 1), F);
  switch (*inRange(0, 5)) {
    case 0:
      c.draft = Copy{};
      break;
    case 1:
      c.draft = Constant{1.0f};
      break;
    case 2:
      c.draft = draw;
      break;
    case 3:
      c.draft = Redraw{std::move(neurons), draw};
      break;
    default:
      c.draft = Disturb{std::move(neurons), draw};
      break;
  }
  return c;
}

RC_GTEST_PROP(Fill, IsWhatTheDefinitionSays, ()) {
  const Case c = arbitrary_case();
  std::vector<std::byte> out(c.dense.size());
  fill(c.draft, c.canvas(), 0, out);
  RC_ASSERT(out == reference(c));
}

RC_GTEST_PROP(Fill, GivesTheSameBytesForAnyCutIntoRanges, ()) {
  const Case c = arbitrary_case();
  std::vector<std::byte> whole(c.dense.size()), cut(c.dense.size());
  fill(c.draft, c.canvas(), 0, whole);
  for (std::size_t at = 0; at < cut.size();) {
    const auto elements = *rc::gen::inRange<std::size_t>(1, 500);
    const std::size_t size = std::min(elements * c.size(), cut.size() - at);
    fill(c.draft, c.canvas(), at, std::span(cut).subspan(at, size));
    at += size;
  }
  RC_ASSERT(cut == whole);
}

TEST(Fill, GivesTheSameBytesAtEveryInstructionSetAndPastOneChunk) {
  const Isa active = active_isa();
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const bool columns : {false, true}) {
      Case c{.dtype = dtype,
             .rows = 7,
             .cols = 10'001,
             .neurons_in_columns = columns,
             .draft = Copy{},
             .dense = {}};
      c.dense.resize(static_cast<std::size_t>(c.rows * c.cols) * c.size(), std::byte{0x3c});
      const std::int64_t F = columns ? c.cols : c.rows;
      c.draft = Disturb{choose(Rng(3), F / 2, F), {Rng(4), 0.0, 1.0}};
      std::vector<std::byte> expected;
      for (const Isa isa : available_isas()) {
        set_active_isa(isa);
        std::vector<std::byte> out(c.dense.size());
        fill(c.draft, c.canvas(), 0, out);
        if (expected.empty()) expected = reference(c);
        EXPECT_EQ(out, expected) << isa_name(isa) << " " << name(dtype);
      }
    }
  set_active_isa(active);
}

TEST(Fill, RefusesARangeThatCutsAnElementOrLeavesTheDenseTensor) {
  std::vector<std::byte> dense(16), out(4);
  const Canvas canvas{.dtype = Dtype::f32, .rows = 2, .cols = 2, .dense = dense};
  EXPECT_THROW(fill(Copy{}, canvas, 2, out), Error);
  EXPECT_THROW(fill(Copy{}, canvas, 16, out), Error);
}

}  // namespace
}  // namespace upmoe
