# A copy of quant/ by itself configures, builds and runs: no LibTorch, no .deps, no other folder of the tree.
file(REMOVE_RECURSE ${FOLDER})
file(COPY ${SOURCE} DESTINATION ${FOLDER})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${FOLDER}/quant -B ${FOLDER}/build -DCMAKE_CXX_COMPILER=${COMPILER}
    -DCMAKE_BUILD_TYPE=Debug
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${FOLDER}/build COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${FOLDER}/build/quant_example OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
message("${output}")
if(NOT output MATCHES "SQNR")
  message(FATAL_ERROR "the program did not run")
endif()
