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
  std::int64_t dense_rows = rows, dense_cols = cols;  // others for a Pick

  Canvas canvas() const { return {dtype, rows, cols, neurons_in_columns, dense, dense_rows, dense_cols}; }
  std::size_t bytes() const { return static_cast<std::size_t>(rows * cols) * size(); }
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

std::vector<std::byte> picked(const Case& c, const Pick& pick) {
  std::vector<std::byte> out(c.bytes());
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t k = 0; k < c.cols; ++k) {
      const std::int64_t row = c.neurons_in_columns ? r : pick.neurons[static_cast<std::size_t>(r)];
      const std::int64_t col = c.neurons_in_columns ? pick.neurons[static_cast<std::size_t>(k)] : k;
      const auto to = static_cast<std::size_t>(r * c.cols + k),
                 from = static_cast<std::size_t>(row * c.dense_cols + col);
      if (pick.scale == 1)
        std::memcpy(out.data() + to * c.size(), c.dense.data() + from * c.size(), c.size());
      else
        put(c.dtype, out, to, float_at(c.dtype, c.dense, from) * pick.scale);
    }
  return out;
}

// Element by element.
std::vector<std::byte> reference(const Case& c) {
  if (const auto* pick = std::get_if<Pick>(&c.draft)) return picked(c, *pick);
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
  c.dense_rows = c.rows;
  c.dense_cols = c.cols;
  const Rng key(*rc::gen::arbitrary<std::uint64_t>());
  const int kind = *inRange(0, 6);
  if (kind == 5) (c.neurons_in_columns ? c.dense_cols : c.dense_rows) = *inRange<std::int64_t>(1, 200);
  const auto count = static_cast<std::size_t>(c.dense_rows * c.dense_cols);
  std::vector<float> values(count);
  normals(key.at("dense"), 0, values);
  c.dense.resize(count * c.size());
  from_float(values, c.dtype, c.dense);
  const std::int64_t F = c.neurons_in_columns ? c.cols : c.rows;
  const Draw draw{key.at("values"), 0.25, 2.0};
  std::vector<std::int32_t> neurons = choose(key.at("neurons"), *inRange<std::int64_t>(0, F + 1), F);
  switch (kind) {
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
    case 4:
      c.draft = Disturb{std::move(neurons), draw};
      break;
    default:
      Pick pick{.neurons = std::vector<std::int32_t>(static_cast<std::size_t>(F)),
                .scale = *rc::gen::element(1.0f, 4.0f, 0.3f)};
      const std::int64_t of = c.neurons_in_columns ? c.dense_cols : c.dense_rows;
      for (std::size_t i = 0; i < pick.neurons.size(); ++i)
        pick.neurons[i] =
            static_cast<std::int32_t>(below(key.at("picked"), i, static_cast<std::uint64_t>(of)));
      c.draft = std::move(pick);
      break;
  }
  return c;
}

RC_GTEST_PROP(Fill, IsWhatTheDefinitionSays, ()) {
  const Case c = arbitrary_case();
  std::vector<std::byte> out(c.bytes());
  fill(c.draft, c.canvas(), 0, out);
  RC_ASSERT(out == reference(c));
}

RC_GTEST_PROP(Fill, GivesTheSameBytesForAnyCutIntoRanges, ()) {
  const Case c = arbitrary_case();
  std::vector<std::byte> whole(c.bytes()), cut(c.bytes());
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

TEST(Fill, PicksTheSameBytesAtEveryInstructionSetAndPastOneChunk) {
  const Isa active = active_isa();
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const bool columns : {false, true})
      for (const float scale : {1.0f, 3.0f}) {
        Case c{.dtype = dtype,
               .rows = columns ? 50 : 2'500,
               .cols = columns ? 2'500 : 50,
               .neurons_in_columns = columns,
               .draft = Pick{choose(Rng(3), 2'500, 5'001), scale},
               .dense = {},
               .dense_rows = columns ? 50 : 5'001,
               .dense_cols = columns ? 5'001 : 50};
        std::vector<float> values(static_cast<std::size_t>(50 * 5'001));
        normals(Rng(4), 0, values);
        c.dense.resize(values.size() * c.size());
        from_float(values, dtype, c.dense);
        for (const Isa isa : available_isas()) {
          set_active_isa(isa);
          std::vector<std::byte> out(c.bytes());
          fill(c.draft, c.canvas(), 0, out);
          EXPECT_EQ(out, reference(c)) << isa_name(isa) << " " << name(dtype);
        }
      }
  set_active_isa(active);
}

TEST(Fill, PickedBytesStayWhatTheyAreEvenWhereTheyAreNoNumber) {
  const std::vector<std::byte> dense(64, std::byte{0xFF});  // a NaN with every bit set
  std::vector<std::byte> out(32);
  const Canvas canvas{
      .dtype = Dtype::bf16, .rows = 4, .cols = 4, .dense = dense, .dense_rows = 8, .dense_cols = 4};
  fill(Pick{{7, 0, 0, 3}}, canvas, 0, out);
  EXPECT_EQ(out, std::vector<std::byte>(32, std::byte{0xFF}));
}

TEST(Fill, RefusesToPickWhatIsNotThere) {
  std::vector<std::byte> dense(64), out(32);
  const Canvas canvas{
      .dtype = Dtype::bf16, .rows = 4, .cols = 4, .dense = dense, .dense_rows = 8, .dense_cols = 4};
  EXPECT_THROW(fill(Pick{{7, 0, 0, 8}}, canvas, 0, out), Error);
  EXPECT_THROW(fill(Pick{{7, 0, 0}}, canvas, 0, out), Error);
  Canvas smaller = canvas;
  smaller.dense = std::span(dense).first(62);
  EXPECT_THROW(fill(Pick{{7, 0, 0, 3}}, smaller, 0, out), Error);
  smaller = canvas;
  smaller.neurons_in_columns = true;
  EXPECT_THROW(fill(Pick{{3, 0, 0, 3}}, smaller, 0, out), Error);
}

TEST(Fill, RefusesARangeThatCutsAnElementOrLeavesTheDenseTensor) {
  std::vector<std::byte> dense(16), out(4);
  const Canvas canvas{.dtype = Dtype::f32, .rows = 2, .cols = 2, .dense = dense};
  EXPECT_THROW(fill(Copy{}, canvas, 2, out), Error);
  EXPECT_THROW(fill(Copy{}, canvas, 16, out), Error);
}

}  // namespace
}  // namespace upmoe
