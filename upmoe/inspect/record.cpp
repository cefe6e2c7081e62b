#include "upmoe/inspect/record.h"

#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/checkpoint/record_version.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

// The method's options among all that were in force, as the command line writes them.
Values method_options(const MethodInfo& method, const nlohmann::json& options,
                      std::vector<std::string>& notes) {
  Values out;
  for (const OptionInfo& option : method.options) {
    const auto value = options.find(option.name);
    if (value == options.end())
      notes.push_back(fmt::format("upmoe.json does not have the option '{}' of '{}': taken as {}",
                                  option.name, method.name, option.preset));
    else
      out[option.name] = value->is_string() ? value->get<std::string>() : value->dump();
  }
  return out;
}

}  // namespace

Record parse_record(std::string_view text, std::string_view where) {
  const nlohmann::json json = parse_json_object(text, where);
  Record out;
  try {
    if (json.contains("version")) out.version = whole_number(json, "version", where);
    require(1 <= out.version && out.version <= kRecordVersion,
            "{}: its version is {}, and this upmoe reads versions up to {}; is there a newer upmoe?",
            printable(where), out.version, kRecordVersion);
    if (out.version >= 2) {
      json.at("output").at("files").get_to(out.files);
      json.at("output").at("card_xxh3").get_to(out.card);
      for (const char* how : {"carried", "changed"})
        for (const nlohmann::json& name : json.at("side_files").at(how))
          out.side_files.push_back(name.get<std::string>());
    }
    const nlohmann::json& options = json.at("options");
    out.keep_tied = options.value("keep-tied", false);
    options.at("method").get_to(out.method_name);
    out.seed = whole_number(options, "seed", where, std::numeric_limits<std::uint64_t>::max());
    out.asked.experts = static_cast<std::int64_t>(whole_number(options, "experts", where));
    out.asked.per_token = static_cast<std::int64_t>(whole_number(options, "top-k", where));
    json.at("function_preserving").get_to(out.exact);
    json.at("not_exact_because").get_to(out.not_exact_because);
    json.at("source").at("config_xxh3").get_to(out.source_config);
    json.at("source").at("tensors").get_to(out.source);
    json.at("output").at("tensors").get_to(out.output);
    require(!out.output.empty(), "{}: has no hashes of tensors", printable(where));
    if (const auto allow = options.find("allow");
        allow != options.end() && allow->dump().find("not-finite") != std::string::npos)
      out.notes.emplace_back(
          "the conversion was made with --allow not-finite: the weights may hold NaN or Inf, which are not "
          "looked for here");
    const MethodInfo& method = find_plugin(upcycle::methods(), out.method_name, "upcycling method");
    out.method = method.make(method_options(method, options, out.notes));
    require(
        out.exact == out.not_exact_because.empty() && (!out.exact || out.method->changes_function().empty()),
        "{}: says both that the conversion preserves the function and that it does not", printable(where));
    require(1 <= out.asked.per_token && out.asked.per_token <= out.asked.experts &&
                out.asked.experts <= 1'000'000,
            "{}: {} experts and top-{} do not fit together", printable(where), out.asked.experts,
            out.asked.per_token);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: is not the record of a conversion: {}", printable(where), printable(error.what()));
  } catch (const UsageError& error) {  // here it is the file that is wrong, not the command line
    fail("{}: {}", printable(where), error.what());
  }
  return out;
}

}  // namespace upmoe
