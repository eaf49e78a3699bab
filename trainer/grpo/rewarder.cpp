#include "trainer/grpo/rewarder.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "trainer/grpo/stop.h"

extern char** environ;

namespace assay::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string in_quotes(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The file that will be executed; empty: there is none.
fs::path find_program(const std::string& name, const fs::path& folder) {
  const auto runs = [](const fs::path& file) { return fs::is_regular_file(file) && access(file.c_str(), X_OK) == 0; };
  if (name.find('/') != std::string::npos) {
    const fs::path file = fs::absolute(folder / name);
    return runs(file) ? file : fs::path();
  }
  const char* path = std::getenv("PATH");
  std::string rest = path ? path : "";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    const fs::path file = fs::path(rest.substr(0, colon)) / name;
    if (runs(file)) return file;
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  return {};
}

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_.data(), O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  int end(int which) const { return ends_[static_cast<std::size_t>(which)]; }
  void close_end(int which) {
    int& fd = ends_[static_cast<std::size_t>(which)];
    if (fd >= 0) close(fd);
    fd = -1;
  }

 private:
  std::array<int, 2> ends_{-1, -1};
};

// A write to a program that has ended must be an error code here, not the end of the trainer.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before_);
  }
  ~WithoutSigpipe() { sigaction(SIGPIPE, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// A started program, the leader of a process group of its own. Destroyed: the whole group is killed.
class Child {
 public:
  Child(const fs::path& program, const std::vector<std::string>& argv, const fs::path& folder, int in, int out) {
    std::vector<char*> arguments;
    for (const auto& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int signal : {SIGPIPE, SIGINT, SIGTERM}) sigaddset(&defaults, signal);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    const int failed = posix_spawn(&pid_, program.c_str(), &actions, &attributes, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (failed != 0) throw ScorerFailed("reward.argv: " + program.string() + " cannot be started: " + std::strerror(failed));
  }
  ~Child() {
    if (!reaped_) reap();
  }
  Child(const Child&) = delete;

  // Its wait status, once it has ended. What it has left behind is ended with it.
  std::optional<int> ended() {
    siginfo_t info{};
    if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid_)
      return std::nullopt;
    return reap();
  }

 private:
  int reap() {
    kill(-pid_, SIGKILL);  // before waitpid() gives the id free for somebody else
    int status = 0;
    waitpid(pid_, &status, 0);
    reaped_ = true;
    return status;
  }
  pid_t pid_ = -1;
  bool reaped_ = false;
};

std::string line_of(std::size_t index, const ToScore& one, bool evaluation) {
  return nlohmann::json{{"index", index},
                        {"completion", one.completion},
                        {"question", one.problem->question},
                        {"answer", one.problem->gold},
                        {"evaluation", evaluation}}
             .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

std::optional<Outcome> outcome_of(const std::string& word) {
  for (const auto outcome : {Outcome::correct, Outcome::wrong, Outcome::unparsable, Outcome::scorer_error})
    if (word == name(outcome)) return outcome;
  return std::nullopt;
}

// One line of a scorer's output; nullopt: it is not what a scorer may write.
std::optional<Score> parse_line(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto* number = &json;
  if (json.is_object()) {
    const auto found = json.find("score");
    if (found == json.end()) return std::nullopt;
    number = &*found;
  }
  if (!number->is_number() || !std::isfinite(number->get<double>())) return std::nullopt;
  Score score;
  score.score = number->get<double>();
  score.outcome = score.score >= 1 ? Outcome::correct : Outcome::wrong;
  if (json.is_object()) {
    if (const auto outcome = json.find("outcome"); outcome != json.end()) {
      if (!outcome->is_string()) return std::nullopt;
      const auto known = outcome_of(outcome->get<std::string>());
      if (!known) return std::nullopt;
      score.outcome = *known;
    }
    if (const auto answer = json.find("answer"); answer != json.end() && answer->is_string()) score.answer = *answer;
  }
  score.format_right = score.outcome == Outcome::correct || score.outcome == Outcome::wrong;
  score.arithmetic_right = score.outcome == Outcome::correct;
  return score;
}

}  // namespace

Rewarder::Rewarder(const spec::RewardConfig& config, const fs::path& folder)
    : config_(config), built_in_(parse_scorer(config.scorer)), folder_(folder) {
  if (built_in_) return;
  if (config_.argv.empty()) throw BadInput("reward.scorer = \"command\" needs reward.argv, the program and its arguments");
  if (find_program(config_.argv.front(), folder_).empty())
    throw BadInput("reward.argv: there is no program " + in_quotes(config_.argv.front()) +
                   (config_.argv.front().find('/') == std::string::npos ? " in PATH" : " under " + folder_.string()) +
                   " that can be executed");
}

std::vector<Score> Rewarder::score(const std::vector<ToScore>& batch, bool evaluation) const {
  std::vector<Score> scores;
  if (built_in_) {
    for (const auto& one : batch) scores.push_back(train::score(*built_in_, one.completion, one.problem->gold));
    return scores;
  }
  if (batch.empty()) return scores;
  const std::string program = "reward.argv: " + in_quotes(config_.argv.front());
  const auto failed = [&](const std::string& what) { return ScorerFailed(program + " " + what); };

  std::string input;
  for (std::size_t i = 0; i < batch.size(); ++i) input += line_of(i, batch[i], evaluation);
  const WithoutSigpipe guard;
  Pipe in, out;
  Child child(find_program(config_.argv.front(), folder_), config_.argv, folder_, in.end(0), out.end(1));
  in.close_end(0);
  out.close_end(1);
  fcntl(in.end(1), F_SETFL, O_NONBLOCK);
  fcntl(out.end(0), F_SETFL, O_NONBLOCK);

  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(config_.timeout));
  std::string output;
  std::size_t written = 0;
  bool open = true;
  std::optional<int> status;
  // Both pipes at once: a program that answers before it has read everything must not wait for us, nor we for it.
  while (open || !status) {
    check_stop();
    if (Clock::now() >= deadline) {
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%g", config_.timeout);
      throw failed("did not end within reward.timeout = " + std::string(seconds) + " seconds for " +
                   std::to_string(batch.size()) + " completions; it has been killed");
    }
    const bool had_ended = status.has_value();
    std::array<pollfd, 2> ends{pollfd{open ? out.end(0) : -1, POLLIN, 0}, pollfd{in.end(1), POLLOUT, 0}};
    poll(ends.data(), ends.size(), open ? 100 : 5);
    if (in.end(1) >= 0 && ends[1].revents != 0) {
      const auto n = write(in.end(1), input.data() + written, input.size() - written);
      if (n > 0) written += static_cast<std::size_t>(n);
      // A program may answer without reading everything; whether it did well, its exit code and its lines say.
      if ((n < 0 && errno != EAGAIN && errno != EINTR) || written == input.size()) in.close_end(1);
    }
    if (open && ends[0].revents != 0) {
      std::array<char, 1 << 16> buffer;
      const auto n = read(out.end(0), buffer.data(), buffer.size());
      if (n > 0) output.append(buffer.data(), static_cast<std::size_t>(n));
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) open = false;
      if (output.size() > batch.size() * (std::size_t{1} << 16)) throw failed("wrote more than 64 KiB a completion; one line is wanted for each");
    }
    if (!status) status = child.ended();
    // Something that it left behind outside of its group may hold the pipe open: once it has ended, what is there counts.
    if (had_ended && ends[0].revents == 0) open = false;
  }
  if (WIFSIGNALED(*status)) throw failed(std::string("was ended by signal ") + std::to_string(WTERMSIG(*status)) + " (" + strsignal(WTERMSIG(*status)) + ")");
  if (WEXITSTATUS(*status) != 0)
    throw failed("ended with exit code " + std::to_string(WEXITSTATUS(*status)) + "; its stderr says why");
  return parse(output, batch.size());
}

std::vector<Score> Rewarder::parse(const std::string& output, std::size_t count) const {
  const std::string program = "reward.argv: " + in_quotes(config_.argv.front());
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < output.size();) {
    const auto end = std::min(output.find('\n', at), output.size());
    lines.push_back(output.substr(at, end - at));
    at = end + 1;
  }
  if (lines.size() != count)
    throw ScorerFailed(program + " wrote " + std::to_string(lines.size()) + " lines for " + std::to_string(count) +
                       " completions; one line is wanted for each, in their order");
  std::vector<Score> scores;
  std::size_t bad = 0, first_bad = 0;
  for (const auto& line : lines) {
    auto score = parse_line(line);
    if (!score) {
      if (bad++ == 0) first_bad = scores.size();
      score.emplace();
      score->outcome = Outcome::scorer_error;
    }
    scores.push_back(std::move(*score));
  }
  if (bad == count)
    throw ScorerFailed(program + " wrote no line that is a score, the first is " + in_quotes(lines[first_bad].substr(0, 80)) +
                       "; wanted a number or {\"score\": number}");
  return scores;
}

}  // namespace assay::train
