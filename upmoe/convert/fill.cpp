// H: hidden size, F: neurons, n: chosen neurons. gate_FH, up_FH, down_HF; the drawn block is nH, or Hn for
// down.
#include "upmoe/convert/fill.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/random/normal.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/tensor/gather.h"

namespace upmoe {
namespace {

constexpr std::size_t kChunk =
    4096;  // elements worked on at a time: floats and bytes stay in the first-level cache

// One range of the tensor, in elements.
class Range {
 public:
  Range(const Canvas& canvas, std::uint64_t begin, std::span<std::byte> out)
      : canvas_(canvas),
        size_(static_cast<std::size_t>(bits(canvas.dtype)) / 8),
        begin_(begin / size_),
        out_(out) {
    require(begin % size_ == 0 && out.size() % size_ == 0,
            "a range of {} bytes at {} cuts an element of {} bytes", out.size(), begin, size_);
  }

  void operator()(const Copy& /*copy*/) const {
    require(canvas_.dense.size() >= begin_ * size_ + out_.size(), "a dense tensor of {} bytes, {} needed",
            canvas_.dense.size(), begin_ * size_ + out_.size());
    std::memcpy(out_.data(), canvas_.dense.data() + begin_ * size_, out_.size());
  }

  void operator()(const Constant& constant) const {
    std::array<float, kChunk> floats;
    floats.fill(constant.value);
    for_chunks(0, elements(), [&](std::size_t at, std::size_t count) {
      from_float(std::span(floats).first(count), canvas_.dtype, place(at, count));
    });
  }

  void operator()(const Draw& draw) const { draw_into(out_, draw, begin_, /*add=*/false); }

  void operator()(const Redraw& redraw) const { change(redraw.neurons, redraw.draw, /*add=*/false); }
  void operator()(const Disturb& disturb) const { change(disturb.neurons, disturb.draw, /*add=*/true); }

  void operator()(const Pick& pick) const {
    const bool columns = canvas_.neurons_in_columns;
    const auto count = static_cast<std::int64_t>(pick.neurons.size());
    require(columns ? count == canvas_.cols && canvas_.dense_rows == canvas_.rows
                    : count == canvas_.rows && canvas_.dense_cols == canvas_.cols,
            "{} neurons of a dense tensor of {} x {} do not make one of {} x {}", count, canvas_.dense_rows,
            canvas_.dense_cols, canvas_.rows, canvas_.cols);
    const StoredMatrix dense{canvas_.dense, canvas_.dense_rows, canvas_.dense_cols, size_};
    (columns ? gather_columns : gather_rows)(dense, pick.neurons, begin_ * size_, out_);
    if (pick.scale != 1) multiply(pick.scale);
  }

 private:
  std::size_t elements() const { return out_.size() / size_; }
  std::span<std::byte> place(std::size_t at, std::size_t count) const {
    return out_.subspan(at * size_, count * size_);
  }

  static void for_chunks(std::size_t at, std::size_t count, auto&& work) {
    for (std::size_t done = 0; done < count; done += kChunk) work(at + done, std::min(kChunk, count - done));
  }

  void multiply(float scale) const {
    std::array<float, kChunk> floats;
    for_chunks(0, elements(), [&](std::size_t at, std::size_t count) {
      const std::span<float> some = std::span(floats).first(count);
      to_float(canvas_.dtype, place(at, count), some);
      for (float& x : some) x *= scale;
      from_float(some, canvas_.dtype, place(at, count));
    });
  }

  void change(const std::vector<std::int32_t>& neurons, const Draw& draw, bool add) const {
    (*this)(Copy{});
    if (!canvas_.neurons_in_columns)
      change_rows(neurons, draw, add);
    else if (size_ == 2)
      change_columns<std::uint16_t>(neurons, draw, add);
    else
      change_columns<std::uint32_t>(neurons, draw, add);
  }

  // Elements first, first + 1, ... of the drawn block take the place of `at`, or are added to it: in float,
  // rounded once.
  void draw_into(std::span<std::byte> at, const Draw& draw, std::uint64_t first, bool add) const {
    std::array<float, kChunk> drawn, there;
    for_chunks(0, at.size() / size_, [&](std::size_t done, std::size_t n) {
      const std::span<float> some = std::span(drawn).first(n);
      const std::span<std::byte> to = at.subspan(done * size_, n * size_);
      normals(draw.key, first + done, static_cast<float>(draw.mean), static_cast<float>(draw.sigma), some);
      if (add) {
        to_float(canvas_.dtype, to, std::span(there).first(n));
        for (std::size_t i = 0; i < n; ++i) some[i] += there[i];
      }
      from_float(some, canvas_.dtype, to);
    });
  }

  void change_rows(const std::vector<std::int32_t>& neurons, const Draw& draw, bool add) const {
    const auto H = static_cast<std::uint64_t>(canvas_.cols);
    const std::uint64_t end = begin_ + elements();
    for (auto it = std::ranges::lower_bound(neurons, static_cast<std::int32_t>(begin_ / H));
         it != neurons.end(); ++it) {
      const std::uint64_t row = static_cast<std::uint64_t>(*it) * H;
      if (row >= end) return;
      const std::uint64_t from = std::max(row, begin_), to = std::min(row + H, end);
      draw_into(place(static_cast<std::size_t>(from - begin_), static_cast<std::size_t>(to - from)), draw,
                static_cast<std::uint64_t>(it - neurons.begin()) * H + (from - row), add);
    }
  }

  // Row by row: the chosen columns that meet the range are gathered, drawn, and put back.
  template <class Element>
  void change_columns(const std::vector<std::int32_t>& neurons, const Draw& draw, bool add) const {
    const auto F = static_cast<std::uint64_t>(canvas_.cols);
    std::array<Element, kChunk> block;
    for (std::uint64_t at = begin_, end = begin_ + elements(); at < end;) {
      const std::uint64_t row = at / F, next = std::min((row + 1) * F, end);
      const auto rank = [&](std::uint64_t column) {
        const auto it = std::ranges::lower_bound(
            neurons, column, {}, [](std::int32_t n) { return static_cast<std::uint64_t>(n); });
        return static_cast<std::size_t>(it - neurons.begin());
      };
      const std::size_t first = rank(at - row * F), last = rank(next - row * F);
      std::byte* const column0 =
          out_.data() + (static_cast<std::ptrdiff_t>(row * F) - static_cast<std::ptrdiff_t>(begin_)) *
                            static_cast<std::ptrdiff_t>(size_);
      for_chunks(first, last - first, [&](std::size_t r, std::size_t n) {
        const auto element = [&](std::size_t i) {
          return column0 + static_cast<std::size_t>(neurons[r + i]) * sizeof(Element);
        };
        if (add)
          for (std::size_t i = 0; i < n; ++i) std::memcpy(&block[i], element(i), sizeof(Element));
        draw_into(std::as_writable_bytes(std::span(block).first(n)), draw, row * neurons.size() + r, add);
        for (std::size_t i = 0; i < n; ++i) std::memcpy(element(i), &block[i], sizeof(Element));
      });
      at = next;
    }
  }

  const Canvas& canvas_;
  std::size_t size_;
  std::uint64_t begin_;
  std::span<std::byte> out_;
};

}  // namespace

void fill(const Draft& draft, const Canvas& canvas, std::uint64_t begin, std::span<std::byte> out) {
  std::visit(Range(canvas, begin, out), draft);
}

}  // namespace upmoe
