# nvcc and the rule for what is compiled with it. Sets ASSAY_HAS_CUDA and ASSAY_CUDA_INCLUDE.
#   .deps/cuda                            what `make setup` brings, taken where it is there
#   -DCMAKE_CUDA_COMPILER=… or $CUDACXX   another nvcc, 13.0 or later; else one that is found on the PATH
#   -DASSAY_CUDA=off, or so in the environment when a build folder is configured for the first time: none
# A machine without nvcc builds everything but libassay_cuda.so.
set(ASSAY_CUDA "$ENV{ASSAY_CUDA}" CACHE STRING "off: build without the CUDA kernels")
set(ASSAY_HAS_CUDA OFF)

if(ASSAY_CUDA STREQUAL "off")
  message(STATUS "CUDA kernels: not built, as ASSAY_CUDA=off asks")
  return()
endif()

set(private_nvcc ${CMAKE_SOURCE_DIR}/.deps/cuda/nvidia/cu13/bin/nvcc)
set(asked_for OFF)
if(CMAKE_CUDA_COMPILER AND NOT CMAKE_CUDA_COMPILER STREQUAL private_nvcc)
  set(nvcc ${CMAKE_CUDA_COMPILER})
  set(asked_for ON)
elseif(DEFINED ENV{CUDACXX})
  set(nvcc $ENV{CUDACXX})
  set(asked_for ON)
elseif(EXISTS ${private_nvcc})
  set(nvcc ${private_nvcc})
else()
  find_program(ASSAY_NVCC nvcc)
  set(nvcc ${ASSAY_NVCC})
endif()
if(NOT nvcc)
  message(STATUS "CUDA kernels: not built, since there is no nvcc here (`make setup` brings it)")
  return()
endif()

execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version ERROR_VARIABLE version RESULT_VARIABLE failed)
string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" version "${version}")
if(failed OR CMAKE_MATCH_1 VERSION_LESS 13.0)
  if(asked_for)
    message(FATAL_ERROR "${nvcc}, given as the CUDA compiler, is not nvcc 13.0 or later. Leave it out, or give "
                        "-DASSAY_CUDA=off to build without the CUDA kernels.")
  endif()
  message(STATUS "CUDA kernels: not built, since ${nvcc} is not nvcc 13.0 or later")
  return()
endif()

set(CMAKE_CUDA_COMPILER ${nvcc})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
set(CMAKE_CUDA_ARCHITECTURES 90-real)  # for CMake's own trials; CMake 3.25 cannot read "100f" there
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2")  # assertions stay on, as elsewhere
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 believes that nvcc 13 ends at C++17
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
set(ASSAY_HAS_CUDA ON)
set(ASSAY_CUDA_INCLUDE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
message(STATUS "CUDA kernels: by ${nvcc} ${CMAKE_CUDA_COMPILER_VERSION}")

# For sources of a target that holds kernels. Bits first, as in quant/: no contraction to multiply-add; nvcc's other
# defaults are IEEE (division, square root, subnormals). 80 serves 86 and 89 too, 100f serves 103; every other GPU gets
# its code from the driver, out of 90's PTX. Only an f target has the E2M1 conversion instructions.
function(assay_cuda_target target)
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "80-real;90;100f-real" CUDA_VISIBILITY_PRESET hidden
    CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false --expt-relaxed-constexpr --threads=0
                               -Xcompiler=-Wall,-ffp-contract=off>)
endfunction()
