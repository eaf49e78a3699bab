# The program in README.md, built as it is printed there: target quant_example.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS README.md)
file(READ README.md readme)
if(NOT readme MATCHES "```cpp\n([^`]*)```")
  message(FATAL_ERROR "quant/README.md has no C++ program")
endif()
file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/readme_example.cpp CONTENT "${CMAKE_MATCH_1}")
add_executable(quant_example ${CMAKE_CURRENT_BINARY_DIR}/readme_example.cpp)
target_link_libraries(quant_example PRIVATE assay_quant)
