# Linked PRIVATE by every target of ours. Warnings are errors only where we develop, so that a
# newer compiler never stops a user's build.
add_library(upmoe_warnings INTERFACE)
target_compile_options(upmoe_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wmissing-declarations
  -Wno-missing-field-initializers            # g++ warns where a designated initialiser leaves a default
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)   # g++ 12 is wrong about std::string (GCC bug 105651)
if(UPMOE_DEVELOPER)
  target_compile_options(upmoe_warnings INTERFACE -Werror)
endif()
