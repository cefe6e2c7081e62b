#pragma once
#include <filesystem>
#include <string>

namespace upmoe::cli {

struct Source {
  std::filesystem::path folder;
  bool from_hub = false;
};

// A local folder, or a Hugging Face hub id (owner/name or owner/name@revision), which Python's
// huggingface_hub downloads into its cache. Throws Error when there is neither such a folder nor such a
// model, or no network.
Source find_source(const std::string& name);

}  // namespace upmoe::cli
