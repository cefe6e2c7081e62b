#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace upmoe {

// The three matrices of a SwiGLU FFN: down( silu(gate x) * (up x) ). Neuron i is row i of gate and of up, and
// column i of down. H is the hidden size, F the number of neurons: gate_FH, up_FH, down_HF.
enum class Matrix { gate, up, down };
inline constexpr std::array kMatrices = {Matrix::gate, Matrix::up, Matrix::down};
constexpr std::string_view matrix_name(Matrix matrix) {
  return matrix == Matrix::gate ? "gate" : matrix == Matrix::up ? "up" : "down";
}

// What kind of Mixture of Experts is made: E experts of F neurons, K of them for each token.
struct MoeShape {
  std::int64_t experts = 8;
  std::int64_t per_token = 2;
  std::int64_t expert_size = 0;  // neurons of one expert
};

}  // namespace upmoe
