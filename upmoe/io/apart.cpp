#include "upmoe/io/apart.h"

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

// Whether `path` or a folder that it lies in is `other`.
bool lies_in(fs::path path, const fs::path& other) {
  for (std::error_code error;; path = path.parent_path()) {
    if (path == other || fs::equivalent(path, other, error)) return true;
    if (path == path.parent_path()) return false;
  }
}

fs::path resolved(const fs::path& path) {
  std::error_code error;
  fs::path out = fs::weakly_canonical(fs::absolute(path), error);
  require(!error, "{}: {}", printable(path.string()), error.message());
  return out.has_filename() ? out : out.parent_path();
}

}  // namespace

void require_apart(const fs::path& output, const fs::path& input) {
  const fs::path out = resolved(output), in = resolved(input);
  const bool inside = lies_in(out, in), around = lies_in(in, out);
  require(!inside || !around, "{}: the output would replace its own source, {}", printable(output.string()),
          printable(input.string()));
  require(!around, "{}: the output would replace its own source, {}, which lies in it",
          printable(output.string()), printable(input.string()));
  require(!inside, "{}: the output would be written into its own source, {}; choose a place outside of it",
          printable(output.string()), printable(input.string()));
}

}  // namespace upmoe
