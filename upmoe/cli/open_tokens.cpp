#include "upmoe/cli/open_tokens.h"

#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <system_error>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/python.h"

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// A fresh folder of our own; one at a time. The destructor removes it with all that is in it, and so does an
// interrupt: it is noted before it is made, under a name that nobody can know.
class TempFolder {
 public:
  TempFolder() {
    std::random_device chance;
    path_ = (fs::temp_directory_path() / fmt::format("upmoe-{:08x}{:08x}", chance(), chance())).string();
    note_temporary_folder(path_.c_str());
    if (::mkdir(path_.c_str(), S_IRWXU) == 0) return;
    const std::string why = std::strerror(errno);
    note_temporary_folder(nullptr);  // there will be no destructor
    fail("{}: cannot create: {}", printable(path_), why);
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    note_temporary_folder(nullptr);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  fs::path tokens() const { return fs::path(path_) / kTemporaryFiles[0]; }

 private:
  std::string path_;
};

// The ids are written to a temporary folder while the texts of a folder are read.
void require_no_temporary_folder_in(const fs::path& read) {
  std::error_code error;
  for (fs::path place = fs::canonical(fs::temp_directory_path(), error); !error;
       place = place.parent_path()) {
    require_asked(
        !fs::equivalent(place, read, error),
        "{}: the folder of temporary files, {}, lies in it, so what is written there would be read; "
        "set TMPDIR to another folder, or name the texts one by one",
        printable(read.string()), printable(fs::temp_directory_path().string()));
    if (place == place.parent_path()) return;
  }
}

}  // namespace

TokenFile open_tokens(const std::string& data, const fs::path& model, const TextOptions& options) {
  if (is_token_file(data)) return TokenFile(data);
  require(fs::exists(data), "{}: no such file or folder", printable(data));
  for (const fs::path& read : {fs::path(data), model}) require_no_temporary_folder_in(read);
  const TempFolder folder;
  run_upmoe_python({"tokenize", "--output=" + folder.tokens().string(),
                    fmt::format("--max-tokens={}", options.max_tokens), "--field=" + options.field, "--",
                    model.string(), data});
  TokenFile file(folder.tokens());
  file.forget_name(data);
  return file;
}

}  // namespace upmoe::cli
