// The few functions of the C library that front.cpp calls, and its entry, for x86-64 Linux: under the names and types of
// the system's own headers, so that front.cpp does not know. Linked instead of libc, whose start (25 page faults, 23 of
// them its own) is as long as everything else that happens between an empty program's start and its end. A function that
// is missing here is an error of the linker. Elsewhere the front is linked with libc (CMakeLists.txt).
//
// Differences to libc that nothing in front.cpp meets: errno is one for the process (there is one thread), nothing is a
// cancellation point, and memory, locale and standard streams are not there.
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <cstring>

#ifndef __x86_64__
#error "system calls of x86-64 only: link front.cpp with libc"
#endif

int main(int argc, char** argv);

extern "C" {

char** environ;

}  // extern "C"

namespace {

int error_number;
unsigned long* auxiliary;                                   // pairs of type and value; type 0 is the last

// Linux's calling convention: number and result in rax, up to six arguments, rcx and r11 lost.
long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  if (result >= 0 || result < -4095) return result;
  error_number = static_cast<int>(-result);
  return -1;
}

long address(const void* pointer) { return reinterpret_cast<long>(pointer); }

}  // namespace

extern "C" {

int* __errno_location() noexcept { return &error_number; }

[[noreturn]] void _exit(int code) {
  for (;;) call(SYS_exit_group, code);
}

int execv(const char* path, char* const argv[]) noexcept {
  return static_cast<int>(call(SYS_execve, address(path), address(argv), address(environ)));
}

long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  return call(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

int open(const char* path, int flags, ...) {                // without O_CREAT: there is no mode
  return static_cast<int>(call(SYS_open, address(path), flags));
}
int close(int fd) { return static_cast<int>(call(SYS_close, fd)); }
ssize_t write(int fd, const void* bytes, size_t size) { return call(SYS_write, fd, address(bytes), static_cast<long>(size)); }
int fcntl(int fd, int command, ...) { return static_cast<int>(call(SYS_fcntl, fd, command)); }   // without a third argument
int stat(const char* path, struct stat* status) noexcept { return static_cast<int>(call(SYS_stat, address(path), address(status))); }
ssize_t readlink(const char* path, char* to, size_t size) noexcept {
  return call(SYS_readlink, address(path), address(to), static_cast<long>(size));
}
int uname(utsname* names) noexcept { return static_cast<int>(call(SYS_uname, address(names))); }
mode_t umask(mode_t mask) noexcept { return static_cast<mode_t>(call(SYS_umask, static_cast<long>(mask))); }

uid_t getuid() noexcept { return static_cast<uid_t>(call(SYS_getuid)); }
uid_t geteuid() noexcept { return static_cast<uid_t>(call(SYS_geteuid)); }
gid_t getgid() noexcept { return static_cast<gid_t>(call(SYS_getgid)); }
gid_t getegid() noexcept { return static_cast<gid_t>(call(SYS_getegid)); }
int getgroups(int size, gid_t groups[]) noexcept { return static_cast<int>(call(SYS_getgroups, size, address(groups))); }

int socket(int domain, int type, int protocol) noexcept { return static_cast<int>(call(SYS_socket, domain, type, protocol)); }
int connect(int fd, const sockaddr* peer, socklen_t size) { return static_cast<int>(call(SYS_connect, fd, address(peer), size)); }
int getsockopt(int fd, int level, int name, void* value, socklen_t* size) noexcept {
  return static_cast<int>(call(SYS_getsockopt, fd, level, name, address(value), address(size)));
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) { return call(SYS_sendmsg, fd, address(message), flags); }
ssize_t recv(int fd, void* to, size_t size, int flags) {
  return call(SYS_recvfrom, fd, address(to), static_cast<long>(size), flags);
}

void* memcpy(void* to, const void* from, size_t size) noexcept {
  void* at = to;
  asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
  return to;
}
void* memset(void* to, int byte, size_t size) noexcept {
  void* at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(byte) : "memory");
  return to;
}
size_t strlen(const char* text) noexcept {
  size_t length = 0;
  while (text[length] != '\0') ++length;
  return length;
}
int strcmp(const char* a, const char* b) noexcept {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return static_cast<unsigned char>(*a) - static_cast<unsigned char>(*b);
}
char* strcpy(char* to, const char* from) noexcept {
  memcpy(to, from, strlen(from) + 1);
  return to;
}

char* getenv(const char* name) noexcept {
  const size_t length = strlen(name);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    size_t same = 0;
    while (same < length && (*entry)[same] == name[same]) ++same;
    if (same == length && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

unsigned long getauxval(unsigned long type) noexcept {
  for (const unsigned long* pair = auxiliary; pair[0] != 0; pair += 2)
    if (pair[0] == type) return pair[1];
  error_number = 2;                                         // ENOENT, as getauxval(3) has it
  return 0;
}

// The stack as the kernel leaves it: argc, the arguments, a null, the environment, a null, the auxiliary vector.
[[noreturn]] __attribute__((used)) void begin(long* stack) {
  const int argc = static_cast<int>(stack[0]);
  char** argv = reinterpret_cast<char**>(stack + 1);
  environ = argv + argc + 1;
  char** end = environ;
  while (*end != nullptr) ++end;
  auxiliary = reinterpret_cast<unsigned long*>(end + 1);
  _exit(main(argc, argv));
}

asm(".globl _start\n"
    "_start:\n"
    "  xor %ebp, %ebp\n"
    "  mov %rsp, %rdi\n"
    "  and $-16, %rsp\n"
    "  call begin\n");

}  // extern "C"
