// oneDNN. Only this file sees its headers: they have the names of the other oneDNN that LibTorch's folder holds.
#include <oneapi/dnnl/dnnl.hpp>
#include <omp.h>

#include <cassert>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "quant/product/multiplier.h"

namespace assay::quant::product {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type type(Unit unit) { return unit == Unit::bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

// Scratch memory of a thread: a primitive's own would be shared by all who run it.
void* scratch(std::size_t bytes) {
  constexpr std::align_val_t line{64};
  struct Buffer {
    void* data = nullptr;
    std::size_t size = 0;
    ~Buffer() { ::operator delete(data, line); }
  };
  static thread_local Buffer buffer;
  if (buffer.size < bytes) {
    ::operator delete(std::exchange(buffer.data, nullptr), line);
    buffer.data = ::operator new(bytes, line);
    buffer.size = bytes;
  }
  return buffer.data;
}

void copy(const memory& from, const memory& to) {
  dnnl::stream stream(cpu());
  dnnl::reorder(from, to).execute(stream, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  stream.wait();
}

class OneDnn final : public Multiplier {
 public:
  OneDnn(Unit unit, const void* source, std::int64_t k, std::int64_t n, bool transposed)
      : unit_(unit), k_(k), n_(n), given_({k, n}, type(unit), transposed ? Tag::ba : Tag::ab) {
    // What the library likes best for many rows. Where that is a plain layout, nothing is packed anyway, and the layout
    // it came in is as good or better (few rows, AVX2).
    const memory::desc liked = prepare(256, {{k, n}, type(unit), Tag::any}).plan.weights_desc();
    const bool plain = liked == memory::desc{{k, n}, type(unit), Tag::ab} ||
                       liked == memory::desc{{k, n}, type(unit), Tag::ba};
    weight_ = memory(plain ? given_ : liked, cpu());
    copy(memory(given_, cpu(), const_cast<void*>(source)), weight_);
  }

  void run(const void* a, std::int64_t m, float* y) const override {
    assert(m > 0);
    const Ready& ready = of(m);
    const auto pad = ready.plan.scratchpad_desc();
    static thread_local dnnl::stream stream(cpu());
    ready.primitive.execute(stream, {{DNNL_ARG_SRC, memory(ready.plan.src_desc(), cpu(), const_cast<void*>(a))},
                                     {DNNL_ARG_WEIGHTS, weight_},
                                     {DNNL_ARG_DST, memory(ready.plan.dst_desc(), cpu(), y)},
                                     {DNNL_ARG_SCRATCHPAD, memory(pad, cpu(), scratch(pad.get_size()))}});
    stream.wait();
  }
  void unpack(void* to) const override { copy(weight_, memory(given_, cpu(), to)); }
  std::string implementation() const override { return "oneDNN " + std::string(of(256).plan.impl_info_str()); }

 private:
  struct Ready {
    dnnl::matmul::primitive_desc plan;
    dnnl::matmul primitive;
  };

  Ready prepare(memory::dim m, const memory::desc& b) const {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::desc what({{m, k_}, type(unit_), Tag::ab}, b, {{m, n_}, memory::data_type::f32, Tag::ab});
    Ready made{{what, attributes, cpu()}, {}};
    made.primitive = dnnl::matmul(made.plan);
    return made;
  }

  // The library divides the work among as many threads as there are when a primitive is made.
  const Ready& of(memory::dim m) const {
    const std::lock_guard lock(mutex_);
    const std::pair key{m, omp_get_max_threads()};
    auto at = ready_.find(key);
    if (at == ready_.end()) at = ready_.emplace(key, prepare(m, weight_.get_desc())).first;
    return at->second;
  }

  Unit unit_;
  memory::dim k_, n_;
  memory::desc given_;
  memory weight_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<memory::dim, int>, Ready> ready_;  // by rows and threads
};

// Each instruction set's number has the bits of those that it contains.
bool contains(dnnl::cpu_isa isa) {
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & static_cast<int>(isa)) == static_cast<int>(isa);
}

}  // namespace

std::unique_ptr<Multiplier> onednn(Unit unit, const void* b, std::int64_t k, std::int64_t n, bool transposed) {
  assert(k > 0 && n > 0);
  return std::make_unique<OneDnn>(unit, b, k, n, transposed);
}

bool onednn_has_bf16() { return contains(dnnl::cpu_isa::avx512_core_bf16); }

std::string onednn_version() {
  const dnnl::version_t* v = dnnl::version();
  const auto isa = [] {
    switch (dnnl::get_effective_cpu_isa()) {
      case dnnl::cpu_isa::sse41: return "sse41";
      case dnnl::cpu_isa::avx: return "avx";
      case dnnl::cpu_isa::avx2: return "avx2";
      case dnnl::cpu_isa::avx2_vnni: return "avx2_vnni";
      case dnnl::cpu_isa::avx512_core: return "avx512_core";
      case dnnl::cpu_isa::avx512_core_vnni: return "avx512_core_vnni";
      case dnnl::cpu_isa::avx512_core_bf16: return "avx512_core_bf16";
      case dnnl::cpu_isa::avx512_core_amx: return "avx512_core_amx";
      default: return "another instruction set";
    }
  };
  return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch) + ", " +
         isa();
}

}  // namespace assay::quant::product
