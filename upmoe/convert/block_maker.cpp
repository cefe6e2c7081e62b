#include "upmoe/convert/block_maker.h"

#include <cmath>
#include <cstring>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/convert/allowances.h"
#include "upmoe/convert/fill.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/tensor/finite.h"

namespace upmoe {
namespace {

// Of a stored tensor: rows, and the bytes of one; a tensor of one dimension is one row.
std::uint64_t row_bytes(const TensorInfo& info) {
  return info.bytes() / static_cast<std::uint64_t>(info.shape.size() > 1 ? info.shape[0] : 1);
}

// Whether finite weights can become infinite ones. Those of F32 and BF16 nearly never are that large, so that
// what is drawn needs no second look.
bool may_overflow(const Draft& draft, Dtype dtype) {
  constexpr double kLarge = 1e37, kMostDeviate = 7;
  if (std::holds_alternative<Copy>(draft)) return false;
  if (dtype == Dtype::f16) return true;
  const auto reaches = [](const Draw& draw) {
    return std::abs(draw.mean) + kMostDeviate * draw.sigma > kLarge;
  };
  if (const auto* draw = std::get_if<Draw>(&draft)) return reaches(*draw);
  if (const auto* redraw = std::get_if<Redraw>(&draft)) return reaches(redraw->draw);
  if (const auto* disturb = std::get_if<Disturb>(&draft)) return reaches(disturb->draw);
  const auto* pick = std::get_if<Pick>(&draft);
  return pick != nullptr && pick->scale != 1;
}

}  // namespace

BlockMaker::BlockMaker(const Plan& plan, const FileWindow& window, const Schedule& schedule)
    : plan_(plan), reads_(plan.method->reads()), window_(window) {
  for (const PlannedFile& file : plan.files) tensors_.emplace_back(file.tensors.size());
  for (std::int64_t l = 0; l < plan.source.config().num_layers; ++l)
    for (const Matrix own : kMatrices) {
      Layer& layer = layers_.emplace_back(DenseLayer{l, plan.source.config(), {}});
      layer.dense.moments = [this, l, own](Matrix matrix) -> const NeuronMoments& {
        require(
            matrix == own || !reads_.own_place,
            "method '{}' asks for moments of layer {}'s {} for a draft of {}, but its reads() says that it "
            "needs only those of the matrix itself",
            plan_.request.method, l, matrix_name(matrix), matrix_name(own));
        return moments(l, matrix);
      };
    }
  const auto& weights = plan.source.weights();
  for (std::size_t w = 0; w < weights.size(); ++w)
    if (weights[w].is.role == Role::matrix)
      weight_of_matrix_[{weights[w].is.layer, weights[w].is.matrix}] = w;

  const DenseConfig& config = plan.source.config();
  std::set<std::size_t> repeating;  // files
  for (const Task& task : schedule.tasks) {
    if (!task.is_scan) continue;
    const DenseModel::Weight& weight = weights[task.scan.weight];
    const auto [it, is_new] = scanned_.try_emplace(task.scan.weight);
    if (is_new && weight.is.role == Role::matrix && reads_.moments)
      it->second.builder.emplace(weight.is.matrix, weight.stored.info->dtype, config.intermediate_size,
                                 config.hidden_size);
  }
  for (const Task& task : schedule.tasks) {
    if (task.is_scan) continue;
    for (const Piece& piece : pieces(plan, task.block)) {
      Tensor& tensor = tensors_[task.block.file][piece.tensor];
      if (++tensor.pieces_left > 1) continue;
      for (const std::size_t w : scanned_for(plan.files[task.block.file].tensors[piece.tensor].origin))
        ++scanned_.at(w).tensors_left;
    }
    if (task.block.repeats != 0) repeating.insert(task.block.file);
  }
  for (std::size_t f = 0; f < plan.files.size(); ++f)
    for (const Copies& run : copies(plan, f))
      if (plan.files[f].tensors[run.first].origin.kind == Origin::Kind::dense || repeating.contains(f))
        for (std::size_t i = 1; i < run.count; ++i)
          tensors_[f][run.first + i].twin = &plan.files[f].tensors[run.first];
}

std::vector<std::size_t> BlockMaker::scanned_for(const Origin& origin) const {
  std::vector<std::size_t> out;
  if (origin.kind == Origin::Kind::expert && !reads_.own_place)
    for (const Matrix matrix : kMatrices) out.push_back(weight_of_matrix_.at({origin.layer, matrix}));
  else
    out.push_back(origin.weight);
  std::erase_if(out, [&](std::size_t w) { return !scanned_.contains(w); });
  return out;
}

std::span<const std::byte> BlockMaker::source(const DenseModel::Weight& weight) const {
  return window_.bytes(plan_.source.files().file_number(weight.stored))
      .subspan(weight.stored.file->data_begin(*weight.stored.info), weight.stored.info->bytes());
}

void BlockMaker::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  scanned_some_.notify_all();
}

