#include "upmoe/cli_engine/texts.h"

#include <algorithm>

#include "upmoe/base/error.h"

namespace upmoe::cli {

std::vector<std::string> names_of(const std::vector<std::string>& files) {
  std::vector<std::string> stems, out;
  for (const std::string& file : files) stems.push_back(std::filesystem::path(file).stem().string());
  for (std::size_t i = 0; i < files.size(); ++i)
    out.push_back(std::ranges::count(stems, stems[i]) == 1 ? stems[i] : files[i]);
  return out;
}

std::vector<TokenFile> open_texts(const std::vector<std::string>& files, const std::filesystem::path& folder,
                                  const model::Model& model, const TextOptions& options) {
  std::vector<TokenFile> out;
  for (const std::string& file : files) {
    out.push_back(open_tokens(file, folder, options));
    out.back().require_ids_below(model.config.llama.vocab_size, options.max_tokens);
  }
  return out;
}

std::int64_t context_of(const model::Model& model, std::int64_t asked, std::int64_t preset,
                        const TextFlags& flags) {
  const std::int64_t trained = model.config.llama.max_position_embeddings;
  if (asked == 0) return std::min(preset, trained);
  require_asked(asked <= trained || !flags.allow.values.empty(),
                "--context {} exceeds the model's {}-token context (max_position_embeddings in config.json); "
                "--allow context runs it all the same",
                asked, trained);
  return asked;
}

}  // namespace upmoe::cli
