// "cuda" for a LibTorch that has no CUDA: every operation is the CPU's on the memory behind its tensors.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <set>
#include <string>

#include "tests/trainer/gpu/memory.h"
#include "tests/trainer/gpu/stand_in.h"

namespace assay::test {
namespace {

using c10::IValue;
using torch::jit::Stack;

const c10::Device gpu_device(c10::DeviceType::CUDA, 0);

// For which the host waits on CUDA: they read how large their result is, or what it is.
const std::set<std::string> waiting = {"aten::_local_scalar_dense", "aten::nonzero",    "aten::masked_select", "aten::equal",
                                       "aten::_unique2",            "aten::unique_dim", "aten::bincount",      "aten::repeat_interleave"};
// Refused in deterministic mode: what calls alertNotDeterministic() in libtorch_cuda.so of 2.11.0, pooling, padding and pictures
// apart.
const std::set<std::string> unordered = {"aten::scatter",      "aten::scatter_",      "aten::scatter_reduce", "aten::scatter_reduce_",
                                         "aten::index_reduce", "aten::index_reduce_", "aten::histc",          "aten::bincount",
                                         "aten::median",       "aten::nanmedian"};

class Allocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = GpuMemory::instance().allocate(bytes);
    return {memory, memory, &release, gpu_device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    const GpuMemory& memory = GpuMemory::instance();
    std::memcpy(memory.behind(to), memory.behind(from), bytes);
  }

 private:
  static void release(void* memory) { GpuMemory::instance().release(memory); }
};

Allocator allocator;

// The host's memory that a copy may go to beside it.
class Pinned : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = ::operator new(std::max<std::size_t>(bytes, 1));
    const std::scoped_lock lock(mutex_);
    places_.insert(memory);
    return {memory, memory, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  static bool holds(const void* memory) {
    const std::scoped_lock lock(mutex_);
    return places_.count(memory) == 1;
  }

 private:
  static void release(void* memory) {
    {
      const std::scoped_lock lock(mutex_);
      places_.erase(memory);
    }
    ::operator delete(memory);
  }
  static inline std::mutex mutex_;
  static inline std::set<const void*> places_;
};

Pinned pinned_allocator;
std::function<void(std::function<void()>)> beside;

struct Guard : c10::impl::DeviceGuardImplInterface {
  explicit Guard(c10::DeviceType) {}
  Guard() = default;
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return gpu_device; }
  c10::Device getDevice() const override { return gpu_device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::UNSAFE, device, stream); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::UNSAFE, device, 0); }
  c10::Stream exchangeStream(c10::Stream next) const override {
    const c10::Stream before = getStream(next.device());
    stream = next.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream) const override { return nullptr; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override { host_waits("a synchronization"); }
  void synchronizeStream(const c10::Stream&) const override { host_waits("a synchronization"); }
  static thread_local c10::StreamId stream;
};
thread_local c10::StreamId Guard::stream = 0;

// Of numbers drawn on the device: the CPU's own, under another name.
class Generator : public c10::GeneratorImpl {
 public:
  explicit Generator(at::Generator on_cpu)
      : GeneratorImpl(gpu_device, c10::DispatchKeySet(c10::DispatchKey::CUDA)), cpu(std::move(on_cpu)) {}
  void set_current_seed(std::uint64_t seed) override { cpu.set_current_seed(seed); }
  void set_offset(std::uint64_t offset) override { cpu.set_offset(offset); }
  std::uint64_t get_offset() const override { return cpu.get_offset(); }
  std::uint64_t current_seed() const override { return cpu.current_seed(); }
  std::uint64_t seed() override { return cpu.seed(); }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return cpu.unsafeGetGeneratorImpl()->get_state(); }
  at::Generator cpu;

 private:
  Generator* clone_impl() const override { return new Generator(cpu.clone()); }
};

// The same numbers, as the CPU's operations may have them.
at::Tensor behind(const at::Tensor& x) {
  TORCH_CHECK(!x.is_neg() && !x.is_conj(), "stand-in: a tensor that is yet to be negated");
  return at::from_blob(x.numel() ? GpuMemory::instance().behind(x.data_ptr()) : nullptr, x.sizes(), x.strides(),
                       x.options().device(at::kCPU));
}