// Rows have to come in their order, so whoever is early waits for its turn; tasks are taken in order, so the
// one in front of it is being done.
void BlockMaker::scan(const Scan& scan) {
  const DenseModel::Weight& weight = plan_.source.weights()[scan.weight];
  const std::uint64_t row = row_bytes(*weight.stored.info);
  const std::span<const std::byte> rows = source(weight).subspan(
      static_cast<std::uint64_t>(scan.begin) * row, static_cast<std::uint64_t>(scan.end - scan.begin) * row);
  std::unique_lock lock(mutex_);
  Scanned& scanned = scanned_.at(scan.weight);
  scanned_some_.wait(lock, [&] { return scanned.next_row == scan.begin || stopped_; });
  if (stopped_) return;
  lock.unlock();
  require_finite(weight, static_cast<std::uint64_t>(scan.begin) * row, rows);
  scanned.hash.update(rows);
  if (scanned.builder) scanned.builder->add_rows(scan.begin, scan.end, rows);
  lock.lock();
  scanned.next_row = scan.end;
  const std::vector<std::int64_t>& shape = weight.stored.info->shape;
  if (scan.end == (shape.size() > 1 ? shape[0] : 1)) {
    hashes_.source[weight.is.name] = scanned.hash.digest();
    if (scanned.builder) scanned.moments = scanned.builder->take();
    scanned.builder.reset();
  }
  scanned_some_.notify_all();
}

const NeuronMoments& BlockMaker::moments(std::int64_t l, Matrix matrix) {
  std::unique_lock lock(mutex_);
  const auto it = scanned_.find(weight_of_matrix_.at({l, matrix}));
  if (it == scanned_.end() || !(it->second.builder || it->second.moments)) refuse_moments(plan_, l, matrix);
  scanned_some_.wait(lock, [&] { return it->second.moments || stopped_; });
  require(!stopped_, "stopped");
  return *it->second.moments;
}

void BlockMaker::fill(const Block& block, std::span<std::byte> buffer) {
  const std::string& header = plan_.files[block.file].header;
  if (block.at < header.size())
    std::memcpy(buffer.data(), header.data() + block.at,
                std::min<std::size_t>(block.bytes, header.size() - block.at));
  for (const Piece& piece : pieces(plan_, block))
    fill_piece(block, piece, buffer.subspan(piece.at, piece.bytes));
}

