#pragma once
#include <cstdint>
#include <variant>
#include <vector>

#include "upmoe/random/key.h"

namespace upmoe {

// How the bytes of one tensor of the output come to be. A description, not the bytes: convert/fill.h carries
// it out for any range of the tensor, in any order and on any thread, so that memory stays small however
// large the model and however many the experts.

struct Copy {};  // the dense tensor's bytes as they are

struct Constant {
  float value;
};

// Element i of a drawn tensor, or of the block of drawn neurons, is mean + sigma * deviate i of the key. The
// block is dense and row-major: [n, H] for n rows of gate or up, [H, n] for n columns of down.
struct Draw {
  Rng key;
  double mean = 0, sigma = 1;
};

struct Redraw {                       // a copy in which these neurons are drawn anew
  std::vector<std::int32_t> neurons;  // ascending
  Draw draw;
};

struct Disturb {                      // a copy in which these neurons have the draw added
  std::vector<std::int32_t> neurons;  // ascending
  Draw draw;
};

struct Pick {                         // made of these neurons of the dense FFN
  std::vector<std::int32_t> neurons;  // in the order of the expert; any, also more than once
  float scale = 1;                    // of every weight: in float, rounded once; at 1 bytes are copied
};

using Draft = std::variant<Copy, Constant, Draw, Redraw, Disturb, Pick>;

}  // namespace upmoe
