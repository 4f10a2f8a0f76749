// The allocator for tensors on the CPU. Each step of training allocates and frees the same tensors as the step before, hundreds
// of megabytes. glibc would return this memory to the system, which clears and maps it again. If glibc is told to keep the memory,
// it scatters small objects over it, so that much more stays resident than is in use. So tensors of 64 KiB and more have their
// own range of addresses: a freed block merges with its free neighbours, and the lowest block that is large enough is used next.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/mman.h>

namespace {

constexpr size_t LEAST = 64 << 10;        // smaller tensors are the default allocator's
constexpr size_t PAGE = 4 << 10;          // what sizes are rounded up to
constexpr size_t STEP = 2 << 20;          // by which the range grows
constexpr size_t RANGE = size_t(1) << 42; // of addresses, which cost nothing
constexpr size_t KEPT = 512 << 20;        // bytes that stay resident though nobody uses them, or as many as are in use

// OutOfMemory is a bad_alloc that tells the numbers.
class OutOfMemory final : public std::bad_alloc {
public:
  OutOfMemory(size_t wanted, size_t in_use)
      : text("can't allocate memory: tried to allocate " + std::to_string(wanted) + " bytes, " + std::to_string(in_use) + " are in use") {}
  const char *what() const noexcept override { return text.c_str(); }

private:
  const std::string text;
};

class Pool final : public c10::Allocator {
public:
  // make returns null if the system refuses the addresses. There is one pool for all engines, because libtorch has one allocator.
  static Pool *make(c10::Allocator *small) {
    void *p = mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    return new Pool(small, static_cast<char *>(p));
  }

  c10::DataPtr allocate(size_t n) override {
    if (n < LEAST) return small->allocate(n);
    void *p = take((n + PAGE - 1) / PAGE * PAGE);
    return {p, p, &release, at::Device(at::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void *to, const void *from, std::size_t n) const override { default_copy_data(to, from, n); }

private:
  Pool(c10::Allocator *small, char *base) : small(small), base(base), top(base) { one = this; }

  static void release(void *p) {
    if (p >= one->base && p < one->base + RANGE)
      one->give(static_cast<char *>(p));
    else
      one->small->raw_deleter()(p);
  }

  char *take(size_t n) {
    const std::lock_guard<std::mutex> lock(mutex);
    auto at = unused.begin();
    while (at != unused.end() && at->second < n) ++at;
    if (at == unused.end()) at = grow(n);
    char *p = at->first;
    const size_t left = at->second - n;
    unused.erase(at);
    if (left > 0) unused[p + n] = left;
    used[p] = n;
    in_use += n;
    idle -= std::min(idle, n);
    return p;
  }

  // grow extends the range so that it ends in an unused part of at least n bytes.
  std::map<char *, size_t>::iterator grow(size_t n) {
    char *from = top;
    if (!unused.empty()) {
      const auto last = std::prev(unused.end());
      if (last->first + last->second == top) from = last->first;
    }
    const size_t more = (from + n - top + STEP - 1) / STEP * STEP;
    if (more > static_cast<size_t>(base + RANGE - top) || mprotect(top, more, PROT_READ | PROT_WRITE) != 0)
      throw OutOfMemory(n, in_use);
    top += more;
    unused[from] = top - from;
    return unused.find(from);
  }

  void give(char *p) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = used.find(p);
    size_t n = found->second;
    used.erase(found);
    in_use -= n;
    idle += n;
    auto next = unused.lower_bound(p);
    if (next != unused.end() && p + n == next->first) {
      n += next->second;
      next = unused.erase(next);
    }
    if (next != unused.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == p) {
        before->second += n;
        p = nullptr;
      }
    }
    if (p) unused[p] = n;
    if (idle > std::max(KEPT, in_use)) trim();
  }

  // trim returns the memory of the unused parts to the system, but keeps their addresses.
  void trim() {
    for (const auto &part : unused) madvise(part.first, part.second, MADV_DONTNEED);
    idle = 0;
  }

  static Pool *one;

  c10::Allocator *const small;
  char *const base;
  char *top; // behind the last address that was ever used
  std::mutex mutex;
  std::map<char *, size_t> unused;         // parts and their sizes, by address; no two touch
  std::unordered_map<char *, size_t> used;
  size_t in_use = 0, idle = 0;             // bytes; idle are the unused ones that may be resident
};

Pool *Pool::one = nullptr;

} // namespace

#endif

// Kernels have their own scratch memory, which glibc should keep.
void shim_keep_memory(void) {
  static std::once_flag once;
  std::call_once(once, [] {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
#endif
#ifdef __linux__
    if (Pool *pool = Pool::make(c10::GetDefaultCPUAllocator())) c10::SetCPUAllocator(pool);
#endif
  });
}
