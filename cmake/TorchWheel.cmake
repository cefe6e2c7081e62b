# Defines torch::wheel for the torch package of a Python environment; defines nothing when there is none.
# Not find_package(Torch): for a CUDA wheel that stops where no CUDA toolkit is, and it looks for MKL and protobuf.
# TORCH_DIR (.../site-packages/torch) may be given; otherwise .venv, then the Python that CMake finds.
if(NOT TORCH_DIR)
  file(GLOB _torch_versions "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch/version.py")
  if(NOT _torch_versions)
    find_package(Python3 COMPONENTS Interpreter QUIET)
    if(Python3_FOUND)  # find_spec does not import torch, which would take seconds
      execute_process(
        COMMAND "${Python3_EXECUTABLE}" -P -c "import importlib.util as u; print(u.find_spec('torch').origin)"
        OUTPUT_VARIABLE _torch_versions OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endif()
  if(_torch_versions)
    list(GET _torch_versions 0 _torch_version_file)
    cmake_path(GET _torch_version_file PARENT_PATH TORCH_DIR)
  endif()
endif()

# Not cached: a wheel that is installed later is found by the next configuration.
unset(_torch_version)
if(TORCH_DIR AND EXISTS "${TORCH_DIR}/version.py")
  file(STRINGS "${TORCH_DIR}/version.py" _torch_version REGEX "^__version__")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+[^'\"]*" _torch_version "${_torch_version}")
endif()
if(NOT _torch_version)
  message(STATUS "The engine is not built: no torch here. `make build` installs it, or: pip install torch==2.13.0")
elseif(_torch_version VERSION_LESS 2.11)
  message(STATUS "The engine is not built: torch ${_torch_version} at ${TORCH_DIR} is older than 2.11. `make build` installs 2.13")
else()
  message(STATUS "torch ${_torch_version} at ${TORCH_DIR}")
  add_library(torch::wheel INTERFACE IMPORTED)
  # The wheel also has headers of fmt, of another version than the library that the core links: ours go first.
  get_target_property(_fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/fmt_first")
  file(CREATE_LINK "${_fmt_include}/fmt" "${PROJECT_BINARY_DIR}/fmt_first/fmt" SYMBOLIC)
  target_include_directories(torch::wheel SYSTEM INTERFACE "${PROJECT_BINARY_DIR}/fmt_first"
    "${TORCH_DIR}/include" "${TORCH_DIR}/include/torch/csrc/api/include")
  target_compile_features(torch::wheel INTERFACE cxx_std_20)
  target_compile_definitions(torch::wheel INTERFACE AT_PER_OPERATOR_HEADERS UPMOE_TORCH_VERSION="${_torch_version}")
  # at::parallel_for is a template with OpenMP in it; the runtime is the one that the wheel brings along.
  file(GLOB _torch_gomp "${TORCH_DIR}/lib/libgomp*.so*" "${TORCH_DIR}/../torch.libs/libgomp*.so*")
  list(GET _torch_gomp 0 _torch_gomp)
  include(CheckIncludeFileCXX)
  set(CMAKE_REQUIRED_FLAGS -fopenmp)
  check_include_file_cxx(omp.h UPMOE_HAS_OPENMP)
  unset(CMAKE_REQUIRED_FLAGS)
  if(UPMOE_HAS_OPENMP)
    target_compile_options(torch::wheel INTERFACE -fopenmp)
  else()
    message(WARNING "${CMAKE_CXX_COMPILER_ID} has no omp.h: our kernels will use one thread")
  endif()
  # libtorch.so has no symbol that we use: it has to be kept by force, or a CUDA wheel's kernels are never loaded.
  target_link_options(torch::wheel INTERFACE "LINKER:--push-state,--no-as-needed,${TORCH_DIR}/lib/libtorch.so,--pop-state")
  target_link_libraries(torch::wheel INTERFACE "${TORCH_DIR}/lib/libtorch_cpu.so" "${TORCH_DIR}/lib/libc10.so" "${_torch_gomp}")
endif()
