#pragma once
#include <filesystem>
#include <memory>
#include <string>

namespace upmoe::cli {

// A fresh folder for what is needed for a while; the destructor removes it with all that is in it.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// What `--data X` names, as a token file: X itself where it is one (.bin, .idx), else a text, a .jsonl or a
// folder of such, which Python turns into a token file that lives as long as this.
class TokenSource {
 public:
  // `model`: the checkpoint's folder, whose tokenizer is used. Catches interrupts once there is something to
  // be removed.
  TokenSource(const std::string& data, const std::filesystem::path& model);

  const std::filesystem::path& path() const { return path_; }  // for TokenFile

 private:
  std::unique_ptr<TempFolder> folder_;
  std::filesystem::path path_;
};

}  // namespace upmoe::cli
