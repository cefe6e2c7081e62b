#pragma once
#include <gtest/gtest.h>

#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe::test {

// That `work` throws an E whose message has all the parts, and nothing that a terminal would obey.
//   EXPECT_TRUE(fails_with([&] { SafetensorsFile file(path); }, {"x.safetensors", "'w'"}));
template <class E = Error>
testing::AssertionResult fails_with(auto&& work, std::initializer_list<std::string_view> parts) {
  try {
    work();
  } catch (const E& error) {
    const std::string message = error.what();
    if (printable(message, std::numeric_limits<std::size_t>::max()) != message)
      return testing::AssertionFailure() << "the message isn't plain text: " << printable(message, 1000);
    for (const std::string_view part : parts)
      if (message.find(part) == std::string::npos)
        return testing::AssertionFailure() << "no \"" << part << "\" in the message: " << message;
    return testing::AssertionSuccess();
  } catch (const std::exception& error) {
    return testing::AssertionFailure() << "another kind of exception: " << error.what();
  }
  return testing::AssertionFailure() << "it does not fail";
}

}  // namespace upmoe::test
