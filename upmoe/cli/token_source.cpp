#include "upmoe/cli/token_source.h"

#include <cstdlib>
#include <system_error>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/python.h"
#include "upmoe/data/token_file.h"

namespace upmoe::cli {
namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "upmoe-XXXXXX").string();
  require(::mkdtemp(name.data()) != nullptr, "{}: cannot create: {}", printable(name), ErrnoText{});
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

TokenSource::TokenSource(const std::string& data, const fs::path& model) : path_(data) {
  if (is_token_file(path_)) return;
  require(fs::exists(path_), "{}: no such file or folder", printable(data));
  const std::atomic<bool>& interrupted = catch_interrupts();
  folder_ = std::make_unique<TempFolder>();
  path_ = folder_->path() / "tokens.bin";
  run_upmoe_python({"tokenize", "--output=" + path_.string(), "--", model.string(), data});
  if (interrupted) throw Interrupted();
}

}  // namespace upmoe::cli
