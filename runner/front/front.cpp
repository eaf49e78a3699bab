// assay, as it is installed: a small static program in front of assay-cli, which is the whole of it. Most commands it only
// executes. `assay add` it hands to a process of the same program that is warm (warm.cpp): one that the daemon keeps, with
// code, libraries and memory in place, which is most of what a command takes.
//
// Whatever is not surely the same there, and whatever is not surely a success, is done by assay-cli itself, with the same
// arguments, in this very process: no warm process, another file of assay-cli, another user, group or power, another
// namespace of users or mounts, root or host name, another set of processors, another data folder, a command line, series or
// request that is refused. So there is one voice for all errors, and one program that has to be right about them.
//
// What of a process matters to `add`, and where it comes from:
//   arguments, environment, working directory (as a descriptor, so that a renamed or removed one is the same), umask: handed
//     over. The warm process takes them on for that one command.
//   standard input is not read. What is printed comes back here and is written here: a full standard output, a
//     pipe without reader (SIGPIPE), a terminal or a file behave as they do with assay-cli (a closed one is its own).
//   Ctrl-C and other signals end this process at once, as they end assay-cli. Until the daemon has been asked, the warm
//     process sees that and drops the command; afterwards the run is there, as it is when assay-cli is killed behind its
//     request.
//   nice value, control group, limits of time and memory: the work is done with those of the daemon. What is recorded of
//     them: nothing.
//   no_new_privs, seccomp: keep a process from calls that `add` does not make.
// If the connection breaks before the whole command was read (ECONNRESET), assay-cli does it; if it breaks behind that, the
// run may have been added, and the sentence is the one that assay-cli has for a daemon that goes away.
//
// Linked with musl: it is to begin and end in the time of an empty program.
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <initializer_list>

#include "runner/front/handover.h"

#ifndef ASSAY_REAL_PROGRAM
#define ASSAY_REAL_PROGRAM "assay-cli"
#endif

using namespace assay::runner::front;

extern char** environ;

namespace {

constexpr std::size_t kLongestPath = 4096;

char program[kLongestPath + 32];                            // assay-cli, beside this
char text[kLongestText];                                    // what is handed over, then what comes back

void say(const char* words) {
  [[maybe_unused]] const auto n = ::write(2, words, std::strlen(words));
}

// PROGRAM, from where this file is: as it was executed, where that is the file itself, and else as /proc says, which costs ten
// times as much.
bool find_program() {
  const auto* name = reinterpret_cast<const char*>(::getauxval(AT_EXECFN));
  const bool named = name != nullptr && std::strlen(name) < kLongestPath;
  struct stat status;
  ssize_t length = 0;
  if (!named || ::lstat(name, &status) != 0 || !S_ISREG(status.st_mode))
    length = ::readlink("/proc/self/exe", program, kLongestPath);
  if (length <= 0) {
    if (!named) return false;
    std::strcpy(program, name);
    length = static_cast<ssize_t>(std::strlen(name));
  }
  while (length > 0 && program[length - 1] != '/') --length;
  std::strcpy(program + length, ASSAY_REAL_PROGRAM);
  return true;
}

[[noreturn]] void become_program(char** argv) {
  ::execv(program, argv);
  const char* why = errno == ENOENT ? "it is not there" : errno == EACCES ? "it may not be executed" : "the system refuses it";
  say("assay: ");
  say(program);
  say(": cannot be executed (");
  say(why);
  say("); build it (make build), and keep it beside assay\n");
  ::_exit(1);
}

bool put(char*& end, const char* limit, const char* words) {
  const std::size_t length = std::strlen(words);
  if (end + length + 1 > limit) return false;
  std::memcpy(end, words, length + 1);
  end += length;
  return true;
}

// The warm process's socket, as user_paths() of runner/paths.h and warm.cpp have it. That it is the one of the data folder
// meant here the warm process looks at: two data folders can share one runtime folder.
bool find_socket(sockaddr_un& address) {
  address.sun_family = AF_UNIX;
  char* end = address.sun_path;
  const char* const limit = address.sun_path + sizeof address.sun_path;
  const auto value = [](const char* name) {
    const char* found = std::getenv(name);
    return found != nullptr && *found != '\0' ? found : nullptr;
  };
  const char* folder = value("ASSAY_HOME");
  if (folder != nullptr) {
    return put(end, limit, folder) && put(end, limit, "/state/socket") && put(end, limit, kSuffix);
  }
  struct stat status;
  if ((folder = value("XDG_RUNTIME_DIR")) != nullptr && *folder == '/' && ::stat(folder, &status) == 0 && S_ISDIR(status.st_mode))
    return put(end, limit, folder) && put(end, limit, "/assay/socket") && put(end, limit, kSuffix);
  if ((folder = value("XDG_STATE_HOME")) != nullptr && *folder == '/')
    return put(end, limit, folder) && put(end, limit, "/assay/socket") && put(end, limit, kSuffix);
  if ((folder = value("HOME")) != nullptr && *folder == '/')
    return put(end, limit, folder) && put(end, limit, "/.local/state/assay/socket") && put(end, limit, kSuffix);
  return false;
}

int connect_to_warm() {
  sockaddr_un address;
  if (!find_socket(address)) return -1;
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  ucred peer;
  socklen_t size = sizeof peer;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid())
    return fd;
  ::close(fd);
  return -1;
}

