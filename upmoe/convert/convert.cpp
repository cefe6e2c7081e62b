#include "upmoe/convert/convert.h"

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/output_folder.h"
#include "upmoe/convert/record.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

std::string source_card(const Folder& source) {
  return source.has("README.md") ? read_small_file(source.file("README.md", source.path().string())) : "";
}

void require_room(const Plan& plan, const fs::path& folder) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  require(error || space.available > plan.file_bytes, "{}: {} are needed, {} are free on that disk",
          printable(folder.parent_path().string()), human_bytes(plan.file_bytes),
          human_bytes(space.available));
}

}  // namespace

void convert(const Plan& plan, const fs::path& place, const RunOptions& options) {
  check_output(place, plan.request.folder, plan.request.force);
  const std::vector<SideFile> carried = side_files(plan.source.folder());
  const std::string card = source_card(plan.source.folder());

  OutputFolder output(place, plan.request.force);
  require_room(plan, output.partial());
  const RunRecord run = run_plan(plan, output.partial(), options);
  const auto write = [&](const std::string& name, std::string_view text) {
    write_small_file(output.partial() / name, text);
  };
  for (const SideFile& file : carried) {
    const fs::path folder = (output.partial() / file.name).parent_path();
    if (fs::create_directory(folder)) sync_folder(output.partial());
    write(file.name, file.text);
    if (folder != output.partial()) sync_folder(folder);
  }
  if (plan.files.size() > 1) write("model.safetensors.index.json", index_json(plan));
  write("config.json", config_json(plan));
  write("upmoe.json", manifest_json(plan, run, carried));
  write("upmoe-recipe.toml", recipe_toml(plan));
  write("README.md", model_card(plan, card));
  if (options.cancelled != nullptr && *options.cancelled) throw Interrupted();
  output.commit();
}

}  // namespace upmoe
