#include "upmoe/format/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little endian, and so must be the machine");

constexpr std::size_t kMaxRank = 64;
constexpr int kMaxDepth = 128;  // as serde_json has it

// Receives the header's JSON event by event. A document tree would keep the last of two equal names in
// silence, and a hostile header of 100 MB would take gigabytes.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(std::string_view file, std::vector<TensorInfo>& out) : file_(file), out_(out) {}

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a boolean"); }
  bool number_integer(number_integer_t) override { return value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return value("a number that is no 64-bit whole number");
  }
  bool binary(binary_t&) override { return value("binary data"); }

  bool number_unsigned(number_unsigned_t number) override {
    if (list_ == nullptr) return value("a number");
    require(list_->size() < kMaxRank, "{}: tensor '{}': {} has more than {} numbers", file_, name(), field_,
            kMaxRank);
    list_->push_back(number);
    return true;
  }

  bool string(string_t& text) override {
    if (skipping_ > 0) return true;
    if (in_metadata()) return true;
    if (depth_ != 2 || field_ != "dtype") return value("a string");
    dtype_ = dtype_from_name(text);
    require(dtype_.has_value(), "{}: tensor '{}': unknown dtype '{}'", file_, name(), printable(text));
    return true;
  }

  bool start_object(std::size_t) override {
    if (skipping_ > 0) return enter();
    if (depth_ == 1) {
      ++depth_;
      return true;
    }
    if (in_unknown_field()) return enter();
    require(depth_ == 0, "{}: {} is an object, expected {}", file_, where(), expected());
    ++depth_;
    return true;
  }

  bool key(string_t& text) override {
    if (skipping_ > 0) return true;
    if (depth_ == 1) {
      entry_ = text;
      require(entry_ != "__metadata__" || !seen_metadata_, "{}: __metadata__ appears twice in the header",
              file_);
      seen_metadata_ = seen_metadata_ || entry_ == "__metadata__";
      dtype_.reset(), shape_.reset(), offsets_.reset();
      return true;
    }
    field_ = text;
    if (in_metadata()) return true;
    const bool twice = (field_ == "dtype" && dtype_) || (field_ == "shape" && shape_) ||
                       (field_ == "data_offsets" && offsets_);
    require(!twice, "{}: tensor '{}': {} appears twice", file_, name(), field_);
    return true;
  }

  bool end_object() override {
    if (skipping_ > 0) return leave();
    if (--depth_ == 1 && entry_ != "__metadata__") add_tensor();
    return true;
  }

  bool start_array(std::size_t) override {
    if (skipping_ > 0 || in_unknown_field()) return enter();
    if (depth_ == 2 && !in_metadata() && list_ == nullptr) {
      if (field_ == "shape") return open_list(shape_);
      if (field_ == "data_offsets") return open_list(offsets_);
    }
    fail("{}: {} is a list, expected {}", file_, where(), expected());
  }

  bool end_array() override {
    if (skipping_ > 0) return leave();
    list_ = nullptr;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string_view what = error.what();
    const std::size_t colon = what.find(": ");
    fail("{}: the header is not valid JSON at byte {}: {}; is it a safetensors file?", file_, 8 + position,
         printable(what.substr(colon == std::string_view::npos ? 0 : colon + 2)));
  }

 private:
  std::string name() const { return printable(entry_); }
  bool in_metadata() const { return depth_ == 2 && entry_ == "__metadata__"; }
  // One that is ignored, as the reference reader does.
  bool in_unknown_field() const {
    return depth_ == 2 && !in_metadata() && list_ == nullptr && field_ != "dtype" && field_ != "shape" &&
           field_ != "data_offsets";
  }
  std::string where() const {
    if (depth_ == 0) return "the header";
    if (depth_ == 1) return fmt::format("entry '{}'", name());
    return fmt::format("{} of '{}'", list_ != nullptr ? "a number in " + field_ : printable(field_), name());
  }
  std::string expected() const {
    if (depth_ < 2) return "an object";
    if (in_metadata()) return "a string";
    if (list_ != nullptr) return "a whole number from 0 to 2^64-1";
    return field_ == "dtype" ? "a string" : "a list of whole numbers";
  }
  // A scalar that no rule above has taken.
  bool value(const char* got) {
    require(skipping_ > 0 || in_unknown_field(), "{}: {} is {}, expected {}", file_, where(), got,
            expected());
    return true;
  }
  bool enter() {
    require(++skipping_ + depth_ < kMaxDepth, "{}: entry '{}' is nested deeper than {}", file_, name(),
            kMaxDepth);
    return true;
  }
  bool leave() {
    --skipping_;
    return true;
  }
  bool open_list(std::optional<std::vector<std::uint64_t>>& list) {
    list_ = &list.emplace();
    return true;
  }

  void add_tensor() {
    const char* missing = !dtype_ ? "dtype" : !shape_ ? "shape" : !offsets_ ? "data_offsets" : nullptr;
    require(missing == nullptr, "{}: tensor '{}' has no {}", file_, name(),
            missing == nullptr ? "" : missing);
    require(offsets_->size() == 2, "{}: tensor '{}': data_offsets has {} numbers, expected 2", file_, name(),
            offsets_->size());
    TensorInfo tensor{.name = entry_, .dtype = *dtype_, .begin = offsets_->at(0), .end = offsets_->at(1)};
    for (const std::uint64_t size : *shape_) {
      require(size <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()),
              "{}: tensor '{}': a size of {} is beyond 2^63", file_, name(), size);
      tensor.shape.push_back(static_cast<std::int64_t>(size));
    }
    out_.push_back(std::move(tensor));
  }

  std::string_view file_;
  std::vector<TensorInfo>& out_;
  int depth_ = 0;     // 0 outside, 1 among the names, 2 in a tensor or in __metadata__
  int skipping_ = 0;  // how deep we are in the value of an unknown field
  std::string entry_, field_;
  bool seen_metadata_ = false;
  std::optional<Dtype> dtype_;
  std::optional<std::vector<std::uint64_t>> shape_, offsets_;
  std::vector<std::uint64_t>* list_ = nullptr;  // the list being read, if one is
};

