// CUDA's own host-side casts, for codecs_parity.py: cuda_codecs e2m1|e4m3 IN OUT. fp32 in, one byte an element out;
// prints the version of the headers.
#include <cuda.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::ifstream in(argv[2], std::ios::binary | std::ios::ate);
  std::vector<float> x(static_cast<std::size_t>(in.tellg()) / sizeof(float));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(x.data()), static_cast<std::streamsize>(x.size() * sizeof(float)));
  std::vector<unsigned char> codes;
  for (float v : x) {
    codes.push_back(std::string(argv[1]) == "e2m1" ? __nv_cvt_float_to_fp4(v, __NV_E2M1, cudaRoundNearest)
                                                   : __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3));
  }
  std::ofstream(argv[3], std::ios::binary).write(reinterpret_cast<const char*>(codes.data()),
                                                 static_cast<std::streamsize>(codes.size()));
  std::printf("%d.%d", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
  return in ? 0 : 1;
}