at::Tensor as_strided_on_device(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype) {
  return at::detail::empty_strided_generic(sizes, strides, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype);
}

// What was asked of the device, one operation a line, into the file that $ASSAY_STAND_IN_OPERATIONS names: for tests/parity/model/.
void note(const c10::OperatorName& op) {
  static const char* const file = std::getenv("ASSAY_STAND_IN_OPERATIONS");
  if (!file) return;
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::scoped_lock lock(mutex);
  if (const std::string name = c10::toString(op); seen.insert(name).second) std::ofstream(file, std::ios::app) << name << '\n';
}

class Call {
 public:
  Call(const c10::OperatorHandle& op, Stack* stack) : op_(op), name_(op.schema().name()), stack_(*stack) {
    const std::size_t n = op.schema().arguments().size();
    given_.assign(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
    torch::jit::drop(stack_, n);
  }

  void run() {
    note(op_.operator_name());
    if (waiting.count(name_)) host_waits(name_.c_str());
    for (std::size_t i = 0; i < given_.size(); ++i) mapped_.push_back(mapped(given_[i], i));
    if (at::globalContext().deterministicAlgorithms() && unordered.count(name_) && floating_)
      TORCH_CHECK(false, name_, " does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'");
    std::vector<at::Tensor> made;  // results that are not given tensors, on the device
    const Stack results = compute(op_, mapped_);
    for (const auto& [i, out] : resized_) {
      const at::Tensor given = given_[i].toTensor();
      given.resize_(out.sizes());
      mapped_[i] = behind(given);
      mapped_[i].toTensor().copy_(out);
    }
    const auto& returns = op_.schema().returns();
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (const auto* alias = returns[i].alias_info()) {
        TORCH_CHECK(alias->isWrite(), "stand-in: ", name_, " returns a view");
        stack_.push_back(given_[written(*alias)]);
      } else if (results[i].isTensor()) {
        stack_.push_back(moved(results[i].toTensor(), made));
      } else if (results[i].isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& x : results[i].toTensorVector()) list.push_back(moved(x, made));
        stack_.push_back(std::move(list));
      } else {
        stack_.push_back(results[i]);
      }
    }
    std::vector<at::Tensor> places;
    for (const at::Tensor& x : made) places.push_back(behind(x));
    at_replay([op = op_, mapped = mapped_, places] {
      std::size_t next = 0;
      for (const IValue& result : compute(op, mapped)) {
        if (result.isTensor() && next < places.size() && !same(result.toTensor(), mapped)) places[next++].copy_(result.toTensor());
        else if (result.isTensorList())
          for (const at::Tensor& x : result.toTensorVector()) places[next++].copy_(x);
      }
    });
  }

 private:
  static Stack compute(const c10::OperatorHandle& op, const std::vector<IValue>& arguments) {
    Stack stack = arguments;
    const at::AutoDispatchBelowADInplaceOrView guard;
    op.callBoxed(stack);
    return stack;
  }

  static bool same(const at::Tensor& result, const std::vector<IValue>& arguments) {
    for (const IValue& a : arguments)
      if (a.isTensor() && a.toTensor().is_same(result)) return true;
    return false;
  }

  at::Tensor mapped(const at::Tensor& x) {
    if (!x.defined()) return x;
    floating_ = floating_ || x.is_floating_point();
    if (x.is_cuda()) return behind(x);
    TORCH_CHECK(x.dim() == 0, name_, ": Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!");
    return x;
  }

  IValue mapped(const IValue& value, std::size_t i) {
    if (value.isTensor()) {
      const at::Tensor& x = value.toTensor();
      if (op_.schema().arguments()[i].is_out() && x.defined() && x.is_cuda() && x.numel() == 0) {
        resized_.emplace_back(i, at::empty({0}, x.options().device(at::kCPU)));
        return resized_.back().second;
      }
      if (const auto* alias = op_.schema().arguments()[i].alias_info(); alias && alias->isWrite() && x.defined() && x.is_cuda())
        before_write(x.data_ptr());
      return mapped(x);
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& x : value.toTensorVector()) list.push_back(mapped(x));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& x : value.toOptionalTensorVector()) {
        if (x && x->defined() && x->scalar_type() == at::kBool) host_waits("an index of truth values");
        list.push_back(x ? std::optional<at::Tensor>(mapped(*x)) : std::nullopt);
      }
      return list;
    }
    if (value.isGenerator()) {
      auto* generator = dynamic_cast<Generator*>(value.toGenerator().unsafeGetGeneratorImpl());
      TORCH_CHECK(generator, name_, ": Expected a 'cuda' device type for generator but found 'cpu'");
      return generator->cpu;
    }
    if (value.isDevice()) return c10::Device(c10::DeviceType::CPU);
    return value;
  }

  at::Tensor moved(const at::Tensor& x, std::vector<at::Tensor>& made) {
    if (!x.defined()) return x;
    const at::Tensor y = as_strided_on_device(x.sizes(), x.strides(), x.scalar_type());
    behind(y).copy_(x);
    made.push_back(y);
    return y;
  }

  std::size_t written(const c10::AliasInfo& alias) const {
    const auto& arguments = op_.schema().arguments();
    for (std::size_t i = 0; i < arguments.size(); ++i)
      if (const auto* own = arguments[i].alias_info(); own && *own == alias) return i;
    TORCH_CHECK(false, "stand-in: ", name_, " returns what it was not given");
  }

  c10::OperatorHandle op_;
  std::string name_;
  Stack& stack_;
  std::vector<IValue> given_, mapped_;
  std::vector<std::pair<std::size_t, at::Tensor>> resized_;
  bool floating_ = false;
};

