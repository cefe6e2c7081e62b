// Sparse upcycling: every expert is the dense FFN.  Komatsuzaki et al., arXiv:2212.05055.
#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {
namespace {

class CopyMethod final : public Method {
 public:
  using Options = NoOptions;
  explicit CopyMethod(Options /*options*/) {}

  std::string changes_function() const override { return ""; }
  Reads reads() const override { return {.weights = true, .moments = false, .own_place = true}; }

  MoeLayer convert(const DenseLayer& /*layer*/, const MoeShape& /*shape*/,
                   const Rng& /*key*/) const override {
    return {.draft = [](std::int64_t /*e*/, Matrix /*matrix*/) { return Copy{}; }};
  }
};

}  // namespace

MethodInfo copy() {
  return method_info<CopyMethod>("copy", "every expert is the dense FFN", "W_e = W",
                                 "Sparse Upcycling, arXiv:2212.05055");
}

}  // namespace upmoe::upcycle