void BlockMaker::fill_piece(const Block& block, const Piece& piece, std::span<std::byte> out) {
  Tensor& tensor = tensors_[block.file][piece.tensor];
  const PlannedTensor& planned = plan_.files[block.file].tensors[piece.tensor];
  const DenseModel::Weight& weight = plan_.source.weights()[planned.origin.weight];
  std::call_once(tensor.drafted, [&] { draft(tensor, planned); });
  if (planned.origin.kind == Origin::Kind::router) {
    std::memcpy(out.data(), std::as_bytes(std::span(tensor.router_EH)).data() + piece.begin, out.size());
    return;
  }
  const std::vector<std::int64_t>& shape = planned.info.shape;
  const Canvas canvas{
      .dtype = planned.info.dtype,
      .rows = shape[0],
      .cols = shape.size() > 1 ? shape[1] : 1,
      .neurons_in_columns = weight.is.role == Role::matrix && weight.is.matrix == Matrix::down,
      .dense = source(weight),
      .dense_rows = weight.is.shape[0],
      .dense_cols = weight.is.shape.size() > 1 ? weight.is.shape[1] : 1};
  upmoe::fill(tensor.draft, canvas, piece.begin, out);
  // Whatever else is read of the source has been scanned.
  if (planned.origin.kind == Origin::Kind::dense && std::holds_alternative<Copy>(tensor.draft))
    require_finite(weight, piece.begin, out);
  if (may_overflow(tensor.draft, canvas.dtype)) require_made_finite(planned, piece.begin, out);
}

// Of bytes that were made of finite weights, from byte `begin` of the tensor on.
void BlockMaker::require_made_finite(const PlannedTensor& planned, std::uint64_t begin,
                                     std::span<const std::byte> bytes) {
  const TensorInfo& info = planned.info;
  const auto size = static_cast<std::uint64_t>(bits(info.dtype)) / 8;
  const std::string what = not_finite_text(info.dtype, info.shape, begin / size, bytes);
  if (what.empty() || allows(plan_.request, "not-finite")) return;
  // Where the source has such a number itself, its scan says so.
  const DenseModel::Weight& weight = plan_.source.weights()[planned.origin.weight];
  const std::vector<std::int64_t>& shape = weight.stored.info->shape;
  std::unique_lock lock(mutex_);
  if (const auto it = scanned_.find(planned.origin.weight); it != scanned_.end())
    scanned_some_.wait(lock,
                       [&] { return stopped_ || it->second.next_row == (shape.size() > 1 ? shape[0] : 1); });
  require(!stopped_, "stopped");
  fail(
      "'{}' would have {}: the values that '{}' computes from '{}' exceed what {} can hold; store the source "
      "in "
      "a wider type, or choose another method",
      info.name, what, plan_.request.method, weight.is.name, name(info.dtype));
}

// Of bytes of a weight, as the source or a copy has them, from byte `begin` of the weight on.
void BlockMaker::require_finite(const DenseModel::Weight& weight, std::uint64_t begin,
                                std::span<const std::byte> bytes) const {
  const TensorInfo& info = *weight.stored.info;
  const auto size = static_cast<std::uint64_t>(bits(info.dtype)) / 8;
  const std::string what = not_finite_text(info.dtype, info.shape, begin / size, bytes);
  require(what.empty() || allows(plan_.request, "not-finite"),
          "{}: '{}' has {}, so the converted weights would not be finite either; is the file complete? To "
          "convert it anyway, pass --allow not-finite",
          printable(weight.stored.file->path().string()), weight.is.name, what);
}

void BlockMaker::draft(Tensor& tensor, const PlannedTensor& planned) {
  const Origin& origin = planned.origin;
  const DenseModel::Weight& weight = plan_.source.weights()[origin.weight];
  if (origin.kind == Origin::Kind::dense) {
    tensor.draft = plan_.method->weight(weight.is, plan_.source.config(), weight_key(plan_, weight.is));
  } else if (origin.kind == Origin::Kind::expert) {
    tensor.draft = expert_draft(planned);
  } else {
    tensor.router_EH = plan_.router_init->weight_EH({.E = plan_.shape.experts,
                                                     .H = plan_.source.config().hidden_size,
                                                     .gamma_length = norm_length(weight)},
                                                    layer_key(plan_, origin.layer).at("router"));
    const std::string what =
        not_finite_text(Dtype::f32, planned.info.shape, 0, std::as_bytes(std::span(tensor.router_EH)));
    require(what.empty(), "router init '{}' gives layer {} {}; choose another --router-init",
            plan_.request.router_init, origin.layer, what);
  }
}

