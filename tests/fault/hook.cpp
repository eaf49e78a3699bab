// What answers to support/fault_point.h in the test program assay_faults, and in nothing else: a kill -9 of the process
// that passes a named place, by chance. $ASSAY_FAULTS is a folder; while it holds a file `armed` with "SEED PERMILLE",
// each passing dies with that chance, after the place's name was added to the file `hits` there.
//
// Places: "file: synced", "file: renamed" (each file that appears atomically: exit.json, supervisor.json, kill.json, …),
// "registry: before commit", "registry: committed", "submit: folder half filled", "client: has asked",
// "daemon: start recorded", "ingest: piece taken in", "supervisor: has the lock", "supervisor: trainer started",
// "supervisor: trainer ended", "supervisor: end recorded".
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

std::uint64_t mixed(std::uint64_t x) {  // splitmix64's last steps (Steele, Lea and Flood 2014)
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

extern "C" [[gnu::visibility("hidden")]] void assay_fault_hook(const char* point) {
  static const char* const folder = std::getenv("ASSAY_FAULTS");
  static std::uint64_t passed = 0;
  if (folder == nullptr) return;
  const int armed = ::open((std::string(folder) + "/armed").c_str(), O_RDONLY | O_CLOEXEC);
  if (armed < 0) return;
  char text[64] = {};
  const bool read = ::read(armed, text, sizeof text - 1) > 0;
  ::close(armed);
  unsigned long long seed = 0, permille = 0;
  if (!read || std::sscanf(text, "%llu %llu", &seed, &permille) != 2) return;
  std::uint64_t hash = mixed(seed ^ mixed(static_cast<std::uint64_t>(::getpid()) * 1'000'003 + ++passed));
  for (const char* c = point; *c != '\0'; ++c) hash = mixed(hash ^ static_cast<unsigned char>(*c));
  if (hash % 1000 >= permille) return;
  const std::string line = std::string(point) + "\n";
  const int hits = ::open((std::string(folder) + "/hits").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  [[maybe_unused]] const auto n = ::write(hits, line.data(), line.size());
  ::kill(::getpid(), SIGKILL);
}
