# Every library the project uses, as an imported target. A missing one is named with its Debian package.
# Nothing is downloaded here: `make setup` does that.

set(missing_packages "")
function(assay_need found package what)
  if(NOT ${found})
    set(missing_packages "${missing_packages};${package} (${what})" PARENT_SCOPE)
  endif()
endfunction()

# Header-only or plain C libraries: header, optional static library.
function(assay_import name header library package)
  find_path(${name}_INCLUDE ${header})
  set(found ${${name}_INCLUDE})
  add_library(${name} INTERFACE IMPORTED GLOBAL)
  if(found)
    target_include_directories(${name} SYSTEM INTERFACE ${${name}_INCLUDE})
  endif()
  if(library)
    if(${name}_LIBRARY AND NOT ${name}_LIBRARY MATCHES "/${library}$")
      unset(${name}_LIBRARY CACHE)   # of a build folder that was configured when it was another file of it
    endif()
    find_library(${name}_LIBRARY ${library})
    if(${name}_LIBRARY)
      target_link_libraries(${name} INTERFACE ${${name}_LIBRARY})
    else()
      set(found "")
    endif()
  endif()
  assay_need(found ${package} ${header})
  set(missing_packages "${missing_packages}" PARENT_SCOPE)
endfunction()

# The file that a program asks for when it opens a shared library by itself: what the linker would have noted.
function(assay_soname variable library)
  file(REAL_PATH ${library} file)
  execute_process(COMMAND ${CMAKE_OBJDUMP} -p ${file} OUTPUT_VARIABLE header)
  string(REGEX MATCH "SONAME +([^\n ]+)" soname "${header}")
  set(${variable} ${CMAKE_MATCH_1} PARENT_SCOPE)
endfunction()

# Static where assay-train needs it: the same binary then runs on a machine that has only torch. And where assay does: each
# shared library costs every command of it a third of a millisecond before it begins.
assay_import(assay::json nlohmann/json.hpp "" nlohmann-json3-dev)
assay_import(assay::toml toml++/toml.h "" libtomlplusplus-dev)
assay_import(assay::cli CLI/CLI.hpp "" libcli11-dev)
assay_import(assay::asio asio.hpp "" libasio-dev)
assay_import(assay::httplib httplib.h libcpp-httplib.so libcpp-httplib-dev)
assay_import(assay::boost_math boost/math/distributions/beta.hpp "" libboost-math-dev)
assay_import(assay::spdlog spdlog/spdlog.h "" libspdlog-dev)
assay_import(assay::archive archive.h libarchive.so libarchive-dev)
assay_import(assay::sqlite sqlite3.h libsqlite3.a libsqlite3-dev)
assay_import(assay::sqlitecpp SQLiteCpp/SQLiteCpp.h libSQLiteCpp.a libsqlitecpp-dev)
assay_import(assay::git2 git2.h libgit2.so libgit2-dev)
assay_import(assay::pcre2 pcre2.h libpcre2-8.a libpcre2-dev)
assay_import(assay::utf8proc utf8proc.h libutf8proc.a libutf8proc-dev)
assay_import(OpenSSL::Crypto openssl/evp.h libcrypto.a libssl-dev)
target_link_libraries(assay::sqlitecpp INTERFACE assay::sqlite)
# As Debian's library was compiled: the layout of its classes hangs on it.
target_compile_definitions(assay::httplib INTERFACE CPPHTTPLIB_OPENSSL_SUPPORT CPPHTTPLIB_ZLIB_SUPPORT CPPHTTPLIB_BROTLI_SUPPORT)
# toml++ 3.3 asserts what the author of a file may get wrong (a line "[" ends the program) just before it reports it.
target_compile_options(assay::toml INTERFACE "-DTOML_ASSERT(expr)=static_cast<void>(0)")
target_compile_definitions(assay::utf8proc INTERFACE UTF8PROC_STATIC)
target_compile_definitions(assay::spdlog INTERFACE SPDLOG_FMT_EXTERNAL FMT_HEADER_ONLY)
target_link_libraries(assay::sqlite INTERFACE ${CMAKE_DL_LIBS} m)
find_package(Threads REQUIRED)
# By its flag, not by find_package(): one libgomp.so.1 serves us, oneDNN and LibTorch, and which file it is, LibTorch's
# folder or the system's, must not matter to CMake.
add_library(assay::openmp INTERFACE IMPORTED GLOBAL)
target_compile_options(assay::openmp INTERFACE -fopenmp)
target_link_options(assay::openmp INTERFACE -fopenmp)

