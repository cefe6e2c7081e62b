#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/checkpoint/folder.h"

namespace upmoe {

// What belongs to a checkpoint besides weights and config.json: tokenizer, chat templates, generation
// defaults, licence texts. Carried byte for byte, with one exception (readable_by_both).
struct SideFile {
  std::string name;  // with a folder in front for additional_chat_templates/
  std::string text;
  bool changed = false;  // no longer the source's bytes
};
std::vector<SideFile> side_files(const Folder& source);

// What a user should know about how they are carried, a sentence each.
std::vector<std::string> side_file_notes(const Folder& source);

// Whether a file of this name is such beyond doubt, so that it may be replaced with its folder; and the
// folder of more chat templates (NAME.jinja).
bool is_side_file(std::string_view name);
// Whether it would be carried as a licence text: a document of somebody's own may have such a name, too.
bool is_licence(std::string_view name);
inline constexpr const char* kTemplatesFolder = "additional_chat_templates";

// tokenizer_config.json as transformers 5 writes it can't be read by 4.57 (class TokenizersBackend, a list of
// extra special tokens). Returns one that both read and that tokenises the same, and that names no code to be
// loaded (auto_map); the text itself if it is fine already.
std::string readable_by_both(const std::string& tokenizer_config, std::string_view where);

// From the YAML at the head of a model card: the lines of the keys asked for, each with its continuation
// lines, in the card's order. Lines that are not plain text are left out, a key that comes again, and one
// that is not plain YAML (checkpoint/plain_yaml.h).
std::vector<std::string> card_lines(std::string_view card, const std::vector<std::string>& keys);

}  // namespace upmoe
