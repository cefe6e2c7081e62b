#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "upmoe/format/safetensors.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {

inline constexpr const char* kPartialEnd = ".upmoe-partial";

// A safetensors file that is written tensor by tensor and appears whole or not at all: until commit() it is
// PATH.upmoe-partial, or PATH.2.upmoe-partial and so on where that is there already; the destructor removes
// it.
class SafetensorsWriter {
 public:
  // `tensors`: as safetensors_header() wants them. Reserves the space, so that a full disk is told before the
  // work. Throws Error when the file exists and `replace` is not set, or when another run is writing it.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorInfo>& tensors,
                    std::span<const std::pair<std::string, std::string>> metadata, bool replace);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // All bytes of one tensor; every tensor once, in any order.
  void put(const std::string& name, std::span<const std::byte> data);
  // Makes it durable and gives it its name.
  void commit();

 private:
  std::filesystem::path path_, partial_;
  bool replace_;
  std::map<std::string, TensorInfo> missing_;  // by name
  std::uint64_t data_begin_ = 0;
  FileDescriptor file_{-1};
};

}  // namespace upmoe