// The connection on which the command was handed over; -1: it was not.
int hand_over(int argc, char** argv) {
  Handover head;
  std::memset(&head, 0, sizeof head);
  if (!look_at_self(program, head.same)) return -1;
  head.form = kForm;
  head.argc = static_cast<std::uint32_t>(argc);
  char* end = text;
  const auto add = [&](const char* word) {
    if (!put(end, text + sizeof text, word)) return false;
    ++end;                                                  // its zero
    ++head.words;
    return true;
  };
  for (int i = 0; i < argc; ++i)
    if (!add(argv[i])) return -1;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!add(*entry)) return -1;
  head.bytes = static_cast<std::uint32_t>(end - text);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  head.umask = mask;
  const int folder = ::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return -1;

  iovec pieces[2] = {{&head, sizeof head}, {text, head.bytes}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof folder)];
  std::memset(control, 0, sizeof control);
  msghdr message;
  std::memset(&message, 0, sizeof message);
  message.msg_iov = pieces;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof folder);
  std::memcpy(CMSG_DATA(part), &folder, sizeof folder);
  // Not before all is ready: the other side wakes up once. Whole or not at all: of a part nothing is ever done.
  const int socket = connect_to_warm();
  if (socket >= 0 && ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof head + head.bytes))
    return socket;                                          // the folder is closed by the end of this process
  ::close(folder);
  if (socket >= 0) ::close(socket);
  return -1;
}

// 1: that many bytes are there; 0: the other end has gone; -1: it went before it had read all.
int receive(int socket, void* to, std::size_t size) {
  for (std::size_t have = 0; have < size;) {
    const ssize_t n = ::recv(socket, static_cast<char*>(to) + have, size - have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == ECONNRESET && have == 0) return -1;
    if (n <= 0) return 0;
    have += static_cast<std::size_t>(n);
  }
  return 1;
}

void write_out(int fd, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t n = ::write(fd, text + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;                                     // as when assay-cli ends: the run is added, whoever reads of it
    done += static_cast<std::size_t>(n);
  }
}

// The exit code, or -1: it is assay-cli's to do.
int add(int argc, char** argv) {
  for (const int fd : {0, 1, 2})
    if (::fcntl(fd, F_GETFD) < 0) return -1;                // what is opened next would take its place
  const int socket = hand_over(argc, argv);
  if (socket < 0) return -1;
  Answer answer;
  const int heard = receive(socket, &answer, sizeof answer);
  if (heard < 0 || (heard > 0 && (answer.form != kForm || answer.done == 0))) {
    ::close(socket);
    return -1;
  }
  for (const int fd : {1, 2}) {
    std::size_t left = heard == 0 ? 0 : fd == 1 ? answer.out : answer.err;
    while (left > 0) {
      const std::size_t size = left < sizeof text ? left : sizeof text;
      if (receive(socket, text, size) != 1) break;
      write_out(fd, size);
      left -= size;
    }
  }
  if (heard > 0) return static_cast<int>(answer.code);
  say("assay: daemon: it went away before it answered; type the command again, it will be started\n");
  return 7;
}

}  // namespace

int main(int argc, char** argv) {
  if (!find_program()) {
    say("assay: environment: neither /proc nor the way it was started says where it lies; start it by its path\n");
    return 1;
  }
  if (argc > 1 && std::strcmp(argv[1], "add") == 0)
    if (const int code = add(argc, argv); code >= 0) ::_exit(code);
  become_program(argv);
}
