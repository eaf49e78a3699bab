#include "runner/front/warm.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/front/answer.h"
#include "runner/front/handover.h"
#include "runner/passing.h"
#include "runner/paths.h"
#include "runner/process.h"
#include "runner/verbs/add.h"
#include "runner/view.h"
#include "support/looks.h"

namespace assay::runner {
namespace {

using namespace front;

constexpr int kIdle = 600'000;         // ms without a command, after which it ends
constexpr timeval kPatience{1, 0};     // for a command that was begun to be handed over: it was sent in one piece

// What is done here must be done here to its end: this is thrown for everything else, and assay-cli does it.
struct StepAside {};

Fd listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw UserError(kDaemon, path + ": is too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t mask = ::umask(0177);
  ::unlink(path.c_str());
  const bool bound = socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const int error = errno;
  ::umask(mask);
  if (!bound || ::listen(socket.get(), 128) != 0) throw UserError(kDaemon, path + ": " + std::strerror(bound ? errno : error));
  return socket;
}

// A command as it was handed over.
struct Command {
  Handover head{};
  Fd folder;
  std::string text;
  std::vector<char*> words;            // argc arguments, a null, the environment, a null; in `text`

  char** argv() { return words.data(); }
  char** environment() { return words.data() + head.argc + 1; }
};

// Nothing when it is not whole: whoever sent it does it himself.
std::optional<Command> receive(int socket) {
  Command command;
  const ssize_t n = receive_with(socket, &command.head, sizeof command.head, MSG_WAITALL, command.folder);
  const Handover& head = command.head;
  if (n != sizeof head || !command.folder || head.form != kForm || head.bytes > kLongestText || head.argc > head.words ||
      head.words > head.bytes)
    return std::nullopt;
  command.text.resize(head.bytes);
  for (std::size_t have = 0; have < command.text.size();) {
    const ssize_t got = ::recv(socket, command.text.data() + have, command.text.size() - have, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::nullopt;
    have += static_cast<std::size_t>(got);
  }
  std::size_t at = 0;
  for (std::uint32_t word = 0; word < head.words; ++word) {
    const std::size_t end = command.text.find('\0', at);
    if (end == std::string::npos) return std::nullopt;
    if (word == head.argc) command.words.push_back(nullptr);
    command.words.push_back(command.text.data() + at);
    at = end + 1;
  }
  if (head.words == head.argc) command.words.push_back(nullptr);
  command.words.push_back(nullptr);
  return command;
}

// Takes on what a command was started with, and gives it back.
class Guise {
 public:
  explicit Guise(Command& command) : mask_(::umask(command.head.umask)), environment_(environ) {
    environ = command.environment();
    moved_ = ::fchdir(command.folder.get()) == 0;
  }
  ~Guise() {
    environ = environment_;
    ::umask(mask_);
    if (::chdir("/") != 0) std::abort();
  }
  bool moved() const { return moved_; }

 private:
  mode_t mask_;
  char** environment_;
  bool moved_ = false;
};

// libgit2 looks these up once a process, to find the user's configuration of git.
std::string places_of_git() {
  std::string text;
  for (const char* name : {"HOME", "XDG_CONFIG_HOME"}) {
    const char* value = std::getenv(name);
    text += value != nullptr ? std::string("=") + value + "\n" : "\n";
  }
  return text;
}

// A command that was carried out, to be carried out again without all that led to it: while everything that preparing it
// looked at is as it was.
struct Remembered {
  std::string command, folder, machine;   // arguments and environment; where it was given; facts of the machine
  AddOptions options;
  Prepared prepared;
  std::int64_t kept = 0;                  // its number at the daemon, where that has kept it
  support::Looks looks;
};
constexpr std::size_t kRemembered = 8;
constexpr std::size_t kMostRuns = 100;        // of a command that is remembered: it is memory for ten minutes

class Warm {
 public:
  Warm(Paths paths, Client client, Sameness same) : paths_(std::move(paths)), client_(std::move(client)), same_(same) {}

  // False when the daemon has gone.
  bool serve(const Fd& connection) {
    ::setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != ::geteuid()) return true;
    auto command = receive(connection.get());
    std::optional<Guise> guise;           // taken off when the answer is on its way
    bool done = false;
    if (command && look_at_host(same_) && std::memcmp(&command->head.same, &same_, sizeof same_) == 0) {
      guise.emplace(*command);
      done = guise->moved() && carry_out(*command, connection.get());
    }
    if (!done) answer_step_aside(connection.get());
    return !gone_;
  }

  // The daemon says something: that a submission handed on to it was not done, which assay-cli does meanwhile. It is sent
  // whole the next time. False when the daemon has gone.
  bool heed() {
    while (const auto notice = client_.notice()) {
      if (!notice->is_object()) return false;
      const std::int64_t number = notice->value("stepped_aside", std::int64_t{0});
      for (Remembered& run : memory_)
        if (run.kept == number) run.kept = 0;
      count(-1);
    }
    return !client_.closed();
  }

 private:
  // False where nothing was done: assay-cli does it, and says what is wrong.
  bool carry_out(Command& command, int connection) {
    std::string out;
    try {
      if (places_of_git() != places_of_git_) return false;
      const Paths meant = user_paths();
      if (meant.data != paths_.data || meant.state != paths_.state || meant.socket != paths_.socket) return false;
      Remembered& run = remembered(command);
      // Of several series the first may be taken and the second refused; then the whole must not be done again.
      if (run.options.doctor || run.options.strict || run.prepared.submissions.size() != 1) return false;
      char byte;
      if (::recv(connection, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) return false;   // Ctrl-C
      try {
        const bool lasts = !run.looks.spoiled() && run.prepared.labels.size() <= kMostRuns;
        if (lasts && run.kept != 0) {
          count(+1);
          hand_on(client_, run.prepared, run.kept, run.options.json, connection);
          ::sched_yield();                                  // the daemon goes first, where both are on one processor
          return true;
        }
        out = added(run.options.json, submit_prepared(client_, run.prepared, lasts ? &run.kept : nullptr), run.prepared.labels);
        if (!lasts) memory_.pop_front();
      } catch (const UserError& error) {
        if (error.code() != kDaemon) return false;          // refused: nothing was done
        // It went away, and may have recorded the runs before.
        gone_ = true;
        answer_done(connection, error.code(), "", std::string("assay: ") + error.what() + "\n");
        return true;
      }
    } catch (const std::exception&) {
      return false;
    }
    count(+1);
    // What does not fit is text of thousands of runs; whoever stops reading it has gone.
    answer_done(connection, kOk, out, "");
    return true;
  }

  // For ps: how many it has carried out.
  void count(int more) { ::prctl(PR_SET_NAME, ("assay-warm " + std::to_string(done_ += more)).c_str()); }

  // As it is to be asked of the daemon now; the first of memory_.
  Remembered& remembered(Command& command) {
    read_machine(kept_);
    std::string words = std::to_string(command.head.argc) + " " + command.text, folder = std::filesystem::current_path().string();
    const auto known = std::find_if(memory_.begin(), memory_.end(), [&](const Remembered& run) {
      return run.command == words && run.folder == folder;
    });
    if (known != memory_.end()) {
      memory_.splice(memory_.begin(), memory_, known);
      if (known->machine == kept_.environment && known->looks.same()) {
        renew(known->prepared);
        return *known;
      }
      memory_.pop_front();
    }
    Remembered run;
    run.options = read_add(static_cast<int>(command.head.argc), command.argv());
    if (!run.options.doctor && !run.options.strict) {       // that takes minutes, and speaks meanwhile
      const support::Looks::Recording recording(&run.looks);
      run.prepared = prepare(paths_, run.options, &kept_);
    }
    run.command = std::move(words);
    run.folder = std::move(folder);
    run.machine = kept_.environment;
    memory_.push_front(std::move(run));
    if (memory_.size() > kRemembered) memory_.pop_back();
    return memory_.front();
  }

  Paths paths_;
  Client client_;
  Sameness same_;
  const std::string places_of_git_ = places_of_git();
  Kept kept_;
  std::list<Remembered> memory_;
  bool gone_ = false;
  int done_ = 0;
};

}  // namespace

int serve_adds() {
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "assay-warm 0");
  ::mallopt(M_TRIM_THRESHOLD, 4 << 20);                     // what one command needed is kept for the next
  ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
  const Paths paths = user_paths();
  Sameness same;
  if (!look_at_self("/proc/self/exe", same)) throw UserError(kFault, "/proc: does not show this process");
  if (::chdir("/") != 0) throw UserError(kFault, "/: cannot be entered");
  auto client = Client::connect_to_running(paths);
  if (!client) throw UserError(kDaemon, "daemon: none runs, and only a daemon starts this");
  const int daemon = client->fd();
  const Fd listening = listen_at(paths.socket.string() + kSuffix);
  Warm warm(paths, std::move(*client), same);
  for (;;) {
    pollfd ready[2] = {{listening.get(), POLLIN, 0}, {daemon, POLLIN, 0}};
    const int n = ::poll(ready, 2, kIdle);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || (ready[1].revents != 0 && !warm.heed())) return kOk;
    if (ready[0].revents == 0) continue;
    const Fd connection(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection && !warm.serve(connection)) return kOk;
  }
}

}  // namespace assay::runner
