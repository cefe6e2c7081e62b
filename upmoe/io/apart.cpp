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

// Whether something in the folder `input`, or what a link in it leads to, is `output` or lies in it.
bool leads_to(const fs::path& input, const fs::path& output) {
  std::error_code error;
  if (!fs::is_directory(input, error) || !fs::exists(output, error)) return false;
  const fs::directory_options skip = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator it(input, skip, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it->is_symlink(ignored) ? lies_in(fs::weakly_canonical(it->path(), ignored), output)
                                : it->is_regular_file(ignored) && fs::equivalent(it->path(), output, ignored))
      return true;
  }
  return false;
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
  const bool inside = lies_in(out, in), around = lies_in(in, out) || leads_to(in, out);
  require_asked(!inside || !around, "{}: the output would replace its own source, {}",
                printable(output.string()), printable(input.string()));
  require_asked(!around, "{}: the output would replace its own source, {}, which lies in it",
                printable(output.string()), printable(input.string()));
  require_asked(!inside,
                "{}: the output would be written into its own source, {}; choose a place outside of it",
                printable(output.string()), printable(input.string()));
}

}  // namespace upmoe