Draft BlockMaker::expert_draft(const PlannedTensor& planned) {
  const Origin& origin = planned.origin;
  const DenseWeight& is = plan_.source.weights()[origin.weight].is;
  const std::size_t own = reads_.own_place ? static_cast<std::size_t>(is.matrix) : 0;
  Layer& layer = layers_[static_cast<std::size_t>(origin.layer) * kMatrices.size() + own];
  std::call_once(layer.converted, [&] {
    layer.moe = plan_.method->convert(layer.dense, plan_.shape, layer_key(plan_, origin.layer));
  });
  Draft draft = layer.moe.draft(origin.expert, is.matrix);
  // Only what was announced is in memory.
  const bool picks = std::holds_alternative<Pick>(draft);
  const bool reads = !std::holds_alternative<Draw>(draft) && !std::holds_alternative<Constant>(draft);
  const std::string what =
      fmt::format("method '{}': the draft of {}", plan_.request.method, printable(planned.info.name));
  require(reads_.weights || !reads, "{} takes weights of the dense model, but its reads() says it does not",
          what);
  require(!reads_.own_place || !picks, "{} picks neurons, but its reads() says that weights keep their place",
          what);
  require(!reads || picks || planned.info.shape == is.shape,
          "{} is a copy, but has another shape than the dense matrix", what);
  return draft;
}

bool BlockMaker::is_copied(const DenseModel::Weight& weight) const {
  return std::holds_alternative<Copy>(
      plan_.method->weight(weight.is, plan_.source.config(), weight_key(plan_, weight.is)));
}

// Euclidean length of the norm's weight as the output will have it.
double BlockMaker::norm_length(const DenseModel::Weight& norm) const {
  const TensorInfo& info = *norm.stored.info;
  std::vector<std::byte> stored(info.bytes()), bytes(info.bytes());
  window_.read(plan_.source.files().file_number(norm.stored), norm.stored.file->data_begin(info), stored);
  std::vector<float> gamma_H(static_cast<std::size_t>(norm.is.shape[0]));
  upmoe::fill(plan_.method->weight(norm.is, plan_.source.config(), weight_key(plan_, norm.is)),
              {.dtype = info.dtype, .cols = norm.is.shape[0], .dense = stored}, 0, bytes);
  require_finite(norm, 0, bytes);
  to_float(info.dtype, bytes, gamma_H);
  double squares = 0;
  for (const float gamma : gamma_H) squares += static_cast<double>(gamma) * gamma;
  return std::sqrt(squares);
}

// A tensor's pieces come here in their order, so one running hash is enough.
void BlockMaker::finish(const Block& block, std::span<const std::byte> buffer) {
  for (const Piece& piece : pieces(plan_, block)) {
    Tensor& tensor = tensors_[block.file][piece.tensor];
    const PlannedTensor& planned = plan_.files[block.file].tensors[piece.tensor];
    const DenseModel::Weight& weight = plan_.source.weights()[planned.origin.weight];
    if (tensor.twin == nullptr) hash_.update(buffer.subspan(piece.at, piece.bytes));
    if (--tensor.pieces_left > 0) continue;
    const std::uint64_t digest =
        tensor.twin == nullptr ? hash_.digest() : hashes_.output.at(tensor.twin->info.name);
    hash_ = Xxh3();
    const std::lock_guard lock(mutex_);
    hashes_.output[planned.info.name] = digest;
    // What was only copied has the hash of what it was copied from.
    if (planned.origin.kind == Origin::Kind::dense && is_copied(weight))
      hashes_.source[weight.is.name] = digest;
    tensor.draft = Copy{};
    tensor.router_EH = {};
    for (const std::size_t w : scanned_for(planned.origin))
      if (Scanned& scanned = scanned_.at(w); --scanned.tensors_left == 0) scanned.moments.reset();
  }
}

}  // namespace upmoe