std::uint64_t header_bytes(std::span<const std::byte> whole, std::string_view file) {
  require(whole.size() >= 8, "{}: {} bytes are too few for a safetensors file; is the download complete?",
          file, whole.size());
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  require(length <= kMaxHeaderBytes,
          "{}: the header claims {} bytes, at most {} are allowed; is it a safetensors file?", file, length,
          kMaxHeaderBytes);
  require(length <= whole.size() - 8,
          "{}: the header claims {} bytes but the file is only {} bytes long; is the download complete?",
          file, length, whole.size());
  return length;
}

void refuse_duplicates(const std::vector<TensorInfo>& tensors, std::string_view file) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto name = [&](std::uint32_t i) -> const std::string& { return tensors[i].name; };
  std::ranges::sort(order, {}, name);
  const auto twice = std::ranges::adjacent_find(order, {}, name);
  if (twice != order.end())
    fail("{}: tensor '{}' appears twice in the header", file, printable(name(*twice)));
}

// The data of all tensors must lie end to end and fill the file: no hole, no overlap, nothing behind.
void check_layout(const SafetensorsHeader& header, std::uint64_t file_bytes, std::string_view file) {
  std::uint64_t end_before = 0;
  for (const TensorInfo& tensor : header.tensors) {
    const std::string shown = printable(tensor.name);
    require(tensor.begin == end_before,
            "{}: tensor '{}' begins at byte {} of the data, expected {}; is the file complete?", file, shown,
            tensor.begin, end_before);
    require(tensor.end >= tensor.begin, "{}: tensor '{}' ends at byte {} of the data, before it begins at {}",
            file, shown, tensor.end, tensor.begin);
    const std::uint64_t bytes =
        tensor_bytes(tensor.dtype, tensor.shape, fmt::format("{}: tensor '{}'", file, shown));
    require(tensor.bytes() == bytes, "{}: tensor '{}': {} {} takes {} bytes, its data_offsets give {}", file,
            shown, name(tensor.dtype), shape_text(tensor.shape), bytes, tensor.bytes());
    end_before = tensor.end;
  }
  require(end_before == file_bytes - header.data_begin, "{}: {} bytes of data, the header describes {}; {}",
          file, file_bytes - header.data_begin, end_before,
          end_before > file_bytes - header.data_begin ? "is the download complete?"
                                                      : "what follows the last tensor is not ours to read");
}

