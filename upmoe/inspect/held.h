#pragma once
#include "upmoe/inspect/hashed_matrix.h"
#include "upmoe/upcycle/draft.h"

namespace upmoe {

// How far a matrix of an expert is what its draft says. A draft promises bytes for the neurons that it takes
// from the dense FFN, and that those it draws anew are not the dense ones any more.
struct Held {
  std::int64_t promised = 0, kept = 0;  // neurons that are to be the dense FFN's, and those that are
  std::int64_t not_redrawn = 0;         // that were to be drawn anew and still are the dense FFN's
};

struct MatrixSide {
  const View& view;
  const HashedMatrix& hashed;
};
Held compare_with_draft(const Draft& draft, Matrix matrix, const MatrixSide& dense, const MatrixSide& expert);

}  // namespace upmoe
