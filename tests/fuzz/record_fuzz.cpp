// upmoe.json, of which `upmoe verify` believes what was asked for: the method it names can be asked again.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/inspect/record.h"

namespace upmoe::fuzz {
namespace {

constexpr std::int64_t F = 6;  // neurons of the dense FFN

void check_neurons(const std::vector<std::int32_t>& neurons, std::int64_t size, bool ascending) {
  check(std::ranges::all_of(neurons, [&](std::int32_t i) { return i >= 0 && i < size; }),
        "a neuron of nobody");
  check(!ascending || std::ranges::adjacent_find(neurons, std::ranges::greater_equal()) == neurons.end(),
        "neurons do not ascend");
}

void check_draft(const Draft& draft, std::int64_t expert_size) {
  if (const auto* redraw = std::get_if<Redraw>(&draft)) check_neurons(redraw->neurons, expert_size, true);
  if (const auto* disturb = std::get_if<Disturb>(&draft)) check_neurons(disturb->neurons, expert_size, true);
  if (const auto* pick = std::get_if<Pick>(&draft)) {
    check_neurons(pick->neurons, F, false);
    check(std::int64_t(pick->neurons.size()) == expert_size, "picks of another number than the expert has");
  }
}

void ask_again(const Record& record) {
  DenseConfig config;
  config.hidden_size = 1, config.intermediate_size = F;
  static const NeuronMoments moments(std::vector<Moments>(F, Moments{}));
  const DenseLayer layer{0, config, [](Matrix) -> const NeuronMoments& { return moments; }};
  const MoeShape made = record.method->shape(record.asked, config);
  check(made.experts == record.asked.experts && made.per_token == record.asked.per_token, "another shape");
  const MoeLayer converted = record.method->convert(layer, made, layer_key(record.seed, 0));
  for (const std::int64_t e : {std::int64_t{0}, made.experts - 1})
    for (const Matrix matrix : kMatrices) check_draft(converted.draft(e, matrix), made.expert_size);
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  only_errors([&] {
    const Record record = parse_record(text_of(data, size), "upmoe.json");
    const MoeShape& asked = record.asked;
    check(1 <= asked.per_token && asked.per_token <= asked.experts, "a top-k of more experts than there are");
    const auto options = nlohmann::json::parse(text_of(data, size)).at("options");
    const auto stands = [&](const char* name, auto number) {
      check(options.at(name).dump() == fmt::to_string(number), "a number that does not stand there");
    };
    stands("seed", record.seed);
    stands("experts", asked.experts);
    stands("top-k", asked.per_token);
    ask_again(record);
  });
  return 0;
}
