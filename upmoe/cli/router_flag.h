#pragma once
#include <string>

namespace upmoe::cli {

// Routing a model otherwise than it was made for: an option of verbs that run it.
struct RouterFlag {
  std::string name;  // with its options; empty: the checkpoint's own
  void visit(auto&& field) {
    field(name, "router",
          "run a Mixture of Experts with another router, NAME or NAME,key=value,...: see upmoe routers");
  }
};

}  // namespace upmoe::cli
