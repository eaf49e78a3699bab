// From a call to the bodies that do it, which a `machine` runs: kernels.cu's, on a GPU or in tests on the host.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <stdexcept>

#include "quant/cuda/bodies.h"
#include "quant/cuda/device.h"
#include "quant/cuda/pack_bodies.h"
#include "quant/cuda/sum_bodies.h"

namespace assay::quant::cuda {

constexpr int block_threads = 256;  // of a CUDA block, in every kernel

// f(Typed<T>{}) for a type that is known when the program runs.
template <Type T>
struct Typed {
  static constexpr Type type = T;
};
template <class F>
void with_type(Type type, F&& f) {
  switch (type) {
    case Type::fp32: return f(Typed<Type::fp32>{});
    case Type::bf16: return f(Typed<Type::bf16>{});
    case Type::fp16: return f(Typed<Type::fp16>{});
  }
}

// With `join`, rows without a gap between them are one long row.
inline Job job_of(const Spec& spec, const Matrix& matrix, const void* in, void* out, bool join) {
  assert(matrix.rows >= 0 && matrix.cols >= 0 && matrix.stride >= matrix.cols);
  Job job{spec, in, out, matrix.rows, matrix.cols, matrix.stride, matrix.first_row * matrix.cols, matrix.cols, nullptr};
  if (join && matrix.stride == matrix.cols && matrix.rows > 0) {
    job.rows = 1;
    job.cols = job.stride = matrix.rows * matrix.cols;
  }
  return job;
}

// What `machine` runs: rows<T, B>(job, group), columns<T, B>(job), packed_columns<T, B>(job) or tiles<T>(job).
template <Type T, class Machine>
void run_on(const Machine& machine, const Job& job, int axis) {
  const int block = job.spec.block();
  if (job.spec.tiles) {
    machine.template tiles<T>(job);
  } else if (axis == 1) {
    // A warp is enough for a row of up to four blocks a lane.
    const int group = job.spec.scope != Scope::row ? 0 : job.cols <= 4 * 32 * block ? 32 : block_threads;
    if (block == 16) machine.template rows<T, 16>(job, group);
    else machine.template rows<T, 32>(job, group);
  } else if (job.codes) {
    if (block == 16) machine.template packed_columns<T, 16>(job);
    else machine.template packed_columns<T, 32>(job);
  } else {
    if (block == 16) machine.template columns<T, 16>(job);
    else machine.template columns<T, 32>(job);
  }
}

inline bool joinable(const Spec& spec, const Matrix& matrix, int axis) {
  return axis == 1 && !spec.tiles && spec.scope != Scope::row && matrix.cols % spec.block() == 0;
}

// Device::fake_quantize().
template <class Machine>
void dispatch_fake_quantize(const Spec& spec, const Matrix& matrix, const void* in, void* out, int axis,
                            const float* tensor_max, const Machine& machine) {
  require(spec, axis);
  with_type(matrix.type, [&](auto typed) {
    Job job = job_of(spec, matrix, in, out, joinable(spec, matrix, axis));
    job.tensor_max = tensor_max;
    run_on<decltype(typed)::type>(machine, job, axis);
  });
}

// Device::operand().
template <class Machine>
void dispatch_operand(const Spec& spec, const Matrix& matrix, const void* in, void* out, float* factors, const float* tensor_max,
                      const Machine& machine) {
  require(spec, 1);
  if (spec.tiles) throw std::invalid_argument("operand: blocks along rows are wanted, not tiles");
  with_type(matrix.type, [&](auto typed) {
    Job job = job_of(spec, matrix, in, out, joinable(spec, matrix, 1));
    job.tensor_max = tensor_max;
    job.factors = factors;
    run_on<decltype(typed)::type>(machine, job, 1);
  });
}

// Device::pack().
template <class Machine>
void dispatch_pack(const Spec& spec, const Matrix& matrix, const void* in, int axis, std::uint8_t* codes,
                   std::uint8_t* scales, float* row_maxima, const float* tensor_max, const Machine& machine) {
  require(spec, axis);
  if (matrix.rows == 0 || matrix.cols == 0) return;
  with_type(matrix.type, [&](auto typed) {
    Job job = job_of(spec, matrix, in, nullptr, joinable(spec, matrix, axis));
    job.tensor_max = tensor_max;
    job.codes = codes;
    job.scales = scales;
    job.row_maxima = row_maxima;
    job.code_stride = (matrix.cols + 1) / 2;
    job.scale_axis = axis;
    run_on<decltype(typed)::type>(machine, job, axis);
  });
}

// Device::hadamard(): hadamard<Inverse>(job, signs).
template <class Machine>
void dispatch_hadamard(const Matrix& matrix, const void* in, void* out, std::uint16_t signs, bool inverse,
                       const Machine& machine) {
  if (matrix.type != Type::fp32 || matrix.cols % 16 != 0)
    throw std::invalid_argument("hadamard: fp32 is wanted, and columns that are a multiple of 16");
  const Job job = job_of({}, matrix, in, out, true);
  if (inverse) machine.template hadamard<true>(job, signs);
  else machine.template hadamard<false>(job, signs);
}

// Device::errors(), into one part for each of at most `most_threads`: errors<T>(job, threads).
template <class Machine>
void dispatch_errors(const Matrix& matrix, const void* x, const void* dq, const std::uint8_t* codes, double damping,
                     std::int64_t most_threads, const Machine& machine) {
  with_type(matrix.type, [&](auto typed) {
    constexpr Type T = decltype(typed)::type;
    const ErrorJob job{x, dq, matrix.rows, matrix.cols, matrix.stride, codes, damping};
    machine.template errors<T>(job, std::min(most_threads, parts_of_errors<T>(job)));
  });
}

// Device::finite_max(), into the bits of the maximum, by at most `most_threads`: finite_max<T>(job, threads, max).
template <class Machine>
void dispatch_finite_max(const Matrix& matrix, const void* x, std::int32_t* max, std::int64_t most_threads,
                         const Machine& machine) {
  with_type(matrix.type, [&](auto typed) {
    constexpr Type T = decltype(typed)::type;
    const Job job = job_of({}, matrix, x, nullptr, true);
    machine.template finite_max<T>(job, std::min(most_threads, parts_of_finite_max<T>(job)), max);
  });
}

}  // namespace assay::quant::cuda
