#include "upmoe/convert/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"

namespace upmoe {
namespace {

constexpr std::string_view kMagic = "upmoe-journal 1 ";  // before the hash of the head and the head
constexpr std::uint64_t kSyncEvery = 256;  // records, 1 GB of output: what a power cut can cost at most

// "3 17 0123456789abcdef 0123456789abcdef": file, block, the block's hash, the hash of the text before it.
std::string record_text(std::uint64_t file, std::uint64_t block, std::uint64_t hash) {
  const std::string text = fmt::format("{} {} {} ", file, block, hex(hash));
  return text + hex(xxh3(text)) + "\n";
}

template <class Number>
std::optional<Number> take_number(std::string_view& text, int base, char end) {
  Number number{};
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc() || rest == text.data() + text.size() || *rest != end) return {};
  text.remove_prefix(static_cast<std::size_t>(rest - text.data()) + 1);
  return number;
}

bool take_record(std::string_view line, JournalText& out) {
  std::string_view rest = line;
  const auto file = take_number<std::uint64_t>(rest, 10, ' ');
  const auto block = file ? take_number<std::uint64_t>(rest, 10, ' ') : std::nullopt;
  const auto hash = block ? take_number<std::uint64_t>(rest, 16, ' ') : std::nullopt;
  if (!hash || record_text(*file, *block, *hash) != line) return false;
  out.blocks[{*file, *block}] = *hash;
  return true;
}

void write_all(int fd, std::string_view text, const std::filesystem::path& path) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t put = ::write(fd, text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    require(put > 0, "{}: cannot write: {}", printable(path.string()), ErrnoText{});
    done += static_cast<std::size_t>(put);
  }
}

std::string shown(const nlohmann::json& value) {
  return printable(value.is_string() ? value.get<std::string>() : value.dump());
}

}  // namespace

JournalText parse_journal(std::string_view text) {
  JournalText out;
  const std::size_t end = text.find('\n');
  if (!text.starts_with(kMagic) || end == std::string_view::npos) return out;
  std::string_view line = text.substr(kMagic.size(), end - kMagic.size());
  const auto hash = take_number<std::uint64_t>(line, 16, ' ');
  if (!hash || xxh3(line) != *hash) return out;
  out.head = line;
  out.valid_bytes = end + 1;
  while (true) {
    const std::string_view rest = text.substr(out.valid_bytes);
    const std::size_t stop = rest.find('\n');
    if (stop == std::string_view::npos || !take_record(rest.substr(0, stop + 1), out)) return out;
    out.valid_bytes += stop + 1;
  }
}

Journal::Journal(const std::filesystem::path& path, const std::string& head)
    : path_(path), file_(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666)) {
  const std::string where = printable(path.string());
  require(file_.get() >= 0, "{}: cannot open: {}", where, ErrnoText{});
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0)
    fail("{}: another run is writing this: {}", where, ErrnoText{});
  before_ = parse_journal(read_small_file(path, 1u << 30));
  if (!before_.head.empty()) require_same_head(before_.head, head, path);
  num_records_ = before_.blocks.size();
  require(::ftruncate(file_.get(), static_cast<off_t>(before_.valid_bytes)) == 0 &&
              ::lseek(file_.get(), 0, SEEK_END) >= 0,
          "{}: cannot remove an incomplete last entry: {}", where, ErrnoText{});
  if (before_.head.empty())
    write_all(file_.get(), fmt::format("{}{} {}\n", kMagic, hex(xxh3(head)), head), path_);
  require(::fsync(file_.get()) == 0, "{}: cannot flush it to the disk: {}", where, ErrnoText{});
  sync_folder(path.parent_path());
}

const std::uint64_t* Journal::find(std::uint64_t file, std::uint64_t block) const {
  const auto it = before_.blocks.find({file, block});
  return it == before_.blocks.end() ? nullptr : &it->second;
}

void Journal::add(std::uint64_t file, std::uint64_t block, std::uint64_t hash) {
  const std::string text = record_text(file, block, hash);
  const std::lock_guard lock(mutex_);
  write_all(file_.get(), text, path_);
  if (++num_records_ % kSyncEvery == 0)
    require(::fdatasync(file_.get()) == 0, "{}: cannot flush it to the disk: {}", printable(path_.string()),
            ErrnoText{});
}

std::string difference(std::string_view text_then, std::string_view text_now) {
  const nlohmann::json then = parse_json_object(text_then, "what was written then").flatten(),
                       now = parse_json_object(text_now, "what is written now").flatten();
  const auto one = [&](const std::string& key) -> std::string {
    const bool was = then.contains(key), is = now.contains(key);
    if (was == is && (!was || then[key] == now[key])) return "";
    // "/options/ratio" -> "used --ratio", "/source/config.json" -> "had source config.json"
    const bool option = key.starts_with("/options/") || key == "/ranks";
    std::string name = option ? "--" + key.substr(key.rfind('/') + 1) : key.substr(1);
    std::ranges::replace(name, '/', ' ');
    const auto with = [&](const nlohmann::json& value) {
      return printable(name) + (value == true ? "" : " " + shown(value));
    };
    if (!was) return fmt::format("did not {} {}", option ? "use" : "have", with(now[key]));
    const std::string had = fmt::format("{} {}", option ? "used" : "had", with(then[key]));
    return had + (is ? ", not " + shown(now[key]) : ", and this one does not");
  };
  // The method first, and options before what follows from them.
  std::vector<std::string> keys = {"/options/method", "/options/router-init"};
  for (const bool options : {true, false})
    for (const nlohmann::json* side : {&now, &then})
      for (const auto& [key, value] : side->items())
        if (key.starts_with("/options/") == options) keys.push_back(key);
  for (const std::string& key : keys)
    if (std::string found = one(key); !found.empty()) return found;
  return "";
}

void require_same_head(std::string_view then, std::string_view now, const std::filesystem::path& journal) {
  if (then == now) return;
  const std::string found = difference(then, now);
  fail("{}: the interrupted run {}; use the same options, or delete {} to start over",
       printable(journal.string()), found.empty() ? "was started by another version of upmoe" : found,
       printable(journal.parent_path().string()));
}

}  // namespace upmoe