# oneDNN is a shared library only, and needs OpenCL's loader besides. Both are copied to lib/ of the build tree, and
# programs look for them beside themselves and in ../lib: bin/ and lib/ together run on a machine without the packages.
# A library's own needs are not looked for by the program's run path, hence OpenCL is linked by name, used or not.
assay_import(assay::dnnl oneapi/dnnl/dnnl.hpp libdnnl.so libdnnl-dev)
set(dnnl assay::dnnl_LIBRARY)
find_library(ASSAY_OPENCL libOpenCL.so.1)
assay_need(ASSAY_OPENCL ocl-icd-libopencl1 "libOpenCL.so.1")
if(${dnnl} AND ASSAY_OPENCL)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
  foreach(library ${${dnnl}} ${ASSAY_OPENCL})
    file(REAL_PATH ${library} file)
    assay_soname(soname ${library})
    file(COPY_FILE ${file} ${CMAKE_BINARY_DIR}/lib/${soname} ONLY_IF_DIFFERENT)
  endforeach()
  target_link_libraries(assay::dnnl INTERFACE -Wl,--push-state,--no-as-needed ${ASSAY_OPENCL} -Wl,--pop-state)
  set(CMAKE_BUILD_RPATH "$ORIGIN;$ORIGIN/../lib")
endif()

# The page of `assay serve` has uPlot built in; `make setup` brings it.
set(ASSAY_WEB ${CMAKE_SOURCE_DIR}/.deps/web CACHE PATH "folder that holds uplot/, an unpacked npm package")
if(NOT EXISTS ${ASSAY_WEB}/uplot/dist/uPlot.esm.js)
  message(FATAL_ERROR "uPlot is not in ${ASSAY_WEB}: run `make setup`, or give the folder that holds uplot/ as "
                      "-DASSAY_WEB=/path.")
endif()

# Only for bench/.
find_path(ASSAY_BENCHMARK_INCLUDE benchmark/benchmark.h)
find_library(ASSAY_BENCHMARK_LIBRARY libbenchmark.so)

find_path(CATCH2_V2 catch2/catch.hpp)
find_path(CATCH2_V3 catch2/catch_all.hpp)
set(found ${CATCH2_V2} ${CATCH2_V3})
assay_need(found catch2 "catch2/catch.hpp")

# LibTorch: the private copy of `make setup`, or -DASSAY_TORCH=… / $ASSAY_TORCH, the site-packages folder that holds
# torch/. Imported by hand: the shipped TorchConfig.cmake insists on a full CUDA toolkit.
if(NOT ASSAY_TORCH)
  if(DEFINED ENV{ASSAY_TORCH})
    set(ASSAY_TORCH $ENV{ASSAY_TORCH})
  else()
    set(ASSAY_TORCH ${CMAKE_SOURCE_DIR}/.deps/torch)
  endif()
endif()
set(torch_lib ${ASSAY_TORCH}/torch/lib)
if(NOT EXISTS ${torch_lib}/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch is not in ${ASSAY_TORCH}: run `make setup`, or give the folder that holds torch/ as "
                      "-DASSAY_TORCH=/path/to/site-packages.")
endif()
add_library(torch INTERFACE IMPORTED GLOBAL)
target_include_directories(torch SYSTEM INTERFACE
  ${ASSAY_TORCH}/torch/include ${ASSAY_TORCH}/torch/include/torch/csrc/api/include)
target_link_libraries(torch INTERFACE ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so)
# LibTorch's companions (libgomp, libcudart, libcupti) are found by its own run path.
target_link_options(torch INTERFACE LINKER:--allow-shlib-undefined)

if(missing_packages)
  list(REMOVE_DUPLICATES missing_packages)
  set(text "")
  set(line "")
  foreach(entry IN LISTS missing_packages)
    if(entry)
      string(APPEND text "\n  ${entry}")
      string(REGEX REPLACE " .*" "" package "${entry}")
      string(APPEND line " ${package}")
    endif()
  endforeach()
  message(FATAL_ERROR "These Debian packages are missing:${text}\nRun `make setup`, or type: sudo apt-get install${line}")
endif()
