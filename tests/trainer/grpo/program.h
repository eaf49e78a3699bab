// assay-train as a child process.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/trainer/grpo/tiny_run.h"

namespace assay::test {

struct Result {
  int code = -1;  // exit code; 128 + signal when it was ended by one
  std::string out, err;
};

class Program {
 public:
  Program(const std::string& name, const std::vector<std::string>& arguments, const std::string& input = "",
          const std::string& file = "assay-train")
      : folder_(fresh_folder("output-" + name)) {
    write_text(folder_ / "in", input);
    const std::string binary = std::string(ASSAY_BINARY_DIR) + "/bin/" + file;
    std::vector<char*> argv{const_cast<char*>(binary.c_str())};
    for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(open((folder_ / "in").c_str(), O_RDONLY), 0);
      dup2(open((folder_ / "out").c_str(), O_WRONLY | O_CREAT, 0644), 1);
      dup2(open((folder_ / "err").c_str(), O_WRONLY | O_CREAT, 0644), 2);
      execv(binary.c_str(), argv.data());
      _exit(127);
    }
    REQUIRE(pid_ > 0);
  }
  pid_t pid() const { return pid_; }
  Result wait() {
    int status = 0;
    REQUIRE(waitpid(pid_, &status, 0) == pid_);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text(folder_ / "out"), read_text(folder_ / "err")};
  }

 private:
  fs::path folder_;
  pid_t pid_ = -1;
};

inline Result run_program(const std::string& name, const std::vector<std::string>& arguments, const std::string& input = "") {
  return Program(name, arguments, input).wait();
}

inline bool mpi_is_here() {
  const bool here = fs::exists(fs::path(ASSAY_BINARY_DIR) / "bin/libassay_mpi.so") && std::system("command -v mpirun >/dev/null") == 0;
  if (!here) report_skipped("several ranks", "there is no libassay_mpi.so or no mpirun (libopenmpi-dev, openmpi-bin)");
  return here;
}

inline std::size_t lines_in(const std::string& text) { return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')); }

}  // namespace assay::test
