# What the tree around quant/ gives it otherwise.
set(ASSAY_QUANT_ALONE ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")  # assertions stay on: they mean programmer error
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
add_library(assay_options INTERFACE)
target_compile_features(assay_options INTERFACE cxx_std_20)
# Includes are written "quant/…", so the folder above is the include folder.
target_include_directories(assay_options INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/..)
