#include "runner/executors/command.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>

#include "runner/process.h"

extern char** environ;

namespace assay::runner {

namespace {

constexpr std::size_t kMost = 16 << 20;

// Lives as long as one of its operations is under way.
struct Command : std::enable_shared_from_this<Command> {
  Command(asio::io_context& io, std::string text, std::function<void(CommandResult)> then)
      : in(io), out(io), err(io), end(io), timer(io), input(std::move(text)), done(std::move(then)) {}

  asio::posix::stream_descriptor in, out, err, end;
  asio::steady_timer timer;
  std::string input;
  std::function<void(CommandResult)> done;
  CommandResult result;
  std::array<std::array<char, 65536>, 2> buffers{};
  pid_t pid = 0;
  int open = 3;              // out, err, and the process itself
  bool timed_out = false;

  void closed() {
    if (--open > 0) return;
    timer.cancel();
    if (in.is_open()) in.close();
    if (timed_out) result.code = -1;
    done(std::move(result));
  }

  void read(asio::posix::stream_descriptor& from, std::string& to, std::array<char, 65536>& buffer) {
    auto self = shared_from_this();
    from.async_read_some(asio::buffer(buffer), [this, self, &from, &to, &buffer](const asio::error_code& error, std::size_t n) {
      to.append(buffer.data(), std::min(n, kMost - std::min(kMost, to.size())));
      if (!error) return read(from, to, buffer);
      from.close();
      closed();
    });
  }
};

}  // namespace

void run_command(asio::io_context& io, const std::vector<std::string>& argv, const std::string& input, double seconds,
                 std::function<void(CommandResult)> done) {
  const auto command = std::make_shared<Command>(io, input, std::move(done));
  int ends[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
  Fd theirs[3], ours[3];
  for (int i = 0; i < 3; ++i) {
    if (::pipe2(ends[i], O_CLOEXEC) != 0) {
      command->result.err = std::string("pipe: ") + std::strerror(errno);
      asio::post(io, [command] { command->done(std::move(command->result)); });
      return;
    }
    theirs[i] = Fd(ends[i][i == 0 ? 0 : 1]);
    ours[i] = Fd(ends[i][i == 0 ? 1 : 0]);
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int i = 0; i < 3; ++i) posix_spawn_file_actions_adddup2(&actions, theirs[i].get(), i);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> words = argv;
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const int failed = ::posix_spawnp(&command->pid, pointers[0], &actions, &attributes, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) {
    command->result.err = argv[0] + ": " + std::strerror(failed);
    asio::post(io, [command] { command->done(std::move(command->result)); });
    return;
  }
  command->out.assign(ours[1].release());
  command->err.assign(ours[2].release());
  command->read(command->out, command->result.out, command->buffers[0]);
  command->read(command->err, command->result.err, command->buffers[1]);
  // Its child cannot be anybody else's pid before it is waited for, so this pidfd is its own.
  command->end.assign(static_cast<int>(::syscall(SYS_pidfd_open, command->pid, 0)));
  command->end.async_wait(asio::posix::stream_descriptor::wait_read, [command](const asio::error_code&) {
    int status = 0;
    if (::waitpid(command->pid, &status, 0) == command->pid)
      command->result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    command->end.close();
    command->closed();
  });
  command->timer.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds)));
  command->timer.async_wait([command, name = argv[0]](const asio::error_code& error) {
    if (error || !command->end.is_open()) return;
    command->timed_out = true;
    command->result.err += name + ": no answer in time";
    ::kill(command->pid, SIGKILL);   // our own child that nobody has waited for yet
  });
  if (input.empty()) return;         // its standard input ends at once: `ours[0]` closes here
  command->in.assign(ours[0].release());
  asio::async_write(command->in, asio::buffer(command->input), [command](const asio::error_code&, std::size_t) {
    if (command->in.is_open()) command->in.close();
  });
}

}  // namespace assay::runner