void fallback(const c10::OperatorHandle& op, Stack* stack) { Call(op, stack).run(); }

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
                 std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef strides, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return as_strided_on_device(size, strides, c10::dtype_or_default(dtype));
}

const at::Tensor& resize(const at::Tensor& x, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = x.unsafeGetTensorImpl();
  std::size_t n = 1;
  for (const std::int64_t s : size) n *= static_cast<std::size_t>(s);
  const std::size_t bytes = (n + static_cast<std::size_t>(impl->storage_offset())) * x.itemsize();
  if (bytes > x.storage().nbytes()) {
    c10::DataPtr memory = allocator.allocate(bytes);
    if (const std::size_t old = x.storage().nbytes()) allocator.copy_data(memory.get(), x.storage().data(), old);
    x.storage().set_data_ptr_noswap(std::move(memory));
    x.storage().set_nbytes(bytes);
  }
  impl->set_sizes_contiguous(size);
  return x;
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  TORCH_CHECK(to.is_cuda() || from.is_cuda());
  if (!to.is_cuda() && non_blocking && beside && Pinned::holds(to.storage().data())) {
    beside([to, from = behind(from)] { at::Tensor(to).copy_(from); });
  } else if (!to.is_cuda()) {
    host_waits("a copy to the host");
    to.copy_(behind(from));
  } else if (!from.is_cuda()) {
    host_waits("a copy from the host");
    behind(to).copy_(from);
  } else {
    before_write(to.data_ptr());
    on_stand_in([a = behind(to), b = behind(from)] { at::Tensor(a).copy_(b); });
  }
  return to;
}

at::Tensor mm_dtype(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && dtype == at::kFloat, "mm: only to float32, of two matrices of one dtype");
  return at::mm(a.to(dtype), b.to(dtype));
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("resize_", resize);
  library.impl("copy_", copy);
  library.impl("mm.dtype", mm_dtype);
}

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void* memory) const override { return Pinned::holds(memory); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  at::Device getDeviceFromPtr(void*) const override { return gpu_device; }
  at::DeviceIndex deviceCount() const override { return 1; }
  at::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(at::DeviceIndex) const override {
    static const auto generator = at::make_generator<Generator>(at::detail::createCPUGenerator());
    return generator;
  }
};

[[maybe_unused]] const bool registered = [] {
  c10::SetAllocator(c10::DeviceType::CUDA, &allocator);
  return true;
}();
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

}  // namespace

void copies_beside_the_host(std::function<void(std::function<void()>)> put) { beside = std::move(put); }

}  // namespace assay::test

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, assay::test::Hooks)
}  // namespace at