SafetensorsHeader header_of(const MappedFile& file) {
  try {
    SafetensorsHeader header = parse_safetensors(file.bytes(), file.path().string());
    file.require_intact();
    return header;
  } catch (const Error&) {
    file.require_intact();  // which then is the reason
    throw;
  }
}

}  // namespace

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::uint64_t tensor_bytes(Dtype dtype, std::span<const std::int64_t> shape, std::string_view what) {
  // No early zero: a shape like [2^40, 2^40, 0] overflows the reference reader's product, so it does ours.
  std::uint64_t bits_total = 1;
  bool fits = true;
  for (const std::int64_t size : shape)
    fits = fits && !__builtin_mul_overflow(bits_total, static_cast<std::uint64_t>(size), &bits_total);
  fits = fits && !__builtin_mul_overflow(bits_total, static_cast<std::uint64_t>(bits(dtype)), &bits_total);
  require(fits, "{}: shape {} of {} overflows 64 bits", what, shape_text(shape), name(dtype));
  require(bits_total % 8 == 0, "{}: shape {} of {} is not a whole number of bytes", what, shape_text(shape),
          name(dtype));
  return bits_total / 8;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> whole, std::string_view file) {
  const std::string shown = printable(file);
  const std::uint64_t length = header_bytes(whole, shown);
  const std::string_view json(reinterpret_cast<const char*>(whole.data()) + 8, length);
  const std::size_t first = json.find_first_not_of(" \t\r\n");
  require(first != std::string_view::npos && json[first] == '{',
          "{}: the header does not begin with '{{'; is it a safetensors file?", shown);
  const std::size_t zero = json.find('\0');  // the JSON library would take it for the end
  require(zero == std::string_view::npos, "{}: the header has a zero byte at {}", shown, 8 + zero);

  SafetensorsHeader header{.data_begin = 8 + length, .tensors = {}};
  HeaderReader reader(shown, header.tensors);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  refuse_duplicates(header.tensors, shown);
  std::ranges::stable_sort(header.tensors, {}, [](const TensorInfo& t) { return std::pair(t.begin, t.end); });
  check_layout(header, whole.size(), shown);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), header_(header_of(file_)) {}

std::string safetensors_header(std::span<const TensorInfo> tensors,
                               std::span<const std::pair<std::string, std::string>> metadata) {
  std::string json = R"({"__metadata__":{"format":"pt")";
  for (const auto& [key, text] : metadata)
    json += fmt::format(",{}:{}", nlohmann::json(key).dump(), nlohmann::json(text).dump());
  json += '}';
  for (const TensorInfo& tensor : tensors)
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(tensor.name).dump(), name(tensor.dtype), fmt::join(tensor.shape, ","),
                        tensor.begin, tensor.end);
  json += '}';
  const std::uint64_t total = (8 + json.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
  json.resize(total - 8, ' ');
  require(json.size() <= kMaxHeaderBytes,
          "a header of {} bytes for {} tensors is more than the {} that readers allow; choose a smaller "
          "--max-shard-size",
          json.size(), tensors.size(), kMaxHeaderBytes);
  const std::uint64_t length = json.size();
  std::string header(8, '\0');
  std::memcpy(header.data(), &length, 8);
  return header + json;
}

}  // namespace upmoe
