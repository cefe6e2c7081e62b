#include "upmoe/cli/hub.h"

#include <regex>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/python.h"

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// Prints "ok PATH" or "no REASON". Names come as arguments, never as text of the program.
constexpr const char* kDownload = R"(
try:
    from huggingface_hub import snapshot_download
except ImportError:
    print("no the Python package huggingface_hub is not installed for", sys.executable + passed_over); sys.exit()
try:
    print("ok", snapshot_download(sys.argv[1], revision=sys.argv[2] or None, allow_patterns=[
        "*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md"],
        ignore_patterns=["original/*", "onnx/*", "consolidated*"]))
except KeyboardInterrupt:
    print("no interrupted")
except Exception as error:
    kind = type(error).__name__
    print("no", {"LocalEntryNotFoundError": "the hub can't be reached, and no copy of it is in the cache",
                 "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and no copy of it is in the cache",
                 "RepositoryNotFoundError": "there is no such model, or it is private: hf auth login",
                 "GatedRepoError": "its owner must grant you access first, then: hf auth login",
                 "RevisionNotFoundError": "it has no such revision"}.get(kind, kind + ": " + " ".join(str(error).split())[:200]))
)";

}  // namespace

Source find_source(const std::string& name) {
  if (fs::exists(name)) return {name, false};
  static const std::regex kHubId(R"(([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?)");
  std::smatch id;
  require(std::regex_match(name, id, kHubId), "{}: no such folder, and not a hub id (owner/name)",
          printable(name));
  std::string answer = run_python(kDownload, {id[1].str(), id[2].str()});
  while (!answer.empty() && (answer.back() == '\n' || answer.back() == '\r')) answer.pop_back();
  require(answer.starts_with("ok "),
          "{}: no such folder here, and it could not be downloaded from the Hugging Face hub: {}",
          printable(name),
          answer.starts_with("no ") ? printable(answer.substr(3), 400) : "Python said nothing");
  return {answer.substr(3), true};
}

}  // namespace upmoe::cli
